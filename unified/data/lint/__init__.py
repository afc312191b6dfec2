# SPDX-License-Identifier: Apache-2.0
"""Every fault of a data set in one pass, named before the first step."""
