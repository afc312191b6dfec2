# SPDX-License-Identifier: Apache-2.0
"""Which way objects point: a task and a head for Unified."""
