# SPDX-License-Identifier: Apache-2.0
"""Weights that others published: YOLOR's and Scaled-YOLOv4's files, read without running anything in them."""
