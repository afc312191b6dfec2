# SPDX-License-Identifier: Apache-2.0
"""`shapes`: the embedded data set, rendered from a seed.

Cluttered, lit, textured scenes with twelve classes, 96 recurring identities, forty recurring grounds, scene tags,
masks, key points and captions, at three levels of difficulty.  Nothing is downloaded.
"""

from .background import SCENES, Ground
from .export import KEYPOINTS, write_coco
from .identity import IDENTITIES, Identity
from .level import LEVELS, Level
from .outline import CLASSES
from .scene import ATTRIBUTES, SPLITS, VERSION, Rle, Scene, render
from .store import ShapesStore

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "IDENTITIES",
    "KEYPOINTS",
    "LEVELS",
    "SCENES",
    "SPLITS",
    "VERSION",
    "Ground",
    "Identity",
    "Level",
    "Rle",
    "Scene",
    "ShapesStore",
    "render",
    "write_coco",
]
