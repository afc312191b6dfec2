# SPDX-License-Identifier: Apache-2.0
"""Faults planted in the files of every format: one pass names each of them, with its file, record and field."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unified.contracts.config import DataConfig
from unified.contracts.document import load_data
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.lint.linter import Report, lint, refuse_faults
from unified.data.lint.repair import write_repaired
from unified.data.mixing import open_mixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import menagerie

Fault = tuple[str, str, str, str]  # its name, the end of its file's name, record, field

WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "voc": menagerie.voc,
    "yolo": menagerie.yolo,
    "csv": menagerie.sheet,
    "openimages": menagerie.openimages,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))


def folder(root: Path) -> dict[str, Any]:
    for picture in menagerie.PICTURES:
        menagerie.draw(root / "train" / ("cat" if picture.name < "c" else "dog"), (picture,))
    return {"format": "folder", "train": {"images": "train"}}


def checked(root: Path, said: dict[str, Any], **more: Any) -> Report:
    task = "cls" if said["format"] == "folder" else "det"
    given = {"path": str(root), **said, "labelled": {task: "all"}, **more}
    config = DataConfig.model_validate({"datasets": {"zoo": given}})
    report = lint(config, root, "mix.yaml")
    if report.findings.refused:
        with pytest.raises(DataError):
            refuse_faults(config, root, "mix.yaml", {task: task})
    else:
        refuse_faults(config, root, "mix.yaml", {task: task})
        open_mixture(config, {task: "tags" if task == "cls" else "boxes"}, split="train", size=64, base=root)
    return report


def told(report: Report) -> set[tuple[str, str, str, str]]:
    errors = [each for each in report.findings if each.severity == "error"]
    assert all("\n" not in each.line and each.action.startswith("refused; ") for each in errors)
    return {(each.fault, each.file, each.record, each.field) for each in errors}


def expect(report: Report, faults: list[Fault]) -> None:
    """Every planted fault, and nothing else."""
    found = told(report)
    for fault, file, record, field in faults:
        fitting = {
            each for each in found if each[0] == fault and each[1].endswith(file) and each[2:] == (record, field)
        }
        assert len(fitting) == 1, (fault, file, record, field, sorted(found))
        found -= fitting
    assert not found


@pytest.mark.parametrize("name", [*WRITERS, "folder"])
def test_a_clean_data_set_of_every_format_has_no_fault(name: str, tmp_path: Path) -> None:
    said = {**WRITERS, "folder": folder}[name](tmp_path)
    report = checked(tmp_path, said)
    assert told(report) == set() and not report.findings.refused
    assert not [each for each in report.findings if each.severity == "warning" and each.fault != "box-tiny"] or (
        name == "openimages"  # which says that a machine's label is left out
    )


def test_voc(tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    folder, words = tmp_path / "Annotations", tmp_path / "ImageSets" / "Main" / "train.txt"
    menagerie.draw(tmp_path / "JPEGImages", tuple(menagerie.Picture(f"n{k}", 20, 20) for k in range(5)))
    a, d = (folder / f"{name}.xml" for name in "ad")
    text = a.read_text().replace("<name>owl</name>", "<name></name>").replace("<xmin>1<", "<xmin>one<")
    a.write_text(text.replace("<ymax>20<", "<ymax><"))
    d.write_text(d.read_text().replace("<xmax>33<", "<xmax>39<").replace("<xmax>1<", "<xmax>-4<"))
    box = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>cat</name>{box.format(*x)}</object>" for x in ((50, 60), (9, 3), ("nan", 4)))
    size = "<size><width>{}</width><height>20</height></size>"
    (folder / "n0.xml").write_text(f"<annotation>{size.format(20)}{objects}</annotation>")
    (folder / "n1.xml").write_text("<annotation><object>")
    (folder / "n2.xml").write_text("<data></data>")
    (folder / "n3.xml").write_text(f"<annotation>{size.format('wide')}<object><name>cat</name></object></annotation>")
    (folder / "n4.xml").write_text(f"<annotation>{size.format(24)}</annotation>")
    (folder / "n5.xml").write_text("<annotation><filename>gone.png</filename></annotation>")
    words.write_text(words.read_text() + "n0\nn1\nn2\nn3\nn4\nn5\nn6\n../secret\nb\n")
    expect(
        checked(tmp_path, said),
        [
            ("record-malformed", "a.xml", "object 1", "bndbox.xmin"),
            ("record-malformed", "a.xml", "object 1", "bndbox.ymax"),
            ("record-malformed", "a.xml", "object 2", "name"),
            ("box-over-edge", "d.xml", "object 1", "box"),
            ("box-swapped", "d.xml", "object 2", "box"),
            ("box-outside", "n0.xml", "object 1", "box"),
            ("box-swapped", "n0.xml", "object 2", "box"),
            ("box-not-finite", "n0.xml", "object 3", "box"),
            ("file-unreadable", "n1.xml", "", ""),
            ("file-unreadable", "n2.xml", "", ""),
            ("record-malformed", "n3.xml", "", "size.width"),
            ("record-malformed", "n3.xml", "object 1", "bndbox"),
            ("size-disagrees", "n4.xml", "", "width"),
            ("picture-missing", "n5.xml", "", "filename"),
            ("file-missing", "n6.xml", "", ""),
            ("file-name-hostile", "Annotations", "", ""),
            ("listed-twice", "train.txt", "", ""),
        ],
    )


def test_voc_classes(tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    report = checked(tmp_path, said, options={"classes": ["cat"]})
    assert {each[1:3] for each in told(report)} == {
        (str(tmp_path / "Annotations" / f"{name}.xml"), record)
        for name, record in (("a", "object 1"), ("a", "object 2"), ("d", "object 1"), ("d", "object 2"))
    }


def test_yolo(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    labels = tmp_path / "labels" / "train"
    lines = ["0 .5 .5 .2", "7 .5 .5 .1 .1", "x .5 .5 .1 .1", "0 300 20 9 9", "9 3 .5 .1 .1", "1 .5 .5 .2 .2"]
    (labels / "b.txt").write_text("\n".join([*lines, "1 1.04 .5 .2 .2", "1 -.3 .5 .2 .2", "1 .5 .5 0 .2"]))
    (labels / "c.txt").write_bytes(b"\xff\xfe0 .5")
    menagerie.draw(tmp_path / "images" / "train", (menagerie.PICTURES[0],), ".jpg")
    (tmp_path / "images" / "train" / "d.png").write_bytes(b"not a picture")
    expect(
        checked(tmp_path, said),
        [
            ("record-malformed", "b.txt", "line 1", ""),
            ("class-unknown", "b.txt", "line 2", "class"),
            ("record-malformed", "b.txt", "line 3", ""),
            ("record-malformed", "b.txt", "line 4", "box"),
            ("class-unknown", "b.txt", "line 5", "class"),
            ("record-malformed", "b.txt", "line 5", "box"),
            ("box-over-edge", "b.txt", "line 7", "box"),
            ("box-outside", "b.txt", "line 8", "box"),
            ("box-no-area", "b.txt", "line 9", "box"),
            ("file-unreadable", "c.txt", "", ""),
            ("image-id-twice", "a.png", "", "id"),
            ("picture-damaged", "d.png", "", "file_name"),
        ],
    )


def test_yolo_with_a_faulty_list_of_classes_is_read_on(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, cat, owl]\n")
    (tmp_path / "labels" / "train" / "b.txt").write_text("0 .5 .5 .2\n")
    (tmp_path / "list.txt").write_text("images/train/a.png\n../../etc/passwd\nimages/train/b.png\nimages/no.png\n")
    (tmp_path / "labels" / "no.txt").write_text("")
    expect(
        checked(tmp_path, {**said, "train": {"images": "list.txt"}}),
        [
            ("classes-malformed", "data.yaml", "", ""),
            ("record-malformed", "b.txt", "line 1", ""),
            ("file-name-hostile", "list.txt", "picture 2", ""),
            ("picture-missing", "images/no.png", "", "file_name"),
        ],
    )


def test_folders(tmp_path: Path) -> None:
    said = folder(tmp_path)
    menagerie.draw(tmp_path / "train", menagerie.PICTURES[:2])
    (tmp_path / "train" / "dog" / "d.png").write_bytes(b"\x89PNG")
    expect(
        checked(tmp_path, said),
        [
            ("picture-without-class", "train/a.png", "", ""),
            ("picture-without-class", "train/b.png", "", ""),
            ("picture-damaged", "dog/d.png", "", "file_name"),
        ],
    )


def test_tables(tmp_path: Path) -> None:
    said = menagerie.sheet(tmp_path)
    file = tmp_path / "train.csv"
    rows = [
        ",cat,1,2,3,4,,",
        "a.png,,1,2,3,4,,",
        "a.png,cat,one,2,,4,,",
        "a.png,cat,1,2,3",
        "b.png,cat,9,9,4,12,[dry,elsewhere",
        "gone.png,cat,1,2,3,4,,",
        "../c.png,cat,1,2,3,4,,",
        "c.png,dog,90,2,99,4,,",
        "c.png,dog,9,2,90,4,,",
    ]
    first = len(file.read_text().splitlines())  # the header's line stands for the row that follows
    file.write_text(file.read_text() + "\n".join(rows) + "\n")
    report = checked(tmp_path, said, tags={"fields": ["weather", "wether"]}, identity={"image": "place"})
    at = [f"row {first + k}" for k in range(len(rows))]
    expect(
        report,
        [
            ("column-missing", "train.csv", "", ""),
            ("record-malformed", "train.csv", at[0], "image"),
            ("record-malformed", "train.csv", at[1], "label"),
            ("record-malformed", "train.csv", at[2], "xmin"),
            ("record-malformed", "train.csv", at[2], "xmax"),
            ("record-malformed", "train.csv", at[3], ""),
            ("box-swapped", "train.csv", at[4], "box"),
            ("record-malformed", "train.csv", at[4], "weather"),
            ("identity-disagrees", "train.csv", at[4], "place"),
            ("picture-missing", "train.csv", at[5], "file_name"),
            ("file-name-hostile", "train.csv", at[6], "file_name"),
            ("box-outside", "train.csv", at[7], "box"),
            ("box-over-edge", "train.csv", at[8], "box"),
        ],
    )


def test_open_images(tmp_path: Path) -> None:
    said = menagerie.openimages(tmp_path)
    boxes, labels = tmp_path / "train-annotations-bbox.csv", tmp_path / "train-human-imagelabels.csv"
    rows = ["a,x,/m/cat,1,left,0.5,0,2,0", "a,x,/m/cat,1,0,0.5,0", "b,x,/m/cat,1,0.5,0.4,0,1,0"]
    count = len(boxes.read_text().splitlines())
    boxes.write_text(boxes.read_text() + "\n".join(rows) + "\n")
    sure = len(labels.read_text().splitlines())
    labels.write_text(labels.read_text() + "a,verification,/m/dog,perhaps\n")
    expect(
        checked(tmp_path, said),
        [
            ("record-malformed", boxes.name, f"row {count}", "XMin"),
            ("record-malformed", boxes.name, f"row {count}", "YMax"),
            ("record-malformed", boxes.name, f"row {count + 1}", ""),
            ("box-swapped", boxes.name, f"row {count + 2}", "box"),
            ("record-malformed", labels.name, f"row {sure}", "Confidence"),
        ],
    )
    boxes.write_text(boxes.read_text().replace("XMin", "Left").replace("YMax", "Down"))
    named = [each for each in told(checked(tmp_path, said)) if each[0] == "column-missing"]
    assert len(named) == 1 and len([e for e in checked(tmp_path, said).findings if e.fault == "column-missing"]) == 2


def test_both_splits_and_the_data_file_are_told_in_one_pass(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    menagerie.draw(tmp_path / "images" / "val", menagerie.PICTURES[:2])
    (tmp_path / "labels" / "val").mkdir()
    (tmp_path / "labels" / "val" / "a.txt").write_text("5 .5 .5 .2 .2\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("6 .5 .5 .2 .2\n")
    given = {"path": str(tmp_path), **said, "val": {"images": "images/val"}}
    other = {"path": str(tmp_path / "nowhere"), "format": "voc", "train": {"images": ".", "annotations": "a"}}
    config = DataConfig.model_validate({"datasets": {"zoo": {**given, "labelled": {"det": ["unicorn"]}}, "two": other}})
    found = told(lint(config, tmp_path, "mix.yaml"))
    assert {fault for fault, *_ in found} == {"class-unknown", "says-nothing", "reader", "claims-unknown-class"}
    assert {Path(file).parent.name for fault, file, *_ in found if fault == "class-unknown"} == {"train", "val"}


def repaired(root: Path, said: dict[str, Any], out: Path, task: str = "det") -> tuple[DataConfig, Path, list[str]]:
    """The mended copy of a faulty data set, which the linter takes; its own folder is as it was."""
    config = DataConfig.model_validate({"datasets": {"zoo": {"path": str(root), **said, "labelled": {task: "all"}}}})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    report = lint(config, root, "mix.yaml")
    assert report.findings.refused
    changes = write_repaired(report, config, root, out)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    again, base = load_data(str(out / "data.yaml"))
    assert told(lint(again, base, "data.yaml")) == set()
    return again, base, changes


def test_a_lost_object_is_not_background_in_the_copy(tmp_path: Path) -> None:
    root, out = tmp_path / "zoo", tmp_path / "out"
    said = menagerie.yolo(root)
    labels = root / "labels" / "train"
    (labels / "b.txt").write_text("0 .5 .5 .2 .2\n7 .5 .5 .1 .1\n1 1.04 .5 .2 .2\n1 .5 .5 0 .2\n")
    (labels / "c.txt").write_bytes(b"\xff\xfe0 .5")
    again, base, changes = repaired(root, said, out)
    assert any(
        line.endswith("b.txt: line 2.class: cannot be used: where its picture has no box, it is ignored")
        for line in changes
    )
    assert any(line.endswith("b.txt: line 3.box: clipped to the image") for line in changes)
    assert any(line.endswith("b.txt: line 4.box: left out") for line in changes)
    mixture = open_mixture(again, {"det": "boxes"}, split="train", size=64, base=base)
    states = {}
    for k in range(mixture.images):
        (sample,) = mixture.sample("zoo", k)
        states[Path(mixture.sources["zoo"].file(k)).stem] = sample.annotations.states["det"].tolist()  # type: ignore[attr-defined]
    assert LabelState.NEGATIVE not in states["b"] and LabelState.NEGATIVE not in states["c"]
    assert LabelState.NEGATIVE in states["a"] and LabelState.POSITIVE in states["a"]  # the others are as they were


def test_the_copy_has_both_splits_where_their_pictures_are(tmp_path: Path) -> None:
    root, out = tmp_path / "zoo", tmp_path / "out"
    said = menagerie.yolo(root)
    menagerie.draw(root / "images" / "val", menagerie.PICTURES[:2])
    (root / "labels" / "val").mkdir()
    (root / "labels" / "val" / "a.txt").write_text("1 .5 .5 .2 .2\n8 .5 .5 .2 .2\n")
    again, base, _ = repaired(root, {**said, "val": {"images": "images/val"}}, out)
    for split in ("train", "val"):
        mixture = open_mixture(again, {"det": "boxes"}, split=split, size=64, base=base)  # type: ignore[arg-type]
        assert mixture.images == len(list((root / "images" / split).iterdir()))
        assert all(mixture.sample("zoo", k) for k in range(mixture.images))
        assert mixture.vocabulary.boxes == ("cat", "dog", "owl")


def test_the_copy_of_a_voc_data_set(tmp_path: Path) -> None:
    root, out = tmp_path / "zoo", tmp_path / "out"
    said = menagerie.voc(root)
    a, words = root / "Annotations" / "a.xml", root / "ImageSets" / "Main" / "train.txt"
    a.write_text(a.read_text().replace("<name>owl</name>", "<name></name>"))
    (root / "Annotations" / "n1.xml").write_text("<annotation><object>")
    words.write_text(words.read_text() + "n1\nn6\n../secret\nb\n")
    _, _, changes = repaired(root, said, out)
    assert any("a.xml: object 2.name: cannot be used" in line for line in changes)
    assert sum(line.endswith(": left out") for line in changes) == 4


def test_a_row_of_nobody_knows_which_picture_is_left_to_its_owner(tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    said = menagerie.sheet(root)
    file = root / "train.csv"
    file.write_text(file.read_text() + ",cat,1,2,3,4,,\n")
    config = DataConfig.model_validate({"datasets": {"zoo": {"path": str(root), **said, "labelled": {"det": "all"}}}})
    changes = write_repaired(lint(config, root, "mix.yaml"), config, root, tmp_path / "out")
    assert len(changes) == 1 and "left as it is" in changes[0] and "nobody can say which picture" in changes[0]
