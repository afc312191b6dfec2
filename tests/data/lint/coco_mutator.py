# SPDX-License-Identifier: Apache-2.0
"""A valid COCO file, and ways to spoil it: each plants one known fault and says which line must name it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coco_text import TEXT_MUTATIONS
from coco_truth import NAMES, SIZES, Document, valid

Json = Any


@dataclass(frozen=True)
class Planted:
    """A spoilt file and what was done to it."""

    data: bytes
    kind: str  # the mutation
    fault: str  # what the linter must call it
    record: str  # the place it must name: the start of annotations[3], or '' for the whole file


LISTS = ("images", "categories", "annotations")
Spoil = Callable[[Document, random.Random], tuple[str, str]]
MUTATIONS: dict[str, Spoil] = {}


def mutation(function: Spoil) -> Spoil:
    """Registers a mutation by its name."""
    return MUTATIONS.setdefault(function.__name__, function)


def plant(seed: int) -> Planted:
    """The ``seed``-th spoilt file. Kinds take turns, everything else is drawn."""
    rng = random.Random(seed)
    document = valid(seed)
    kinds = [*MUTATIONS, *TEXT_MUTATIONS]
    kind = kinds[seed % len(kinds)]
    if kind in MUTATIONS:
        fault, record = MUTATIONS[kind](document, rng)
        return Planted(json.dumps(document).encode("utf-8", "surrogatepass"), kind, fault, record)
    data, fault, record = TEXT_MUTATIONS[kind](json.dumps(document).encode(), rng)
    return Planted(data, kind, fault, record)


def some(document: Document, kind: str, rng: random.Random) -> tuple[Document, str]:
    """One record of a list and its place."""
    return document[kind][k := rng.randrange(len(document[kind]))], f"{kind}[{k}]"


def field(kind: str, key: str, fault: str, *values: Json) -> Spoil:
    """A mutation that writes one of ``values``; without any, it takes the field away."""

    def spoil(document: Document, rng: random.Random) -> tuple[str, str]:
        record, place = some(document, kind, rng)
        if values:
            record[key] = copy.deepcopy(rng.choice(values))
        else:
            del record[key]
        return fault, place

    return spoil


NAN, INF = float("nan"), float("inf")
ODD_IDS: tuple[Json, ...] = (None, True, 1.5, [1], {"a": 1}, NAN)
MUTATIONS |= {
    "image_id_gone": field("images", "id", "image-id-missing"),
    "image_id_odd": field("images", "id", "image-id-type", *ODD_IDS[1:]),
    "file_name_gone": field("images", "file_name", "file-name-missing"),
    "file_name_empty": field("images", "file_name", "file-name-missing", "", None),
    "file_name_odd": field("images", "file_name", "file-name-type", 7, ["a.png"], {"a": 1}, 1.5, True),
    "file_name_climbs": field(
        "images",
        "file_name",
        "file-name-hostile",
        "../0.png",
        "/etc/passwd",
        "a/../../0.png",
        "..",
        "0.png\0",
        "\ud800.png",
        "x" * 300,
    ),
    "size_gone": field("images", "width", "size-missing"),
    "size_odd": field("images", "height", "size-impossible", 0, -3, "60", [60], NAN, INF, True, 10**12, 1e300),
    "category_id_gone": field("categories", "id", "category-id-missing"),
    "category_id_odd": field("categories", "id", "category-id-type", *ODD_IDS[1:]),
    "category_name_gone": field("categories", "name", "category-name-missing"),
    "category_name_empty": field("categories", "name", "category-name-missing", "", None, "  "),
    "category_name_odd": field("categories", "name", "category-name-type", ["dog"], {"a": 1}, 1.5, True),
    "category_name_spaces": field("categories", "name", "category-name-spaces", " newt", "newt\n", "\tnewt "),
    "annotation_id_gone": field("annotations", "id", "annotation-id-missing"),
    "annotation_id_odd": field("annotations", "id", "annotation-id-type", *ODD_IDS[1:]),
    "image_unknown": field("annotations", "image_id", "image-unknown", 5000, -1, "nobody", 10**30),
    "image_pointer_odd": field("annotations", "image_id", "image-unknown", *ODD_IDS),
    "image_pointer_gone": field("annotations", "image_id", "image-unknown"),
    "category_unknown": field("annotations", "category_id", "category-unknown", 5000, 0, -1, "nobody", 10**30),
    "category_pointer_odd": field("annotations", "category_id", "category-unknown", *ODD_IDS),
    "category_pointer_gone": field("annotations", "category_id", "category-unknown"),
    "box_gone": field("annotations", "bbox", "box-missing"),
    "box_null": field("annotations", "bbox", "box-missing", None),
    "box_odd": field(
        "annotations",
        "bbox",
        "box-type",
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        {"x": 1},
        "1 2 3 4",
        7,
        [[1, 2, 3, 4]],
        [1, 2, 3, None],
        [1, 2, True, 4],
        [1, 2, [3], 4],
        True,
    ),
    "box_text": field("annotations", "bbox", "box-text", ["1", "2", "3", "4"], [1, 2, "3", 4], [1, 2, "wide", 4]),
    "crowd_odd": field("annotations", "iscrowd", "crowd-value", "0", "1", 2, -1, [0], NAN, "no", 0.5),
    "area_odd": field("annotations", "area", "area-impossible", -1, NAN, INF, "12", [12], True, 10**400),
    "outline_odd": field(
        "annotations",
        "segmentation",
        "outline-malformed",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        "rle",
        [1, 2],
        7,
        {"counts": [1, 2]},
        {"counts": [5, 5], "size": [3, 3]},
        [[1, 2, 3, 4, 5, NAN]],
        {"size": [3, 3], "counts": None},
    ),
    "keypoints_odd": field(
        "annotations", "keypoints", "keypoints-malformed", [1, 2], [1, 2, 7], [1, "2", 2], [1, NAN, 2], "none", {"x": 1}
    ),
}


@mutation
def image_id_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    first, second = sorted(rng.sample(range(len(SIZES)), 2))
    document["images"][second]["id"] = document["images"][first]["id"]
    return "image-id-twice", f"images[{second}]"


@mutation
def file_name_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    first, second = sorted(rng.sample(range(len(SIZES)), 2))
    document["images"][second]["file_name"] = document["images"][first]["file_name"]
    return "file-name-twice", f"images[{second}]"


@mutation
def image_listed_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    document["images"].append(dict(some(document, "images", rng)[0]))
    return "image-id-twice", f"images[{len(SIZES)}]"


@mutation
def picture_gone(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "images", rng)
    record["file_name"] = rng.choice(("gone.png", "sub/0.png", "0.PNG", "0.jpeg"))
    return "picture-missing", place


@mutation
def size_disagrees(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "images", rng)
    record[rng.choice(("width", "height"))] += rng.choice((2, 40, 500))
    return "size-disagrees", place


@mutation
def category_id_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    first, second = sorted(rng.sample(range(len(NAMES)), 2))
    document["categories"][second]["id"] = document["categories"][first]["id"]
    return "category-id-twice", f"categories[{second}]"


@mutation
def category_name_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    first, second = sorted(rng.sample(range(len(NAMES)), 2))
    document["categories"][second]["name"] = document["categories"][first]["name"]
    return "category-name-twice", f"categories[{second}]"


@mutation
def category_names_alike(document: Document, rng: random.Random) -> tuple[str, str]:
    names = ("Dog", "DOGS", "cats", "OWL", "trafficlight", "traffic_light", "Traffic-Lights", "wine glasses")
    document["categories"].append({"id": 999, "name": rng.choice(names)})
    return "names-alike", "categories"


@mutation
def category_background(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "categories", rng)
    record["name"] = rng.choice(("background", "Background", "__background__"))
    return "category-background", place


@mutation
def annotation_id_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    first, second = sorted(rng.sample(range(12), 2))
    document["annotations"][second]["id"] = document["annotations"][first]["id"]
    return "annotation-id-twice", f"annotations[{second}]"


@mutation
def pointer_of_other_type(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "annotations", rng)
    key = rng.choice(("image_id", "category_id"))
    record[key] = str(record[key])
    return f"{key.removesuffix('_id')}-unknown", place


def box(fault: str, change: Callable[[list[float], random.Random, Document], None]) -> Spoil:
    """A mutation of the numbers of one box, which also sees the box's image."""

    def spoil(document: Document, rng: random.Random) -> tuple[str, str]:
        record, place = some(document, "annotations", rng)
        image = next(image for image in document["images"] if image["id"] == record["image_id"])
        record.pop("area")
        change(record["bbox"], rng, image)
        return fault, place

    return spoil


