# SPDX-License-Identifier: Apache-2.0
"""A small COCO file without a fault, and its pictures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("dog", "cat", "owl", "traffic light", "wine glass")
SIZES = ((64, 48), (48, 64), (80, 60), (61, 67), (96, 32), (50, 50))
Document = dict[str, Any]


def valid(seed: int, folder: Path | None = None) -> Document:
    """A file without a fault: sparse and textual ids, crowds, outlines, key points, an image without boxes."""
    rng = random.Random(seed)
    ids: list[Any] = [*rng.sample(range(1, 1000), len(SIZES) - 1), f"img-{seed}"]
    images = [
        {"id": ident, "file_name": f"{k}.png", "width": w, "height": h}
        for k, (ident, (w, h)) in enumerate(zip(ids, SIZES, strict=True))
    ]
    labels = rng.sample(range(1, 200), len(NAMES))
    categories = [{"id": ident, "name": name} for ident, name in zip(labels, NAMES, strict=True)]
    annotations = [_annotation(rng, k, images, labels) for k in range(12)]
    if folder is not None:
        folder.mkdir(exist_ok=True)
        for k, size in enumerate(SIZES):
            Image.fromarray(np.full((size[1], size[0], 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    return {"info": {"seed": seed}, "images": images, "categories": categories, "annotations": annotations}


def _annotation(rng: random.Random, k: int, images: list[Document], labels: list[int]) -> Document:
    image = images[k % (len(images) - 1)]
    width, height = rng.uniform(4, 12), rng.uniform(4, 12)
    x, y = rng.uniform(0, image["width"] - width), rng.uniform(0, image["height"] - height)
    box = [round(v, 2) for v in (x, y, width, height)]
    corner = [box[0] + 1, box[1] + 1, box[0] + 3, box[1] + 1, box[0] + 3, box[1] + 3]
    record = {"id": 100 + k, "image_id": image["id"], "category_id": labels[k % len(labels)], "bbox": box}
    record |= {"area": round(box[2] * box[3], 2), "iscrowd": int(k == 7), "segmentation": [corner]}
    return record | ({"keypoints": [box[0], box[1], 2, 0, 0, 0], "num_keypoints": 1} if k % 3 == 0 else {})
