# SPDX-License-Identifier: Apache-2.0
"""The built-in heads: a file a head."""
