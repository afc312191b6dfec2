# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.formats.coco import CocoDataset

UNLABELLED, IGNORE, NEGATIVE, POSITIVE = (
    LabelState.UNLABELLED,
    LabelState.IGNORE,
    LabelState.NEGATIVE,
    LabelState.POSITIVE,
)


def document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30, "sky": "dry", "seen": ["x", "y"], "place": 4},
            {"id": "s", "file_name": "b.png", "width": 20, "height": 20, "sky": "wet", "night": True},
            {"id": 9, "file_name": "c.png", "night": False, "seen": []},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": "k", "name": "owl"}],
        "annotations": [
            {"id": 1, "image_id": "s", "category_id": 3, "bbox": [1, 2, 3, 4], "area": 5, "who": "tom"},
            {"id": 2, "image_id": 7, "category_id": 90, "bbox": [30, 20, 20, 20], "who": 12},
            {"id": 3, "image_id": 7, "category_id": "k", "bbox": [0, 0, 10, 10], "iscrowd": 1, "who": "flock"},
            {"id": 4, "image_id": 7, "category_id": 3, "bbox": [5, 5, 5, 5], "difficult": 1},
            {"id": 5, "image_id": 7, "category_id": 3, "bbox": [5, 5, 5, 5], "ignore": 1},
        ],
    }


def opened(folder: Path, train: Any, val: Any = None, /, split: str = "train", **config: Any) -> CocoDataset:
    (folder / "pictures").mkdir(exist_ok=True)
    for name, size in (("a", (40, 30)), ("b", (20, 20)), ("c", (64, 48))):
        Image.new("RGB", size, (9, 9, 9)).save(folder / "pictures" / f"{name}.png")
    for name, value in (("train", train), ("val", val)):
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    given: dict[str, Any] = {
        "train": {"images": "pictures", "annotations": "train.json"},
        "val": {"images": "pictures", "annotations": "val.json"},
        **config,
    }
    return CocoDataset("zoo", DatasetConfig.model_validate(given), split, folder)  # type: ignore[arg-type]


def refused(folder: Path, train: Any, /, *words: str, **config: Any) -> None:
    with pytest.raises(DataError) as error:
        opened(folder, train, **config)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_records_become_annotations(tmp_path: Path) -> None:
    zoo = opened(tmp_path, document(), identity={"boxes": "who", "image": "place"})
    assert len(zoo) == 3 and zoo.vocabulary.boxes == ("dog", "cat", "owl")
    assert [zoo.image_id(k) for k in range(3)] == ["7", "s", "9"]
    assert [zoo.size(k) for k in range(3)] == [(30, 40), (20, 20), None]
    sample = zoo.read(0)
    found = sample.annotations
    assert sample.image.shape == (3, 30, 40) and sample.frame.size == (30, 40) and sample.frame.image_id == "7"
    assert found.boxes_xyxy.tolist() == [[30, 20, 40, 30], [0, 0, 10, 10], [5, 5, 10, 10], [5, 5, 10, 10]]  # clipped
    assert found.box_labels.tolist() == [0, 2, 1, 1]
    assert found.box_states.tolist() == [POSITIVE, IGNORE, IGNORE, IGNORE]
    assert found.box_crowd.tolist() == [False, True, False, False]
    assert found.box_areas.tolist() == [100, 100, 25, 25] and zoo.read(1).annotations.box_areas.tolist() == [5]
    names = [zoo.vocabulary.identities[k] if k >= 0 else None for k in found.box_identities.tolist()]
    assert names == ["12", None, None, None]  # a crowd is nobody
    assert zoo.vocabulary.image_identities == ("4",) and found.identity == 0 and zoo.read(1).annotations.identity == -1
    assert len(zoo.read(2).annotations) == 0


def test_tags_from_fields_and_categories(tmp_path: Path) -> None:
    zoo = opened(tmp_path, document(), tags={"fields": ["sky", "seen", "night"], "categories": True})
    assert zoo.vocabulary.tags == ("dry", "wet", "x", "y", "night", "dog", "cat", "owl")
    assert zoo.tag_classes == (-1, -1, -1, -1, -1, 0, 1, 2)
    fields = [zoo.read(k).annotations.states["tags"][:5].tolist() for k in range(3)]
    assert fields == [
        [POSITIVE, NEGATIVE, POSITIVE, POSITIVE, UNLABELLED],
        [NEGATIVE, POSITIVE, UNLABELLED, UNLABELLED, POSITIVE],
        [UNLABELLED, UNLABELLED, NEGATIVE, NEGATIVE, NEGATIVE],
    ]


