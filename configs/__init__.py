# SPDX-License-Identifier: Apache-2.0
"""Model, recipe and data files that come with the package: one file, one thing."""
