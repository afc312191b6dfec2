# SPDX-License-Identifier: Apache-2.0
"""Parquet files, read for real: the same sheets as CSV, with cells that have types; and one line without pyarrow."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import menagerie
import pytest

from unified.contracts.config import DataConfig, DatasetConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.formats.indexed import IndexedSource
from unified.data.lint.linter import lint
from unified.data.mixing import open_mixture
from unified.data.source import open_source

U, N, P = int(LabelState.UNLABELLED), int(LabelState.NEGATIVE), int(LabelState.POSITIVE)
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None,
    reason="pyarrow is not installed: pip install 'unified-networks[parquet]'",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))


def written(root: Path, columns: Mapping[str, Sequence[Any]], name: str = "train.parquet") -> dict[str, Any]:
    import pyarrow
    from pyarrow import parquet

    if not (root / "images").exists():
        menagerie.draw(root / "images")
    parquet.write_table(pyarrow.table(dict(columns)), root / name)
    return {"format": "csv", "train": {"images": "images", "annotations": name}}


def opened(root: Path, said: Mapping[str, Any], **more: Any) -> IndexedSource:
    config = DatasetConfig.model_validate({"path": str(root), **said, **more})
    source = open_source("zoo", config, "train", Path())
    assert isinstance(source, IndexedSource)
    return source


def refused(root: Path, said: Mapping[str, Any], *words: str, **more: Any) -> None:
    with pytest.raises(DataError) as error:
        opened(root, said, **more)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def of_csv(path: Path) -> dict[str, list[Any]]:
    """A sheet's columns, with numbers where a box's corner is told and None in empty cells."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("xmin", "ymin", "xmax", "ymax")
    found = {name: [row[name] or None for row in rows] for name in rows[0]}
    return {name: [float(x) if x and name in numbers else x for x in cells] for name, cells in found.items()}


@needs_pyarrow
def test_parquet_reads_as_the_same_sheet_in_csv(tmp_path: Path) -> None:
    said = menagerie.sheet(tmp_path)
    other = written(tmp_path, of_csv(tmp_path / "train.csv"))
    more: dict[str, Any] = {"tags": {"fields": ["weather"], "categories": True}, "identity": {"image": "place"}}
    one, two = opened(tmp_path, said, **more), opened(tmp_path, other, **more)
    assert one.vocabulary == two.vocabulary and len(one) == len(two) == len(menagerie.PICTURES)
    for k in range(len(one)):
        a, b = one.read(k).annotations, two.read(k).annotations
        assert a.boxes_xyxy.tolist() == b.boxes_xyxy.tolist() and a.box_labels.tolist() == b.box_labels.tolist()
        assert a.states["tags"].tolist() == b.states["tags"].tolist() and a.identity == b.identity


@needs_pyarrow
def test_cells_with_types(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "image": ["a.png", "b.png", "c.png", "d.png"],
        "tags": [["x", "y"], [], None, ["y"]],
        "night": [True, False, None, True],
        "who": [7.0, float("nan"), 7.0, 9.0],  # as pandas writes whole numbers among missing ones
    }
    said = written(tmp_path, columns)
    zoo = opened(tmp_path, said, tags={"fields": ["tags", "night"]}, identity={"image": "who"})
    assert zoo.vocabulary.tags == ("x", "y", "night") and zoo.vocabulary.image_identities == ("7", "9")
    assert [zoo.read(k).annotations.states["tags"].tolist() for k in range(4)] == [
        [P, P, P],
        [N, N, N],
        [U] * 3,
        [N, P, P],
    ]
    assert [zoo.read(k).annotations.identity for k in range(4)] == [0, -1, 0, 1]


@needs_pyarrow
def test_boxes_in_integer_columns_with_missing_cells_and_numbered_classes(tmp_path: Path) -> None:
    corners = {name: [1, None, 2] for name in ("xmin", "ymin")} | {name: [9, None, 8] for name in ("xmax", "ymax")}
    columns: dict[str, list[Any]] = {"image": ["a.png", "b.png", "a.png"], "label": [3, None, 5], **corners}
    zoo = opened(tmp_path, written(tmp_path, columns))
    assert zoo.vocabulary.boxes == ("3", "5") and len(zoo) == 2
    assert zoo.read(0).annotations.boxes_xyxy.tolist() == [[1, 1, 9, 9], [2, 2, 8, 8]]
    assert len(zoo.read(1).annotations) == 0


