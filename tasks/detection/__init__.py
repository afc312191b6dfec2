# SPDX-License-Identifier: Apache-2.0
"""Object detection: boxes with class names."""

from .task import DetectionTask

__all__ = ["DetectionTask"]
