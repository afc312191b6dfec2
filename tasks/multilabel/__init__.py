# SPDX-License-Identifier: Apache-2.0
"""Which tags hold for an image: any number of them at once."""

from .task import MultilabelTask

__all__ = ["MultilabelTask"]
