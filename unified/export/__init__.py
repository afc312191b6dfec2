# SPDX-License-Identifier: Apache-2.0
"""Networks as files that other programs run, and those files behind the same door as a checkpoint."""
