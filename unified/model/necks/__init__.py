# SPDX-License-Identifier: Apache-2.0
"""Necks: levels that see each other."""
