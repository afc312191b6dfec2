# SPDX-License-Identifier: Apache-2.0
"""Writing shapes as an ordinary COCO folder, so that the folder readers can be tried on known data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .background import SCENES
from .identity import IDENTITIES
from .outline import CLASSES
from .scene import ATTRIBUTES, Rle, Scene, render

KEYPOINTS: tuple[str, ...] = ("centre", "head")
"""Names of the key points, in order."""


def write_coco(
    out: Path, *, train: int = 1000, val: int = 200, seed: int = 0, level: str = "medium", size: int = 160
) -> None:
    """Render `train` and `val` scenes into `out` in COCO's layout.

    Pictures go to `train/000000.png` and so on (PNG, so that they equal `render`'s pixels), annotations to
    `annotations/instances_{split}.json` and `annotations/captions_{split}.json`.  Every image carries `tags` (the
    attributes that hold), one boolean field per attribute, and `scene` (the ground's name); every annotation carries
    `identity`.  Boxes are x, y, width, height in pixels; masks are compressed RLE of the visible part.  A split of
    0 scenes is left out.  Raises ValueError when `out` exists and is not an empty folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: choose a new folder for the export")
    (out / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        if count:
            _write_split(out, split, count, seed=seed, level=level, size=size)


def _write_split(out: Path, split: str, count: int, *, seed: int, level: str, size: int) -> None:
    (out / split).mkdir()
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for index in range(count):
        scene = render(index, split=split, seed=seed, level=level, size=size)
        image = _image(index + 1, f"{index:06d}.png", scene)
        Image.fromarray(scene.image).save(out / split / image["file_name"], compress_level=1)
        images.append(image)
        for k in range(len(scene.labels)):
            objects.append({"id": len(objects) + 1, "image_id": image["id"], **_annotation(scene, k)})
        for caption in scene.captions:
            texts.append({"id": len(texts) + 1, "image_id": image["id"], "caption": caption})
    info = {"description": f"Unified shapes, level {level}, seed {seed}, {split}", "version": "1"}
    licenses = [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    head = {"info": info, "licenses": licenses, "images": images}
    folder = out / "annotations"
    _write_json(folder / f"instances_{split}.json", {**head, "annotations": objects, "categories": _categories()})
    _write_json(folder / f"captions_{split}.json", {**head, "annotations": texts})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _categories() -> list[dict[str, Any]]:
    extra = {"supercategory": "shape", "keypoints": list(KEYPOINTS), "skeleton": [[1, 2]]}
    return [{"id": label + 1, "name": name, **extra} for label, name in enumerate(CLASSES)]


def _image(number: int, file_name: str, scene: Scene) -> dict[str, Any]:
    """One entry of `images`."""
    height, width = scene.image.shape[:2]
    flags = {name: bool(holds) for name, holds in zip(ATTRIBUTES, scene.attributes, strict=True)}
    shape = {"id": number, "file_name": file_name, "width": width, "height": height, "license": 1}
    return {**shape, "scene": SCENES[scene.scene].phrase, "tags": list(scene.tags), **flags}


def _annotation(scene: Scene, k: int) -> dict[str, Any]:
    """Object `k` of a scene, without its numbers."""
    x0, y0, x1, y1 = (float(c) for c in scene.boxes_xyxy[k])
    rle: Rle = scene.masks[k]
    points = scene.keypoints_xyv[k]
    return {
        "category_id": int(scene.labels[k]) + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(coco_mask.area(rle)),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
        "keypoints": [round(float(c), 2) for c in points.reshape(-1)],
        "num_keypoints": int(np.count_nonzero(points[:, 2])),
        "identity": IDENTITIES[int(scene.identities[k])].name,
    }
