# SPDX-License-Identifier: Apache-2.0
"""Implicit knowledge: what z is, how it meets the features, where it stands."""
