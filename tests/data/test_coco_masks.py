# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unified.contracts.config import AugmentConfig, DataConfig
from unified.data.formats.coco_masks import compact, encoded
from unified.data.mixing import Mixture, open_mixture

SIZE = (40, 60)


def decoded(text: str) -> np.ndarray:
    return coco_mask.decode({"size": list(SIZE), "counts": text.encode()}).astype(bool)


def square() -> np.ndarray:
    found = np.zeros(SIZE, dtype=bool)
    found[10:30, 20:50] = True
    return found


def test_all_kinds_of_segmentation_become_the_same_mask() -> None:
    ring = [20, 10, 50, 10, 50, 30, 20, 30]
    packed = coco_mask.encode(np.asfortranarray(square().astype(np.uint8)))["counts"].decode()
    flat = square().T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    for value in ([ring], {"size": list(SIZE), "counts": packed}, {"size": list(SIZE), "counts": runs}):
        assert np.array_equal(decoded(encoded(compact(value), SIZE)), square())
    halves = [[20, 10, 35, 10, 35, 30, 20, 30], [35, 10, 50, 10, 50, 30, 35, 30]]
    assert np.array_equal(decoded(encoded(compact(halves), SIZE)), square())


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [["a"] * 6], "text", 7, {"counts": [10]}, {}),
        *([[1e30, 0, 5, 5, 9, 9]], [[float("nan"), 0, 5, 5, 9, 9]], {"counts": [-1, 2401]}, {"counts": "0"}),
        *({"counts": "zzzz"}, {"counts": "`" * 40}, {"counts": None}, {"counts": "\x00é"}),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_none(value: Any) -> None:
    assert encoded(compact(value), SIZE) == ""


def test_random_masks_survive() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random(SIZE) < rng.random()
        text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert encoded(compact({"size": list(SIZE), "counts": text}), SIZE) == text
        assert encoded(compact({"size": list(SIZE), "counts": text}), (40, 61)) == ""  # of another picture


def opened(folder: Path, file: str, images: str, **options: Any) -> Mixture:
    split = {"images": images, "annotations": file}
    dataset = {"path": str(folder), "train": split, "labelled": {"det": "all"}, "options": options}
    config = DataConfig.model_validate({"datasets": {"x": dataset}})
    return open_mixture(config, {"det": "boxes"}, split="train", size=64, base=folder)


def test_objects_are_pasted_from_a_coco_file_only_with_its_masks(tmp_path: Path) -> None:
    images, objects = [], []
    for k in range(3):
        picture = np.zeros((*SIZE, 3), dtype=np.uint8)
        picture[square()] = 90 + 50 * k
        Image.fromarray(picture).save(tmp_path / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]})
        ring = [20, 10, 50, 10, 50, 30, 20, 30]
        objects.append({"id": k, "image_id": k, "category_id": 1, "bbox": [20, 10, 30, 20], "segmentation": [ring]})
    whole = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "all.json").write_text(json.dumps(whole))
    augment = AugmentConfig(copy_paste=1.0, scale=0.3, translate=0.3, fliplr=0.0)
    several = {}
    for masks in (False, True):
        mixture = opened(tmp_path, "all.json", ".", masks=masks)
        assert mixture.sources["x"].masks == masks == (not mixture.remarks([augment]))
        found = [mixture.sample("x", k, epoch, augment)[0] for k in range(3) for epoch in range(10)]
        several[masks] = sum(len(sample.annotations) > 1 for sample in found)
        if masks:
            for sample in found:
                shown = torch.unique(sample.image[0][sample.annotations.extras["masks"].draw().any(dim=0)])
                assert len(shown) > 0
    assert several[False] == 0 < several[True]


def test_masks_of_coco_are_those_of_its_own_reader(shared: Path) -> None:
    folder, file = shared / "data" / "coco-mini", "annotations/instances_val2017.json"
    source = opened(folder, file, "val2017", masks=True).sources["x"]
    truth = COCO(str(folder / file))
    checked = 0
    for index in range(0, len(source), 12):
        found = source.annotations(index, source.size(index))  # type: ignore[attr-defined]
        records = truth.loadAnns(truth.getAnnIds(imgIds=[int(source.image_id(index))]))
        theirs = [truth.annToMask(record) for record in records if record["segmentation"]]
        masks = found.extras["masks"]
        assert sum(stored is None for stored in masks.stored) == len(records) - len(theirs)
        for mask, stored in zip(masks.draw().numpy(), masks.stored, strict=True):
            assert stored is None or any(np.array_equal(mask, other) for other in theirs)
            checked += stored is not None
    assert checked > 100