@needs_pyarrow
def test_a_folder_and_a_file_of_parquet_are_recognised_and_learned(tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    root.mkdir()
    deep = [f"images/{picture.name}.png" for picture in menagerie.PICTURES] * 3
    columns: dict[str, list[Any]] = {"image": deep, "label": ["cat", "dog", "owl"] * 4, "person_id": list("abcd") * 3}
    written(root, columns)
    for path in (root, root / "train.parquet"):
        config, base = load_run_config(model="unified-n", data=str(path), tasks=["cls", "emb"], tell=lambda _: None)
        said = config.data.datasets["zoo"]
        assert said.format == "csv" and said.tags.fields == ("label",) and said.identity.image == "person_id"
        assert said.train is not None and said.train.images == "."
        found = open_mixture(config.data, {"cls": "tags", "emb": "identities"}, split="train", size=64, base=base)
        assert found.vocabulary.tags == ("cat", "dog", "owl")


@needs_pyarrow
def test_pictures_below_folders_and_names_that_leave_them(tmp_path: Path) -> None:
    said = written(tmp_path, {"image": ["sub/a.png", "sub\\b.png"], "label": ["x", "y"]})
    menagerie.draw(tmp_path / "images" / "sub")
    zoo = opened(tmp_path, said, tags={"fields": ["label"]})
    assert [zoo.file(k) for k in range(2)] == ["sub/a.png", "sub/b.png"] and zoo.read(1).frame.size == (50, 20)
    for name in ("../../etc/passwd", "/etc/passwd"):
        refused(tmp_path, written(tmp_path, {"image": [name], "label": ["x"]}), "folder", tags={"fields": ["label"]})


@needs_pyarrow
@pytest.mark.parametrize(
    ("columns", "more", "words"),
    [
        ({"picture_of": ["a.png"]}, {}, ("no column names the pictures", "picture_of")),
        ({"image": ["a.png"]}, {"tags": {"fields": ["tagz"]}}, ("no column 'tagz'",)),
        ({"image": ["a.png"], "who": ["x"]}, {"identity": {"image": "whom"}}, ("no column 'whom'", "who")),
        ({"image": ["a.png"]}, {"options": {"split": "part"}}, ("no column 'part'",)),
        ({"image": [None]}, {}, ("row 1.image", "names no picture")),
        ({"image": [b"\x89PNG"]}, {}, ("row 1.image", "expected a text, got bytes", "write them as files")),
        ({"image": [{"bytes": b"\x89PNG", "path": "a.png"}]}, {}, ("row 1.image", "structure", "write them as files")),
        ({"image": ["a.png"], "tags": [b"x"]}, {"tags": {"fields": ["tags"]}}, ("row 1.tags", "got bytes")),
        ({"image": ["a.png"], "who": [["x"]]}, {"identity": {"image": "who"}}, ("row 1.who", "got a list")),
        (
            {"image": ["a.png"], "label": ["c"], "xmin": [1], "ymin": [1], "xmax": ["wide"], "ymax": [None]},
            {},
            ("row 1.xmax", "four numbers", "'wide'"),
        ),
    ],
)
def test_bad_parquet_is_one_line(
    columns: dict[str, list[Any]], more: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(tmp_path, written(tmp_path, columns), "train.parquet", *words, **more)


@needs_pyarrow
def test_all_faults_of_a_parquet_file_are_named_in_one_pass(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "image": ["a.png", None, "b.png", "c.png", "gone.png"],
        "label": ["cat", "cat", None, "cat", "cat"],
        "xmin": [1, 1, 1, 9, 1],
        "ymin": [1, 1, 1, 1, 1],
        "xmax": [5, 5, 5, 5, 5],
        "ymax": [5, 5, 5, 5, None],
    }
    said = written(tmp_path, columns)
    config = DataConfig.model_validate(
        {"datasets": {"zoo": {"path": str(tmp_path), **said, "labelled": {"det": "all"}}}}
    )
    report = lint(config, tmp_path, "mix.yaml")
    errors = {(each.fault, each.record, each.field) for each in report.findings if each.severity == "error"}
    assert errors == {
        ("record-malformed", "row 2", "image"),
        ("record-malformed", "row 3", "label"),
        ("box-swapped", "row 4", "box"),
        ("record-malformed", "row 5", "ymax"),
        ("picture-missing", "row 5", "file_name"),
    }


@needs_pyarrow
@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1 and no more", b"image,label\na.png,x\n"])
def test_what_is_no_parquet_is_one_line(data: bytes, tmp_path: Path) -> None:
    menagerie.draw(tmp_path / "images")
    (tmp_path / "train.parquet").write_bytes(data)
    said = {"format": "csv", "train": {"images": "images", "annotations": "train.parquet"}}
    refused(tmp_path, said, "train.parquet", "not Parquet")


def test_without_pyarrow_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    menagerie.draw(tmp_path / "images")
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    said = {"format": "csv", "train": {"images": "images", "annotations": "train.parquet"}}
    refused(tmp_path, said, "train.parquet", "pyarrow", "pip install 'unified-networks[parquet]'")
