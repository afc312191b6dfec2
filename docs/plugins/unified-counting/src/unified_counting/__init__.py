# SPDX-License-Identifier: Apache-2.0
"""Counting objects by density maps: a task and a head for Unified."""
