# SPDX-License-Identifier: Apache-2.0
"""What a picture shows, in words: image vectors in the space of a frozen sentence encoder, so that texts find them."""

from .task import CaptionTask

__all__ = ["CaptionTask"]
