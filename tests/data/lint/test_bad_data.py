# SPDX-License-Identifier: Apache-2.0
"""The table of bad inputs: what the linter calls each, and what opening and reading the data does with it.

Reading ends in one of three ways: ``reads`` (and gives right pixels and boxes), ``record`` (the one picture is refused
in one line, the others are read), ``refused`` (opening is, in one line).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.contracts.config import DataConfig
from unified.contracts.errors import DataError
from unified.data.lint.linter import lint
from unified.data.source import open_source

SIDE = 32


@dataclass
class Case:
    """A data set of three pictures on disk, before it is written."""

    root: Path
    document: dict[str, Any]
    config: dict[str, Any]
    text: bytes | None = None  # instead of the document

    @property
    def picture(self) -> Path:
        return self.root / "pictures" / "0.png"

    def saved(self, name: str, image: Image.Image, **options: Any) -> None:
        """Another picture in the place of the first."""
        self.picture.unlink()
        image.save(self.picture.with_name(name), **options)
        self.document["images"][0]["file_name"] = name


Spoil = Callable[[Case], None]
ROWS: list[tuple[str, Spoil, str | None, str]] = []


def row(fault: str | None, ending: str) -> Callable[[Spoil], Spoil]:
    """One row of the table: what the linter calls it (None: nothing is wrong) and how reading ends."""

    def add(spoil: Spoil) -> Spoil:
        ROWS.append((spoil.__name__, spoil, fault, ending))
        return spoil

    return add


def put(name: str, fault: str | None, ending: str, *keys: str | int, value: Any = ...) -> None:
    """A row that writes one value of the document; without one, it takes the key away."""

    def spoil(case: Case) -> None:
        place: Any = case.document
        for key in keys[:-1]:
            place = place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    ROWS.append((name, spoil, fault, ending))


def said(name: str, fault: str | None, ending: str, **config: Any) -> None:
    """A row that changes the data file."""

    def spoil(case: Case) -> None:
        case.config.update(config)

    ROWS.append((name, spoil, fault, ending))


BOX = ("annotations", 0, "bbox")
put("no list of images", "list-missing", "refused", "images")
put("no list of annotations", "list-missing", "refused", "annotations")
put("no list of categories", "list-missing", "refused", "categories")
put("images are no list", "list-missing", "refused", "images", value={"0": {}})
put("a record is a number", "record-type", "refused", "images", 0, value=7)
put("no images", "no-images", "refused", "images", value=[])
put("an id that cannot be hashed", "image-id-type", "refused", "images", 0, "id", value=[1])
put("an image without id", "image-id-missing", "refused", "images", 0, "id")
put("an image id twice", "image-id-twice", "refused", "images", 1, "id", value=10)
put("an annotation id twice", "annotation-id-twice", "reads", "annotations", 1, "id", value=1)
put("a category id twice", "category-id-twice", "refused", "categories", 1, "id", value=5)
put("a category without a name", "category-name-missing", "refused", "categories", 0, "name")
put("an unknown image", "image-unknown", "refused", "annotations", 0, "image_id", value=99)
put("an unknown category", "category-unknown", "refused", "annotations", 0, "category_id", value=99)
put("an id as text", "image-unknown", "refused", "annotations", 0, "image_id", value="10")
put("a name that climbs", "file-name-hostile", "refused", "images", 0, "file_name", value="../secret.png")
put("an absolute name", "file-name-hostile", "refused", "images", 0, "file_name", value="/etc/hostname")
put("a name with a null byte", "file-name-hostile", "refused", "images", 0, "file_name", value="0.png\0")
put("a missing picture", "picture-missing", "refused", "images", 0, "file_name", value="gone.png")
put("a name in other case", "picture-missing", "refused", "images", 0, "file_name", value="0.PNG")
put("one picture twice", "file-name-twice", "reads", "images", 1, "file_name", value="0.png")
put("a size of nothing", "size-impossible", "refused", "images", 0, "width", value=0)
put("another size", "size-disagrees", "record", "images", 0, "width", value=40)
put("no size", "size-missing", "reads", "images", 0, "width")
put("a box of not-a-number", "box-not-finite", "reads", *BOX, value=[float("nan"), 1, 2, 3])
put("a box of 1e308", "box-not-finite", "reads", *BOX, value=[1, 1, 1e308, 3])
put("a negative side", "box-swapped", "reads", *BOX, value=[9, 9, -4, 4])
put("no area", "box-no-area", "reads", *BOX, value=[9, 9, 0, 4])
put("a box outside", "box-outside", "reads", *BOX, value=[40, 40, 4, 4])
put("a box over the edge", "box-over-edge", "reads", *BOX, value=[28, 4, 9, 4])
put("a box of texts", "box-text", "refused", *BOX, value=["1", "2", "3", "4"])
put("a box of three numbers", "box-type", "refused", *BOX, value=[1, 2, 3])
put("no box", "box-missing", "refused", *BOX)
put("a crowd said in words", "crowd-value", "reads", "annotations", 0, "iscrowd", value="no")
put("one class in two ways", "names-alike", "reads", "categories", 1, "name", value="Dogs")
said("nothing is said to be labelled", "says-nothing", "reads", labelled={})
said("a class that is not there", "claims-unknown-class", "reads", labelled={"det": ["dgo"]})
said("tags that are not there", "claims-nothing-there", "reads", labelled={"cls": "all"})
said("identities that are not there", "claims-nothing-there", "reads", labelled={"emb": "all"})
said("a path that is not there", "file-missing", "refused", path="nowhere")
said("a variable that is not set", "reader", "refused", path="${UNIFIED_NOT_SET}")
said("an unknown format", "reader", "refused", format="cocoo")
said("an unknown option", "reader", "refused", options={"limt": 3})


@row("not-json", "refused")
def a_file_cut_short(case: Case) -> None:
    case.text = json.dumps(case.document).encode()[:200]


@row("not-json", "refused")
def brackets_without_end(case: Case) -> None:
    case.text = b'{"images": ' + b"[" * 100_000


@row("not-json", "refused")
def a_number_of_5000_digits(case: Case) -> None:
    case.text = b'{"images": ' + b"9" * 5000 + b"}"


@row("not-json", "refused")
def an_empty_file(case: Case) -> None:
    case.text = b""


@row("not-an-object", "refused")
def a_list_of_detections(case: Case) -> None:
    case.text = json.dumps(case.document["annotations"]).encode()


@row("byte-order-mark", "reads")
def a_byte_order_mark(case: Case) -> None:
    case.text = b"\xef\xbb\xbf" + json.dumps(case.document).encode()


@row("picture-damaged", "record")
def a_cut_png(case: Case) -> None:
    case.picture.write_bytes(case.picture.read_bytes()[:-30])


@row("picture-damaged", "record")
def a_flipped_png(case: Case) -> None:
    data = bytearray(case.picture.read_bytes())
    data[25] ^= 0x55  # the kind of colour, under a checksum
    case.picture.write_bytes(bytes(data))


@row("picture-damaged", "record")
def a_cut_jpeg(case: Case) -> None:
    case.saved("0.jpg", noise(), quality=95)
    path = case.picture.with_name("0.jpg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@row("picture-damaged", "record")
def an_empty_picture(case: Case) -> None:
    case.picture.write_bytes(b"")


@row("picture-damaged", "record")
def a_text_that_calls_itself_a_picture(case: Case) -> None:
    case.picture.write_text("no picture")


@row("picture-damaged", "record")
def a_format_that_is_not_allowed(case: Case) -> None:
    case.saved("0.gif", noise())


@row("picture-damaged", "record")
def floats_of_unknown_scale(case: Case) -> None:
    case.saved("0.tiff", Image.fromarray(np.full((SIDE, SIDE), 300, np.float32)))


@row("picture-too-large", "record")
def a_bomb(case: Case) -> None:
    case.saved("0.png", Image.new("1", (8000, 8000)))
    case.document["images"][0].update(width=8000, height=8000)


@row("size-turned", "record")
def a_picture_on_its_side(case: Case) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    case.saved("0.jpg", noise((SIDE, 20)), exif=exif)
    case.document["images"][0].update(width=SIDE, height=20)


@row(None, "reads")
def sixteen_bits(case: Case) -> None:
    case.saved("0.png", Image.fromarray(np.full((SIDE, SIDE), 40_000, np.uint16)))


@row(None, "reads")
def four_inks(case: Case) -> None:
    case.saved("0.jpg", noise().convert("CMYK"))


@row(None, "reads")
def a_palette_with_a_transparent_colour(case: Case) -> None:
    case.saved("0.png", noise().convert("P"), transparency=3)


@row(None, "reads")
def a_moving_webp(case: Case) -> None:
    case.saved("0.webp", noise(), save_all=True, append_images=[noise()])


@row(None, "reads")
def nothing_at_all(case: Case) -> None:
    """The control: the data set as it is."""


def noise(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def fresh(root: Path) -> Case:
    (root / "pictures").mkdir()
    for k in range(3):
        noise().save(root / "pictures" / f"{k}.png")
    images = [{"id": 10 + k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE} for k in range(3)]
    annotations = [
        {"id": k + 1, "image_id": 10 + k, "category_id": 5 + k % 2, "bbox": [4 + k, 5, 10, 12], "iscrowd": 0}
        for k in range(3)
    ]
    categories = [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}]
    config = {"train": {"images": "pictures", "annotations": "train.json"}, "labelled": {"det": "all"}}
    return Case(root, {"images": images, "categories": categories, "annotations": annotations}, config)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("UNIFIED_NOT_SET", raising=False)


def ending(config: DataConfig, base: Path) -> str:
    """How opening the data and reading every picture ends."""
    try:
        source = open_source("mine", config.datasets["mine"], "train", base)
    except Exception as error:
        assert isinstance(error, Exception) and "\n" not in str(error) and len(str(error)) > 20, repr(error)
        return "refused"
    broken = 0
    for k in range(len(source)):
        try:
            sample = source.read(k)
        except DataError as error:
            assert "\n" not in str(error)
            broken += 1
            continue
        height, width = sample.frame.size
        boxes = sample.annotations.boxes_xyxy
        assert bool((boxes[:, 2:] > boxes[:, :2]).all()) and bool((boxes >= 0).all())
        assert bool((boxes[:, 2] <= width).all()) and bool((boxes[:, 3] <= height).all())
    assert broken <= 1
    return "record" if broken else "reads"


@pytest.mark.parametrize(("spoil", "fault", "end"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_bad_input_gets_what_the_table_says(tmp_path: Path, spoil: Spoil, fault: str | None, end: str) -> None:
    case = fresh(tmp_path)
    spoil(case)
    text = json.dumps(case.document).encode() if case.text is None else case.text
    (tmp_path / "train.json").write_bytes(text)
    config = DataConfig.model_validate({"datasets": {"mine": case.config}})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report = lint(config, tmp_path, "mine.yaml", depth="pixels")
    told = {finding.fault for finding in report.findings if finding.fault != "pictures-unlisted"}
    assert fault in told if fault else told == set(), [finding.line for finding in report.findings]
    assert all("\n" not in finding.line for finding in report.findings)
    assert ending(config, tmp_path) == end
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 60
