# SPDX-License-Identifier: Apache-2.0
"""``--data FOLDER_OR_FILE``: what is recognised, in which words, and what is asked."""

import json
from pathlib import Path
from typing import Any

import menagerie
import pytest
from menagerie import CLASSES, Picture

from unified.contracts.config import DatasetConfig
from unified.contracts.document import load_data, load_run_config
from unified.contracts.errors import ConfigError, DataError
from unified.data.mixing import open_mixture

MANY = tuple(Picture(f"p{k}", 20, 20, (("cat", 0, 0, 5, 5 + k, False),), ("dry",)) for k in range(10))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "my zoo").mkdir()
    return tmp_path / "my zoo"


def learn(path: Path, tasks: str = "det") -> tuple[DatasetConfig, str, Path]:
    """The one dataset of a run, and the line that told it."""
    told: list[str] = []
    config, base = load_run_config(model="unified-n", data=str(path), tasks=tasks.split(","), tell=told.append)
    assert list(config.data.datasets) == ["my_zoo"] and len(told) == 1 and "\n" not in told[0]
    return config.data.datasets["my_zoo"], told[0], base


def parts(said: DatasetConfig) -> list[str | None]:
    return [part and (part.annotations or part.images) for part in (said.train, said.val)]


@pytest.mark.parametrize(
    ("writer", "what", "train"),
    [
        (menagerie.coco, "a COCO dataset", "train.json"),
        (menagerie.voc, "a Pascal VOC folder", "ImageSets/Main/train.txt"),
        (menagerie.yolo, "a YOLO dataset", "images/train"),
        (menagerie.sheet, "a table of images", "train.csv"),
        (menagerie.openimages, "Open Images files", "train-annotations-bbox.csv"),
    ],
)
def test_a_folder_of_every_format_is_recognised_and_can_be_learned(
    writer: Any, what: str, train: str, root: Path
) -> None:
    writer(root, MANY)
    said, line, base = learn(root, "det,cls,emb")
    assert said.labelled == {"det": "all", "cls": "all", "emb": "all"}
    assert parts(said) == [train, None] and said.options["holdout"] == 0.1 and said.identity.image == "views"
    assert str(root) in line and what in line and "10% of it held out" in line and "boxes and tags" in line
    config, _ = load_run_config(model="unified-n", data=str(root), tasks=["det"], tell=lambda _: None)
    assert config.data.datasets["my_zoo"].identity.image is None  # nobody asked for identities
    sides = [open_mixture(config.data, {"det": "boxes"}, split=s, size=64, base=base) for s in ("train", "val")]
    assert [side.images for side in sides] == [9, 1] and sides[0].vocabulary.boxes[0] == "cat"


def test_both_splits_are_found_by_their_words(root: Path) -> None:
    menagerie.voc(root, MANY)
    lists = root / "ImageSets" / "Main"
    for name in ("val", "trainval", "cat_train"):
        (lists / f"{name}.txt").write_text("p1\np2\n")
    assert parts(learn(root)[0]) == ["ImageSets/Main/train.txt", "ImageSets/Main/val.txt"]


def test_a_coco_file_finds_its_partner_and_its_pictures(root: Path) -> None:
    for split in ("train2017", "val2017"):
        (root / "annotations").mkdir(exist_ok=True)
        other = root / split
        other.mkdir()
        menagerie.coco(other, MANY)
        (other / "train.json").rename(root / "annotations" / f"instances_{split}.json")
        (root / "annotations" / f"captions_{split}.json").write_text('{"images": [], "annotations": []}')
        for file in (other / "images").iterdir():
            file.rename(other / file.name)
    for given in (root, root / "annotations" / "instances_train2017.json", root / "annotations"):
        said, _, _ = learn(given) if given.name != "annotations" else learn(root)
        assert parts(said) == ["annotations/instances_train2017.json", "annotations/instances_val2017.json"]
        assert [said.train.images, said.val.images] == ["train2017", "val2017"]  # type: ignore[union-attr]
    score, _ = load_data(str(root / "annotations" / "instances_train2017.json"), tell=lambda _: None)
    assert parts(score.datasets["my_zoo"]) == ["annotations/instances_train2017.json"] * 2  # what was named is scored


def test_a_folder_of_a_file_for_each_split(root: Path) -> None:
    for split in ("train", "valid", "test"):
        (root / split).mkdir()
        menagerie.coco(root / split, MANY)
        (root / split / "train.json").rename(root / split / "_annotations.coco.json")
        for file in (root / split / "images").iterdir():
            file.rename(root / split / file.name)
    said, _, _ = learn(root)
    assert parts(said) == ["train/_annotations.coco.json", "valid/_annotations.coco.json"]
    assert said.val is not None and said.val.images == "valid"


