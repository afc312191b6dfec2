# SPDX-License-Identifier: Apache-2.0
"""Pictures and labels on their way to batches."""
