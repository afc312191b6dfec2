# SPDX-License-Identifier: Apache-2.0
"""Dataset formats: what files say, as sources."""
