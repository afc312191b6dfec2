# SPDX-License-Identifier: Apache-2.0
"""Who or what a thing is: vectors in which the same thing lies close and another far, for boxes and for images."""

from .task import EmbeddingTask

__all__ = ["EmbeddingTask"]
