# SPDX-License-Identifier: Apache-2.0
"""One small dataset written in every format, so that tests can compare what the readers make of it."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")
TAGS = ("dry", "wet")


@dataclass(frozen=True)
class Picture:
    name: str
    width: int
    height: int
    boxes: tuple[tuple[str, int, int, int, int, bool], ...] = ()  # class, corners in whole pixels, difficult
    tags: tuple[str, ...] | None = None
    identity: str | None = None
    absent: tuple[str, ...] = field(default=())  # tags, and classes, verified to be absent


PICTURES = (
    Picture("a", 40, 30, (("dog", 0, 0, 12, 20, False), ("owl", 20, 5, 40, 30, True)), ("wet",), "left", ("cat",)),
    Picture("b", 20, 50, (("cat", 3, 4, 5, 9, False),), ("dry", "wet"), "right", ("dog", "owl")),
    Picture("c", 64, 48, (), (), None, ("cat", "dog", "owl")),
    Picture("d", 33, 21, (("dog", 1, 1, 33, 21, False), ("dog", 0, 0, 1, 1, False)), None, "left", ("owl",)),
)


def draw(folder: Path, pictures: tuple[Picture, ...] = PICTURES, suffix: str = ".png") -> None:
    """Pictures of noise that no two have alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        rng = np.random.default_rng(sum(map(ord, picture.name)))
        pixels = rng.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{picture.name}{suffix}")


def coco(root: Path, pictures: tuple[Picture, ...] = PICTURES, ids: tuple[Any, ...] = (90, 3, "o")) -> dict[str, Any]:
    draw(root / "images", pictures)
    images, annotations = [], []
    for k, picture in enumerate(pictures):
        extra: dict[str, Any] = {} if picture.tags is None else {"weather": list(picture.tags)}
        extra |= {} if picture.identity is None else {"place": picture.identity}
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": k + 5, "file_name": f"{picture.name}.png", **size, **extra})
        for name, x0, y0, x1, y1, difficult in picture.boxes:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": ids[CLASSES.index(name)]}
            annotations.append({"id": len(annotations) + 1, "image_id": k + 5, **box, "ignore": int(difficult)})
    categories = [{"id": ident, "name": name} for ident, name in zip(ids, CLASSES, strict=True)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(document))
    return {"format": "coco", "train": {"images": "images", "annotations": "train.json"}}


def voc(root: Path, pictures: tuple[Picture, ...] = PICTURES) -> dict[str, Any]:
    draw(root / "JPEGImages", pictures)
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for picture in pictures:
        objects = "".join(
            f"<object><name>{name}</name><pose>Left</pose><difficult>{int(difficult)}</difficult>"
            f"<bndbox><xmax>{x1}</xmax><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><ymax>{y1}</ymax></bndbox></object>"
            for name, x0, y0, x1, y1, difficult in picture.boxes
        )
        size = f"<size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{picture.name}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{picture.name}.xml").write_text(text)
    names = "".join(f"{picture.name}\n" for picture in pictures)
    (root / "ImageSets" / "Main" / "train.txt").write_text(names)
    return {"format": "voc", "train": {"images": "JPEGImages", "annotations": "ImageSets/Main/train.txt"}}


def yolo(root: Path, pictures: tuple[Picture, ...] = PICTURES) -> dict[str, Any]:
    draw(root / "images" / "train", pictures)
    (root / "labels" / "train").mkdir(parents=True)
    for picture in pictures:
        lines = []
        for name, x0, y0, x1, y1, _ in picture.boxes:
            centre = ((x0 + x1) / 2 / picture.width, (y0 + y1) / 2 / picture.height)
            extent = ((x1 - x0) / picture.width, (y1 - y0) / picture.height)
            lines.append(f"{CLASSES.index(name)} {centre[0]:.9f} {centre[1]:.9f} {extent[0]:.9f} {extent[1]:.9f}\n")
        (root / "labels" / "train" / f"{picture.name}.txt").write_text("".join(lines))
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\ndownload: touch gone\nnames:\n{names}")
    return {"format": "yolo", "train": {"images": "images/train"}}


def sheet(root: Path, pictures: tuple[Picture, ...] = PICTURES) -> dict[str, Any]:
    draw(root / "images", pictures)
    with (root / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "xmin", "ymin", "xmax", "ymax", "weather", "place"])
        for picture in pictures:
            tags = "" if picture.tags is None else json.dumps([]) if not picture.tags else "|".join(picture.tags)
            last = [tags, picture.identity or ""]
            boxes = [[name, *corners] for name, *corners, _ in picture.boxes] or [["", "", "", "", ""]]
            rows.writerows([f"{picture.name}.png", *box, *last] for box in boxes)
    return {"format": "csv", "train": {"images": "images", "annotations": "train.csv"}}


def openimages(root: Path, pictures: tuple[Picture, ...] = PICTURES) -> dict[str, Any]:
    draw(root / "train", pictures)
    with (root / "train-annotations-bbox.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"])
        for picture in pictures:
            for name, x0, y0, x1, y1, difficult in picture.boxes:
                shares = [x0 / picture.width, x1 / picture.width, y0 / picture.height, y1 / picture.height]
                rows.writerow([picture.name, "xclick", f"/m/{name}", 1, *shares, int(difficult)])
    with (root / "train-human-imagelabels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageID", "Source", "LabelName", "Confidence"])
        for picture in pictures:
            said = {name: 1 for name, *_ in picture.boxes} | dict.fromkeys(picture.absent, 0)
            rows.writerows([picture.name, "verification", f"/m/{name}", sure] for name, sure in said.items())
        rows.writerow(["b", "machine", "/m/dog", 0.7])
    (root / "class-descriptions.csv").write_text("".join(f"/m/{name},{name}\n" for name in CLASSES))
    files = {"annotations": "train-annotations-bbox.csv", "labels": "train-human-imagelabels.csv"}
    options = {"classes": "class-descriptions.csv"}
    return {"format": "openimages", "train": {"images": "train", **files}, "options": options}