def _not_finite(numbers: list[float], rng: random.Random, image: Document) -> None:
    numbers[rng.randrange(4)] = rng.choice((NAN, INF, -INF, 1e308, -1e12, 10**400))


def _flat(numbers: list[float], rng: random.Random, image: Document) -> None:
    numbers[rng.choice((2, 3))] = rng.choice((0, 0.0, -0.0))


def _swapped(numbers: list[float], rng: random.Random, image: Document) -> None:
    k = rng.choice((2, 3))
    numbers[k - 2], numbers[k] = numbers[k - 2] + numbers[k], -numbers[k]


def _outside(numbers: list[float], rng: random.Random, image: Document) -> None:
    k = rng.choice((0, 1))
    numbers[k] = rng.choice(
        (image[("width", "height")[k]] + rng.uniform(0, 500), -numbers[k + 2] - rng.uniform(0, 500))
    )


def _over_edge(numbers: list[float], rng: random.Random, image: Document) -> None:
    k, half = (j := rng.choice((0, 1))), numbers[j + 2] / 2
    numbers[k] = rng.choice((image[("width", "height")[k]] - half, -half))


MUTATIONS |= {
    "box_not_finite": box("box-not-finite", _not_finite),
    "box_flat": box("box-no-area", _flat),
    "box_swapped": box("box-swapped", _swapped),
    "box_outside": box("box-outside", _outside),
    "box_over_edge": box("box-over-edge", _over_edge),
}


