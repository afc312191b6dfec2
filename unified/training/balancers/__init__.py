# SPDX-License-Identifier: Apache-2.0
"""Ways to make one step of several tasks' losses, beside the plain weighted sum."""
