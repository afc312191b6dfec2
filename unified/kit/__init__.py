# SPDX-License-Identifier: Apache-2.0
"""Beginnings of plug-ins."""