def test_category_as_identity(tmp_path: Path) -> None:
    zoo = opened(tmp_path, document(), identity={"boxes": "category"})
    assert zoo.vocabulary.identities == ("dog", "cat", "owl")
    assert zoo.read(0).annotations.box_identities.tolist() == [0, -1, 1, 1]


def test_validation_speaks_the_words_of_training(tmp_path: Path) -> None:
    val: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30, "sky": "wet", "place": 5}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "newt"}, {"id": 3, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "who": "tom"}],
    }
    given: dict[str, Any] = {"tags": {"fields": ["sky"]}, "identity": {"boxes": "who", "image": "place"}}
    zoo = opened(tmp_path, document(), val, split="val", **given)
    train = opened(tmp_path, document(), val, **given)
    found = zoo.read(0).annotations
    assert zoo.vocabulary.boxes == train.vocabulary.boxes and found.box_labels.tolist() == [0]
    assert found.states["tags"].tolist() == [NEGATIVE, POSITIVE]
    assert found.box_identities.tolist() == [train.vocabulary.identities.index("tom")]
    assert zoo.vocabulary.image_identities == ("4", "5") and found.identity == 1
    val["annotations"][0]["category_id"] = 2
    with pytest.raises(DataError, match="category 'newt', which train has not; known: cat, dog, owl"):
        opened(tmp_path, document(), val, split="val")


def test_a_limit_keeps_the_first_images_and_all_words(tmp_path: Path) -> None:
    whole, part = opened(tmp_path, document()), opened(tmp_path, document(), options={"limit": 2})
    assert len(whole) == 3 and len(part) == 2
    assert [part.image_id(i) for i in range(2)] == [whole.image_id(i) for i in range(2)]
    assert part.vocabulary == whole.vocabulary
    assert len(opened(tmp_path, document(), options={"limit": 99})) == 3
    refused(tmp_path, document(), "limit", "1 or more", options={"limit": 0})


