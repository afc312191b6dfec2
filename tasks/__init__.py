# SPDX-License-Identifier: Apache-2.0
"""The built-in tasks: a folder a task."""
