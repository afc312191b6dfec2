# SPDX-License-Identifier: Apache-2.0
"""The same small dataset in all formats, its readers against the numbers it was written from."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import menagerie
import numpy as np
import pytest
import torch
from menagerie import CLASSES, PICTURES, Picture

from unified.contracts.config import DataConfig, DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.formats.indexed import IndexedSource
from unified.data.mixing import open_mixture
from unified.data.source import Split, open_source

U, I, N, P = (int(state) for state in list(LabelState)[:4])  # noqa: E741
WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "coco": menagerie.coco,
    "voc": menagerie.voc,
    "yolo": menagerie.yolo,
    "csv": menagerie.sheet,
    "openimages": menagerie.openimages,
}
DIFFICULT = ("coco", "voc", "openimages")  # formats that can say it


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(root: Path, said: dict[str, Any], split: Split = "train", **more: Any) -> IndexedSource:
    config = DatasetConfig.model_validate({"path": str(root), **said, **more})
    source = open_source("zoo", config, split, Path())
    assert isinstance(source, IndexedSource)
    return source


def refused(root: Path, said: dict[str, Any], *words: str, **more: Any) -> None:
    with pytest.raises(DataError) as error:
        opened(root, said, **more)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def rows(source: IndexedSource, k: int) -> list[tuple[Any, ...]]:
    found = source.read(k).annotations
    names = [source.vocabulary.boxes[c] for c in found.box_labels.tolist()]
    corners = [tuple(round(x, 3) for x in box) for box in found.boxes_xyxy.tolist()]
    return [(name, *box) for name, box in zip(names, corners, strict=True)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    zoo = opened(tmp_path, WRITERS[name](tmp_path))
    assert len(zoo) == len(PICTURES) and zoo.vocabulary.boxes == CLASSES
    truth = menagerie.coco(tmp_path / "truth", PICTURES) if (tmp_path / "truth").mkdir() is None else {}
    same = opened(tmp_path / "truth", truth)
    for k, picture in enumerate(PICTURES):
        sample = zoo.read(k)
        assert rows(zoo, k) == [(what, *map(float, corners)) for what, *corners, _ in picture.boxes]
        assert torch.equal(sample.image, same.read(k).image)
        assert sample.frame.size == (picture.height, picture.width)
        if name in DIFFICULT:
            assert sample.annotations.box_states.tolist() == [I if d else P for *_, d in picture.boxes]
        areas = [(x1 - x0) * (y1 - y0) for _, x0, y0, x1, y1, _ in picture.boxes]
        assert np.allclose(sample.annotations.box_areas, areas, rtol=1e-5)
    again = pickle.loads(pickle.dumps(zoo))  # as it goes to a worker process
    assert [rows(again, k) for k in range(4)] == [rows(zoo, k) for k in range(4)]


@pytest.mark.parametrize("name", WRITERS)
def test_categories_are_tags_and_identities_in_every_format_with_boxes(name: str, tmp_path: Path) -> None:
    said = WRITERS[name](tmp_path)
    zoo = opened(tmp_path, said, identity={"boxes": "category"})
    found = zoo.read(3).annotations
    assert zoo.vocabulary.identities == CLASSES and found.box_identities.tolist() == [1, 1]
    if name == "openimages":
        refused(tmp_path, said, "verified labels", tags="categories")
    else:
        assert opened(tmp_path, said, tags="categories").vocabulary.tags == CLASSES


@pytest.mark.parametrize("name", ["coco", "csv"])
def test_tags_and_identities_of_images(name: str, tmp_path: Path) -> None:
    said = WRITERS[name](tmp_path)
    zoo = opened(tmp_path, said, tags={"fields": ["weather"]}, identity={"image": "place"})
    tags = dict(
        zip(("a", "b", "c", "d"), (zoo.read(k).annotations.states["tags"].tolist() for k in range(4)), strict=True)
    )
    index = {word: k for k, word in enumerate(zoo.vocabulary.tags)}
    assert set(index) == {"dry", "wet"}
    assert tags["a"][index["wet"]] == P and tags["a"][index["dry"]] == N
    assert tags["b"] == [P, P] and tags["c"] == [N, N] and tags["d"] == [U, U]
    assert [zoo.read(k).annotations.identity for k in range(4)] == [0, 1, -1, 0]


def test_ids_of_any_kind_are_mapped_and_the_mapping_is_told(tmp_path: Path) -> None:
    said = menagerie.coco(tmp_path, ids=(1000000, -7, "x y"))
    zoo = opened(tmp_path, said)
    assert dict(zoo.category_ids) == {"1000000": "cat", "-7": "dog", "x y": "owl"}
    config = DataConfig.model_validate(
        {"datasets": {"zoo": {"path": str(tmp_path), **said, "labelled": {"det": "all"}, "aliases": {"owl": "bird"}}}}
    )
    mixture = open_mixture(config, {"det": "boxes"}, split="train", size=64, base=Path())
    assert mixture.categories() == {"zoo": {"1000000": "cat", "-7": "dog", "x y": "bird"}}


def test_the_mapping_is_in_the_checkpoints_description(tmp_path: Path) -> None:
    from unified.contracts.config import ModelConfig, RunConfig, TaskConfig
    from unified.training.run import description

    said = menagerie.coco(tmp_path)
    data = DataConfig.model_validate({"datasets": {"zoo": {"path": str(tmp_path), **said, "labelled": {"det": "all"}}}})
    mixture = open_mixture(data, {"det": "boxes"}, split="train", size=64, base=Path())
    config = RunConfig(model=ModelConfig(), tasks={"det": TaskConfig(task="det")}, data=data)
    told = json.loads(json.dumps(description(config, tmp_path, mixture)))
    assert told["categories"] == {"zoo": {"90": "cat", "3": "dog", "o": "owl"}}


# Pascal VOC


def test_voc_counts_pixels_from_one_and_takes_edges_as_they_are_on_request(tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    assert rows(opened(tmp_path, said), 1) == [("cat", 3, 4, 5, 9)]
    assert rows(opened(tmp_path, said, options={"first_pixel": 0}), 1) == [("cat", 4, 5, 5, 9)]
    file = tmp_path / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<xmin>4<", "<xmin>0<"))
    assert any("first_pixel: 0" in text for text in opened(tmp_path, said).warnings)


def test_voc_finds_a_picture_although_a_tool_left_another_path_there(tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    file = tmp_path / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<filename>b.png", "<filename>C:\\me\\odd name.jpg"))
    folder = {**said, "train": {"images": "JPEGImages", "annotations": "Annotations"}}
    assert rows(opened(tmp_path, folder), 1) == [("cat", 3, 4, 5, 9)]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<xmin>4</xmin>", "<xmin>four</xmin>", ("b.xml", "<xmin>", "'four'")),
        ("<xmin>4</xmin>", "", ("b.xml", "<bndbox> needs a number <xmin>")),
        ("<name>cat</name>", "", ("b.xml", "object 1.name: is missing")),
        ("<bndbox>", "<box>", ("b.xml", "not XML")),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>", ("b.xml", "declares entities")),
        ("<filename>b.png", "<filename>zz.png", None),
    ],
)
def test_bad_xml_is_one_line(old: str, new: str, words: tuple[str, ...] | None, tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    file = tmp_path / "Annotations" / "b.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    if words is None:
        (tmp_path / "JPEGImages" / "b.png").unlink()
        words = ("b.xml", "no picture 'zz.png'")
    refused(tmp_path, said, *words)


def test_bad_lists_are_one_line(tmp_path: Path) -> None:
    said = menagerie.voc(tmp_path)
    names = tmp_path / "ImageSets" / "Main" / "train.txt"
    names.write_text("a\nb\na\n")
    refused(tmp_path, said, "train.txt", "'a' twice")
    names.write_text("a\nnobody\n")
    refused(tmp_path, said, "nobody.xml", "missing")
    names.write_text("\n")
    refused(tmp_path, said, "train.txt", "names no annotation files")
    names.write_text("a -1\nb 1\n")  # a list of one class
    assert len(opened(tmp_path, said)) == 2
    refused(tmp_path, said, "'owl' is unknown", options={"classes": ["cat", "dog"]})
    refused(tmp_path, said, "first_pixel must be 0 or 1", options={"first_pixel": 2})
    refused(tmp_path, said, "no field 'sky'", tags={"fields": ["sky"]})


# YOLO


def test_a_picture_without_a_label_file_is_unlabelled_and_one_with_an_empty_file_is_not(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "b.txt").unlink()
    states = det_states(tmp_path, said)
    assert states == [[N, P, P], [U, U, U], [N, N, N], [N, P, N]]
    assert any("1 pictures have no label file, first b.png" in text for text in opened(tmp_path, said).warnings)
    assert det_states(tmp_path, {**said, "options": {"missing": "empty"}})[1] == [N, N, N]


def det_states(root: Path, said: dict[str, Any], **more: Any) -> list[list[int]]:
    dataset = {"path": str(root), **said, "labelled": {"det": "all"}, **more}
    config = DataConfig.model_validate({"datasets": {"zoo": dataset}})
    mixture = open_mixture(config, {"det": "boxes"}, split="train", size=64, base=Path())
    return [mixture.sample("zoo", k)[0].annotations.states["det"].tolist() for k in range(mixture.images)]


def test_polygons_and_key_points_of_yolo_give_their_boxes(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    labels = tmp_path / "labels" / "train"
    (labels / "c.txt").write_text("2 0.25 0.5 0.5 0.25 0.75 1.0 0.5 0.75\n")
    assert rows(opened(tmp_path, said), 2) == [("owl", 16, 12, 48, 48)]
    (labels / "c.txt").write_text("2 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2\n")
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 3]\n")
    assert rows(opened(tmp_path, said), 2) == [("owl", 16, 12, 48, 36)]


def test_a_list_of_pictures_and_labels_beside_them(tmp_path: Path) -> None:
    menagerie.yolo(tmp_path)
    (tmp_path / "list.txt").write_text("./images/train/d.png\nimages/train/b.png\n")
    zoo = opened(tmp_path, {"format": "yolo", "train": {"images": "list.txt"}})
    assert [zoo.image_id(k) for k in range(len(zoo))] == ["images/train/d", "images/train/b"]
    assert rows(zoo, 1) == [("cat", 3, 4, 5, 9)]
    flat = tmp_path / "flat"
    menagerie.draw(flat, (Picture("a", 40, 30),))
    (flat / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (flat / "classes.txt").write_text("thing\n")
    beside = {"format": "yolo", "train": {"images": "."}, "options": {"names": "classes.txt"}}
    assert rows(opened(flat, beside), 0) == [("thing", 0, 0, 40, 30)]
    (tmp_path / "list.txt").write_text("../../etc/d.png\n")
    refused(tmp_path, {"format": "yolo", "train": {"images": "list.txt"}}, "leaves")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3 .5 .5 .1 .1", ("class 3 is none of the 3",)),
        ("-1 .5 .5 .1 .1", ("class -1",)),
        ("cat .5 .5 .1 .1", ("expected numbers", "'cat .5")),
        ("0 .5 .5 .1", ("got 4 numbers",)),
        ("0 .5 .5 .1 .1 .9", ("got 6 numbers",)),
        ("0 120 80 30 20", ("0 to 1, got 120", "pixels")),
        ("nan .5 .5 .1 .1", ("expected a class",)),
    ],
)
def test_a_bad_line_of_yolo_is_named(line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "c.txt").write_text(f"0 .5 .5 .1 .1\n{line}\n")
    refused(tmp_path, said, "c.txt: line 2", *words)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("names: [a, b, a]\n", ("two classes are named 'a'",)),
        ("names: {0: a, 2: b}\n", ("numbered 0 to 1", "0, 2")),
        ("names: 3\n", ("data.yaml", "expected names")),
        ("names: [a\n", ("data.yaml", "not YAML")),
        ("", ("data.yaml", "expected")),
    ],
)
def test_bad_names_of_yolo_are_one_line(names: str, words: tuple[str, ...], tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(names)
    refused(tmp_path, said, *words)


def test_words_that_yaml_reads_as_no_and_yes_are_names(tmp_path: Path) -> None:
    said = menagerie.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [no, yes, 010]\n")
    assert opened(tmp_path, said).vocabulary.boxes == ("no", "yes", "010")


# folder of class folders


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    for k, folder in enumerate(("owl", "birds/owl", "birds/wren")):
        menagerie.draw(tmp_path / "train" / folder, (Picture(f"p{k}", 20, 20),))
    said = {"format": "folder", "train": {"images": "train"}, "identity": {"image": "folder"}}
    zoo = opened(tmp_path, said)
    assert zoo.vocabulary.tags == zoo.vocabulary.image_identities == ("birds/owl", "birds/wren", "owl")
    assert [zoo.read(k).annotations.states["tags"].tolist() for k in range(3)] == [[P, N, N], [N, P, N], [N, N, P]]
    assert [zoo.read(k).annotations.identity for k in range(3)] == [0, 1, 2]
    assert opened(tmp_path, said, options={"depth": 1}).vocabulary.tags == ("birds", "owl")
    refused(tmp_path, said, "no field 'sky'", tags={"fields": ["sky"]})
    refused(tmp_path, said, "depth", options={"depth": 0})
    menagerie.draw(tmp_path / "train", (Picture("stray", 20, 20),))
    refused(tmp_path, said, "stray.png", "in no class folder")
    refused(tmp_path, {"format": "folder", "train": {"images": "gone"}}, "gone", "does not exist")
    (tmp_path / "bare").mkdir()
    refused(tmp_path, {"format": "folder", "train": {"images": "bare"}}, "no pictures")


# CSV


def table(root: Path, text: str, **more: Any) -> IndexedSource:
    menagerie.draw(root / "images")
    (root / "t.csv").write_text(text, encoding="utf-8")
    return opened(root, {"format": "csv", "train": {"images": "images", "annotations": "t.csv"}, **more})


def test_columns_of_yes_and_no_are_tags_of_their_own(tmp_path: Path) -> None:
    zoo = table(
        tmp_path, "\ufeffimage;dry;wet\na.png;1;0\nb.png;;1\nc.png;0;\n", tags={"fields": ["dry", "wet"]}
    )  # a byte order mark and semicolons, as spreadsheets write them
    assert zoo.vocabulary.tags == ("dry", "wet")
    assert [zoo.read(k).annotations.states["tags"].tolist() for k in range(3)] == [[P, N], [U, P], [N, U]]


def test_several_rows_of_one_image_are_taken_together(tmp_path: Path) -> None:
    text = "file,x,y,width,height,class,who,tags\na.png,1,2,3,4,dog,tom,x\na.png,0,0,9,9,cat,tim,y|z\nb.png,,,,,,,[]\n"
    zoo = table(tmp_path, text, tags={"fields": ["tags"]}, identity={"boxes": "who"})
    assert rows(zoo, 0) == [("dog", 1, 2, 4, 6), ("cat", 0, 0, 9, 9)]
    assert zoo.read(0).annotations.box_identities.tolist() == [0, 1] and zoo.vocabulary.identities == ("tom", "tim")
    assert [zoo.read(k).annotations.states["tags"].tolist() for k in range(2)] == [[P, P, P], [N, N, N]]


def test_a_column_says_which_rows_are_of_which_split(tmp_path: Path) -> None:
    menagerie.draw(tmp_path / "images")
    (tmp_path / "t.csv").write_text("image,tags,part\na.png,x,train\nb.png,y,valid\nc.png,x,train\n")
    part = {"images": "images", "annotations": "t.csv"}
    said = {
        "format": "csv",
        "train": part,
        "val": dict(part),
        "tags": {"fields": ["tags"]},
        "options": {"split": "part"},
    }
    train, val = (opened(tmp_path, said, split) for split in ("train", "val"))
    assert [train.image_id(k) for k in range(len(train))] == ["a.png", "c.png"]
    assert [val.image_id(k) for k in range(len(val))] == ["b.png"] and val.vocabulary.tags == ("x", "y")
    assert val.read(0).annotations.states["tags"].tolist() == [N, P]


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("", {}, ("t.csv", "is empty")),
        ("image,image\n", {}, ("two columns 'image'",)),
        ("picture,x\na,b\n", {}, ("no column names the pictures", "picture, x")),
        ("image,tags\na.png\n", {}, ("row 1", "has 1 cells")),
        ("image,tags\n", {}, ("no rows",)),
        ("image,tags\n,x\n", {}, ("row 1", "names no picture")),
        ("image,tags\na.png,x\n", {"tags": {"fields": ["tag"]}}, ("no column 'tag'", "did you mean 'tags'")),
        ("image,tags\na.png,[x\n", {"tags": {"fields": ["tags"]}}, ("row 1", "no JSON list")),
        ("image,label,xmin,ymin,xmax,ymax\na.png,,1,2,3,4\n", {}, ("row 1", "without a class")),
        ("image,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,x,4\n", {}, ("row 1", "four numbers")),
        (
            "image,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,9,4\n",
            {"options": {"normalised": True}},
            ("row 1.ymin", "0 to 1, got 2"),
        ),
        ("image,who\na.png,x\na.png,y\n", {"identity": {"image": "who"}}, ("row 2", "'who' is y", "says x")),
        ("image,tags,part\na.png,x,dev\n", {"options": {"split": "part"}}, ("no row has train",)),
        ('image,tags\n"a.png,x\n', {}, ("t.csv", "not CSV")),
    ],
)
def test_a_bad_table_is_one_line(text: str, more: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        table(tmp_path, text, **more)
    told = str(error.value)
    assert "\n" not in told and all(word in told for word in words), told


# Open Images


def test_verified_labels_say_image_by_image_what_was_looked_for(tmp_path: Path) -> None:
    said = menagerie.openimages(tmp_path)
    with (tmp_path / "train-human-imagelabels.csv").open("a") as file:
        file.write("c,verification,/m/cat,1\nd,verification,/m/cat,1\nd,verification,/m/cat,0\n")
    zoo = opened(tmp_path, said)
    assert zoo.vocabulary.tags == CLASSES
    # c: the cat is there and has no box, beside "absent"; d: verified twice, once each way
    assert [zoo.read(k).annotations.states["tags"].tolist() for k in range(4)] == [
        [N, P, P],
        [P, N, N],
        [I, N, N],
        [I, P, N],
    ]
    # a: the owls are a group: there, not counted
    assert det_states(tmp_path, said) == [[N, P, I], [P, N, N], [I, N, N], [I, P, N]]
    found = zoo.read(0).annotations
    assert found.box_crowd.tolist() == [False, True] and found.box_states.tolist() == [P, I]
    assert any("1 labels that only a machine gave" in text for text in zoo.warnings)
    assert dict(zoo.category_ids) == {f"/m/{name}": name for name in CLASSES}


def test_classes_nobody_verified_are_unlabelled_in_the_image(tmp_path: Path) -> None:
    said = menagerie.openimages(tmp_path)
    (tmp_path / "train-human-imagelabels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\nb,verification,/m/dog,0\n"
    )
    assert det_states(tmp_path, said) == [[U, P, U], [P, N, U], [U, P, U]]  # of the third no file speaks


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("train-annotations-bbox.csv", "XMin", "X0", ("no column 'XMin'",)),
        ("train-annotations-bbox.csv", "0.15", "a", ("row ", "got 'a'")),
        ("train-annotations-bbox.csv", "0.15", "15", ("row ", "0 to 1, got 15")),
        ("train-human-imagelabels.csv", "Confidence", "Sure", ("no column 'Confidence'",)),
        ("class-descriptions.csv", ",", ";", None),
    ],
)
def test_bad_open_images_are_one_line(
    file: str, old: str, new: str, words: tuple[str, ...] | None, tmp_path: Path
) -> None:
    said = menagerie.openimages(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    if words is None:  # semicolons are read, too
        assert opened(tmp_path, said).vocabulary.boxes == CLASSES
    else:
        refused(tmp_path, said, file, *words)


def test_no_picture_at_all_is_one_line(tmp_path: Path) -> None:
    said = menagerie.openimages(tmp_path)
    for picture in PICTURES:
        file = tmp_path / "train" / f"{picture.name}.png"
        file.rename(file.with_stem(f"{picture.name}x"))
    refused(tmp_path, said, "none of the 4 images")


# all formats


@pytest.mark.parametrize("name", WRITERS)
def test_a_part_can_be_held_out(name: str, tmp_path: Path) -> None:
    many = tuple(
        Picture(f"p{k}", 20, 20, (("cat", 0, 0, 5, 5 + k % 7, False),), None, None, ("dog",)) for k in range(20)
    )
    said = WRITERS[name](tmp_path, many)
    said["options"] = {**said.get("options", {}), "holdout": 0.25}
    train, val = (opened(tmp_path, said, split) for split in ("train", "val"))
    sides = [{side.image_id(k) for k in range(len(side))} for side in (train, val)]
    assert [len(side) for side in sides] == [15, 5] and not sides[0] & sides[1]
    whole = opened(tmp_path, {**said, "options": {**said["options"], "holdout": 0.0}})
    want = {whole.image_id(k): rows(whole, k) for k in range(len(whole))}
    for side in (train, val):
        assert side.vocabulary == whole.vocabulary
        assert all(rows(side, k) == want[side.image_id(k)] for k in range(len(side)))
    refused(tmp_path, said, "leave out the option holdout", val=said["train"])
    refused(tmp_path, {**said, "options": {"holdout": 2}}, "holdout must be a share")


def test_a_half_labelled_mix_of_formats_keeps_its_silence(tmp_path: Path) -> None:
    """Every format labels another class; nobody's silence is read as absence."""
    datasets = {}
    for name, claimed in (("coco", "cat"), ("voc", "dog"), ("yolo", "owl"), ("csv", "cat")):
        (tmp_path / name).mkdir()
        datasets[name] = {
            "path": str(tmp_path / name),
            **WRITERS[name](tmp_path / name),
            "labelled": {"det": [claimed]},
        }
    config = DataConfig.model_validate({"datasets": datasets})
    mixture = open_mixture(config, {"det": "boxes"}, split="train", size=64, base=Path())
    assert mixture.vocabulary.boxes == CLASSES
    for name, column in (("coco", 0), ("voc", 1), ("yolo", 2), ("csv", 0)):
        for k, picture in enumerate(PICTURES):
            states = mixture.sample(name, k)[0].annotations.states["det"].tolist()
            shown = any(
                what == CLASSES[column] and not (hard and name in DIFFICULT) for what, *_, hard in picture.boxes
            )
            assert states == [(P if shown else N) if c == column else U for c in range(3)], (name, k)