def test_impossible_boxes_are_left_out_and_told_once(tmp_path: Path) -> None:
    bad = document()
    boxes = [
        [1, 1, 0, 5],
        [1, 1, -2, 5],
        [float("nan"), 1, 2, 2],
        [1, 1, 1e308, 1e308],
        [41, 1, 5, 5],
        [1, 1, 2, 10**400],
    ]
    start = len(bad["annotations"])
    bad["annotations"] += [{"id": 50 + k, "image_id": 7, "category_id": 3, "bbox": box} for k, box in enumerate(boxes)]
    zoo = opened(tmp_path, bad)
    assert len(zoo.read(0).annotations) == 4
    assert len(zoo.warnings) == 1 and "6 boxes" in zoo.warnings[0] and f"annotations[{start}]" in zoo.warnings[0]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with one value replaced, or taken out where it is ``...``."""
    whole: Any = document()
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = whole
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return whole  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("no json {", ("train.json", "not JSON")),
        ("[]", ("train.json", "object")),
        ("[" * 5000, ("train.json", "not JSON")),
        ('{"images": ' + "1" * 5000 + "}", ("train.json", "not JSON")),
        (changed("images", []), ("no images in it",)),
        (changed("images", ...), ("no list 'images'",)),
        (changed("annotations", {}), ("no list 'annotations'",)),
        (changed("images.1", 5), ("images[1]", "int")),
        (changed("images.1.id", ...), ("images[1] has no 'id'",)),
        (changed("images.1.id", [1]), ("images[1]", "'id' must be int or str")),
        (changed("images.1.file_name", ...), ("images[1] has no 'file_name'",)),
        (changed("images.1.id", 7), ("images[1]", "repeats the id 7 of images[0]")),
        (changed("images.0.width", -3), ("images[0]", "impossible size")),
        (changed("categories.1.id", 90), ("categories[1]", "repeats the id 90")),
        (changed("categories.0.name", ...), ("categories[0] has no 'name'",)),
        (changed("annotations.2.image_id", 77), ("annotations[2] (id 3)", "image 77")),
        (changed("annotations.2.category_id", 77), ("annotations[2] (id 3)", "category 77")),
        (changed("annotations.2.category_id", ...), ("annotations[2] (id 3) has no 'category_id'",)),
        (changed("annotations.2.bbox", ...), ("annotations[2] (id 3) has no 'bbox'",)),
        (changed("annotations.2.bbox", [1, 2, 3]), ("annotations[2]", "four numbers")),
        (changed("annotations.2.bbox", [1, 2, 3, "4"]), ("annotations[2]", "four numbers")),
        (changed("images.1.file_name", "../b.png"), ("../b.png", "leaves")),
        (changed("images.1.file_name", "gone.png"), ("zoo", "gone.png", "missing")),
    ],
)
def test_bad_files_are_one_line_each(tmp_path: Path, train: Any, words: tuple[str, ...]) -> None:
    refused(tmp_path, train, *words)


def test_bad_settings_are_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path, document(), "did you mean 'sky'", tags={"fields": ["skyy"]})
    refused(tmp_path, document(), "field 'whom'", "did you mean 'who'", identity={"boxes": "whom"})
    refused(tmp_path, document(), "field 'palace'", "did you mean 'place'", identity={"image": "palace"})
    refused(tmp_path, document(), "no option 'siz'", options={"siz": 1})
    refused(tmp_path, document(), "gone.json", "missing", train={"images": "pictures", "annotations": "gone.json"})
    refused(tmp_path, document(), "images folder", train={"images": "gone", "annotations": "train.json"})
    refused(tmp_path, document(), "no 'train' split", train=None)
    refused(tmp_path, document(), "no annotations file", train={"images": "pictures"})
    refused(tmp_path, document(), "does not exist", path="gone")
    monkeypatch.delenv("ZOO_HOME", raising=False)
    refused(tmp_path, document(), "ZOO_HOME", "not set", path="${ZOO_HOME}/x")
    clash = changed("images.0.sky", "dog")
    refused(tmp_path, clash, "'dog' is both", tags={"fields": ["sky"], "categories": True})


def test_paths_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path, document())
    base = tmp_path / "configs"
    base.mkdir()
    parts = {"train": {"images": "pictures", "annotations": "train.json"}}

    def find(path: str) -> CocoDataset:
        return CocoDataset("zoo", DatasetConfig.model_validate({"path": path, **parts}), "train", base)

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZOO_HOME", raising=False)
    for path in ("..", "~", "${ZOO_HOME:-..}", "${ZOO_HOME:-~}", str(tmp_path)):
        assert len(find(path)) == 3
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    assert len(find("${ZOO_HOME}")) == 3 and len(find("${ZOO_HOME:-nowhere}/configs/..")) == 3
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("ZOO_HOME", tmp_path.name)  # relative to where the person stands, as in a shell
    assert len(find("${ZOO_HOME}")) == 3


def test_a_picture_that_goes_missing_or_changes_size_is_named(tmp_path: Path) -> None:
    zoo = opened(tmp_path, document())
    (tmp_path / "pictures" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png is missing"):
        zoo.read(0)
    Image.new("RGB", (30, 40)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(DataError, match=r"a\.png is 30 x 40 pixels, but its record says 40 x 30 .*EXIF"):
        zoo.read(0)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert len(opened(tmp_path, document())) == 3
    more = document()
    more["images"].append({"id": 99, "file_name": "c.png"})
    assert len(opened(tmp_path, more)) == 4


def test_byte_order_mark_and_repeated_names(tmp_path: Path) -> None:
    twice = changed("categories.2.name", "dog")
    zoo = opened(tmp_path, "\ufeff" + json.dumps(twice))
    assert zoo.vocabulary.boxes == ("dog", "cat") and zoo.read(0).annotations.box_labels.tolist() == [0, 0, 1, 1]
    assert any("'dog'" in text for text in zoo.warnings)


def test_agrees_with_pycocotools_on_real_files(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    root = shared / "data" / "coco-mini"
    config = DatasetConfig.model_validate(
        {"path": str(root), "val": {"images": "val2017", "annotations": "annotations/instances_val2017.json"}}
    )
    ours, theirs = CocoDataset("mini", config, "val", Path()), COCO(root / "annotations/instances_val2017.json")
    assert len(ours) == len(theirs.imgs) and not ours.warnings
    names = {category["id"]: category["name"] for category in theirs.loadCats(theirs.getCatIds())}
    for k in range(0, len(ours), 7):
        found = ours.read(k).annotations
        records = theirs.loadAnns(theirs.getAnnIds(imgIds=int(ours.image_id(k))))
        boxes = np.array([record["bbox"] for record in records]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(found.boxes_xyxy.numpy(), boxes, atol=0.02)
        assert [ours.vocabulary.boxes[c] for c in found.box_labels] == [names[r["category_id"]] for r in records]
        assert found.box_crowd.tolist() == [bool(r["iscrowd"]) for r in records]
        assert np.allclose(found.box_areas.numpy(), [r["area"] for r in records])