def test_class_folders_with_and_without_splits(root: Path) -> None:
    for split in ("train", "val"):
        for name in CLASSES:
            menagerie.draw(root / split / name, MANY)
    said, line, _ = learn(root, "cls,emb")
    assert parts(said) == ["train", "val"] and said.labelled == {"cls": "all", "emb": "all"}
    assert said.identity.image == "folder" and "holdout" not in said.options and "tags and identities" in line
    (root / "val").rename(root / "dogs")
    (root / "train").rename(root / "cats")
    assert parts(learn(root, "cls")[0]) == [".", None]
    assert learn(root, "det,cls")[0].labelled == {"cls": "all"}


def test_the_yaml_of_yolo_and_the_paths_that_tools_write(root: Path) -> None:
    menagerie.yolo(root)
    assert learn(root / "data.yaml")[0].train == learn(root)[0].train
    (root / "train").mkdir()
    (root / "images" / "train").rename(root / "train" / "images")
    (root / "labels" / "train").rename(root / "train" / "labels")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../train/images\nnc: 3\nnames: [cat, dog, owl]\n")
    said, _, base = learn(root / "data.yaml")
    assert said.train is not None and said.train.images == "train/images"
    config = load_data(str(root), tell=lambda _: None)[0]
    mixture = open_mixture(config, {"det": "boxes"}, split="train", size=64, base=base)
    assert mixture.images == 4 and mixture.vocabulary.boxes == CLASSES
    (root / "data.yaml").write_text("train: [a, b]\nnames: [cat]\n")
    with pytest.raises(DataError, match="a split of several folders"):
        learn(root)


def test_a_table_tells_its_columns(root: Path) -> None:
    menagerie.draw(root / "images")
    (root / "train.csv").write_text("image,identity,tags,dry\na.png,tom,x,1\nb.png,tim,y|x,0\n")
    said, line, _ = learn(root, "cls,emb")
    assert said.tags.fields == ("tags", "dry") and said.identity.image == "identity" and "tags and identities" in line
    (root / "train.csv").write_text("image,label,split\na.png,x,train\nb.png,y,val\n")
    said, line, _ = learn(root, "cls")
    assert said.tags.fields == ("label",) and parts(said) == ["train.csv"] * 2 and said.options == {"split": "split"}


def test_what_nobody_knows_is_answered_with_a_data_file_that_works(root: Path) -> None:
    (root / "notes.json").write_text(json.dumps([1]))
    (root / "x.csv").write_text("a,b\n1,2\n")
    for given in (root, root / "notes.json", root / "x.csv"):
        with pytest.raises(ConfigError) as error:
            learn(given)
        first, _, example = str(error.value).partition("\n")
        assert str(given) in first and "of no format known" in first
        (root / "mine.yaml").write_text(example)
        assert load_data(str(root / "mine.yaml"))[0].datasets["mine"].labelled == {"det": "all"}
    for gone in (root / "gone.json", root / "gone.csv"):
        with pytest.raises(ConfigError, match="does not exist"):
            learn(gone)


def test_a_coco_file_without_its_pictures_is_asked_about(root: Path) -> None:
    menagerie.coco(root)
    (root / "images").rename(root.parent / "elsewhere")
    with pytest.raises(ConfigError, match="of no format known"):
        learn(root / "train.json")


def test_two_formats_in_one_folder_are_asked_about(root: Path) -> None:
    menagerie.coco(root)
    menagerie.yolo(root)
    with pytest.raises(ConfigError, match="could be a COCO dataset and a YOLO dataset"):
        learn(root)
    assert learn(root / "data.yaml")[0].format == "yolo"


def test_a_folder_with_the_name_of_a_shipped_configuration_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    menagerie.coco(tmp_path / "shapes")
    with pytest.raises(ConfigError, match=r"write \./shapes for the folder"):
        load_data("shapes")
    assert load_data("./shapes", tell=lambda _: None)[0].datasets["shapes"].format == "coco"


def test_real_folders_are_recognised(shared: Path) -> None:
    told: list[str] = []
    for name, train, val in (
        ("coco-mini", "annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ("fod", "annotations/instances_train.json", "annotations/instances_val.json"),
    ):
        config, _ = load_data(str(shared / "data" / name), tell=told.append)
        said = next(iter(config.datasets.values()))
        assert parts(said) == [train, val] and said.format == "coco"
    assert len(told) == 2
