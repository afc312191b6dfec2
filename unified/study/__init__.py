# SPDX-License-Identifier: Apache-2.0
"""Comparisons that hold: grids of short trainings over seeds, matched in data, trunk and budget, and their tables."""
