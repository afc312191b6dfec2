# SPDX-License-Identifier: Apache-2.0
"""Training: from a configuration to a run folder."""
