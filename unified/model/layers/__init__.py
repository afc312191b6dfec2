# SPDX-License-Identifier: Apache-2.0
"""Blocks that trunks, necks and heads are made of."""