@mutation
def box_huge(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "annotations", rng)
    record["bbox"][rng.choice((2, 3))] = rng.choice((200.0, 1e6, 9e8))
    return "box-over-edge", place


@mutation
def boxes_are_corners(document: Document, rng: random.Random) -> tuple[str, str]:
    for record in document["annotations"]:
        image = next(image for image in document["images"] if image["id"] == record["image_id"])
        far_x, far_y = image["width"] - rng.uniform(0, 4), image["height"] - rng.uniform(0, 4)
        x, y, _, _ = record["bbox"]
        record["bbox"] = [max(x, 5), max(y, 5), far_x, far_y]
    return "box-corners", "annotations"


@mutation
def box_twice(document: Document, rng: random.Random) -> tuple[str, str]:
    record = document["annotations"][rng.choice((0, 1, 2, 3))]
    document["annotations"].append({**record, "id": 999})
    return "box-twice", "annotations[12]"


@mutation
def box_two_classes(document: Document, rng: random.Random) -> tuple[str, str]:
    record = document["annotations"][rng.choice((0, 1, 2, 3))]
    other = next(c["id"] for c in document["categories"] if c["id"] != record["category_id"])
    document["annotations"].append({**record, "id": 999, "category_id": other})
    return "box-two-classes", "annotations[12]"


@mutation
def area_over_box(document: Document, rng: random.Random) -> tuple[str, str]:
    record, place = some(document, "annotations", rng)
    record["area"] = record["bbox"][2] * record["bbox"][3] * rng.uniform(1.5, 100)
    return "area-over-box", place


@mutation
def keypoints_miscounted(document: Document, rng: random.Random) -> tuple[str, str]:
    document["annotations"][3]["num_keypoints"] = rng.choice((0, 2, 17, "1", [1]))
    return "keypoints-malformed", "annotations[3]"


@mutation
def record_is_no_object(document: Document, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(LISTS)
    k = rng.randrange(len(document[kind]))
    document[kind][k] = rng.choice((None, 7, "text", [1, 2], True))
    return "record-type", f"{kind}[{k}]"


@mutation
def list_gone(document: Document, rng: random.Random) -> tuple[str, str]:
    del document[kind := rng.choice(LISTS)]
    return "list-missing", kind


@mutation
def list_misspelt(document: Document, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(LISTS)
    document[rng.choice((kind[:-1], kind.upper(), f"{kind}_"))] = document.pop(kind)
    return "list-missing", kind


@mutation
def list_is_no_list(document: Document, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(LISTS)
    document[kind] = rng.choice((None, {}, 7, "none", {"0": {}}))
    return "list-missing", kind


@mutation
def list_empty(document: Document, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(LISTS)
    document[kind] = []
    return f"no-{kind}", kind
