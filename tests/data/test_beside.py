# SPDX-License-Identifier: Apache-2.0
"""COCO's other files in the same sample: key points, captions, panoptic segments; and what LVIS says was looked for."""

import json
from pathlib import Path
from typing import Any

import menagerie
import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.config import DataConfig, DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.formats import store
from unified.data.formats.coco import CocoDataset
from unified.data.mixing import open_mixture

U, I, N, P = (int(state) for state in list(LabelState)[:4])  # noqa: E741


@pytest.fixture(autouse=True, params=[0, 1 << 30], ids=["kept", "in memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "SMALL", request.param)
    store._tabulated.cache_clear()


def write(root: Path) -> None:
    menagerie.coco(root)
    people = [
        {"id": 3, "image_id": 6, "category_id": 90, "num_keypoints": 1, "keypoints": [3, 4, 2, 0, 0, 0]},
        {"id": 99, "image_id": 6, "category_id": 90, "num_keypoints": 1, "keypoints": [3, 4, 2, 0, 0, 0]},
    ]
    category = {"id": 90, "name": "cat", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    said: dict[str, Any] = {
        "keypoints": {"images": [], "annotations": people, "categories": [category]},
        "captions": {
            "annotations": [
                {"id": 1, "image_id": 7, "caption": " Nothing at all.\n"},
                {"id": 2, "image_id": 5, "caption": "A dog."},
                {"id": 3, "image_id": 7, "caption": "Ничего."},
                {"id": 4, "image_id": 1234, "caption": "Somewhere else."},
            ]
        },
        "panoptic": {
            "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 90, "name": "cat", "isthing": 1}],
            "annotations": [
                {
                    "image_id": 6,
                    "file_name": "b.png",
                    "segments_info": [
                        {"id": 70000, "category_id": 90, "area": 10, "iscrowd": 0, "bbox": [0, 0, 1, 1]},
                        {"id": 258, "category_id": 1, "area": 500, "iscrowd": 1},
                    ],
                }
            ],
        },
    }
    for name, value in said.items():
        (root / f"{name}.json").write_text(json.dumps(value))
    drawn = np.zeros((50, 20, 3), np.uint8)
    drawn[:25] = (70000 & 255, 70000 >> 8 & 255, 70000 >> 16)
    drawn[25:45] = (2, 1, 0)
    (root / "segments").mkdir()
    Image.fromarray(drawn).save(root / "segments" / "b.png")


def opened(root: Path) -> CocoDataset:
    named = {"keypoints": "keypoints.json", "captions": "captions.json"}
    part = {"images": "images", "annotations": "train.json", **named}
    part |= {"panoptic": "panoptic.json", "panoptic_images": "segments"}
    config = DatasetConfig.model_validate({"path": str(root), "train": part})
    return CocoDataset("zoo", config, "train", Path())


def test_all_files_speak_in_one_sample(tmp_path: Path) -> None:
    write(tmp_path)
    zoo = opened(tmp_path)
    found = [zoo.read(k).annotations.extras for k in range(4)]
    assert [row["captions"] for row in found] == [("A dog.",), (), ("Nothing at all.", "Ничего."), ()]
    points = found[1]["keypoints"]
    assert points.points.tolist() == [[[3, 4, 2], [0, 0, 0]]]
    assert points.names == ("nose", "tail") and points.skeleton == ((0, 1),)
    assert found[0]["keypoints"].points.tolist() == [[[0, 0, 0]] * 2] * 2  # boxes, but nobody's points
    assert "panoptic" not in found[0]
    panoptic = found[1]["panoptic"]
    drawn = panoptic.read()
    assert drawn.shape == (50, 20) and drawn[[0, 24, 25, 44, 45], 3].tolist() == [0, 0, 1, 1, -1]
    assert [panoptic.names[k] for k in panoptic.labels] == ["cat", "sky"] and panoptic.crowd.tolist() == [False, True]
    assert panoptic.things == (False, True)
    told = " ".join(zoo.warnings)
    assert "1 captions are of images that the split has not" in told and "1 objects with key points have no box" in told


def test_points_go_with_their_boxes_and_move_with_the_image(tmp_path: Path) -> None:
    write(tmp_path)
    found = opened(tmp_path).read(1).annotations
    assert found.select(torch.tensor([], dtype=torch.int64)).extras["keypoints"].points.shape == (0, 2, 3)
    twice = found.select(torch.tensor([0, 0]))
    assert twice.extras["keypoints"].points.shape == (2, 2, 3) and twice.extras["captions"] == ()
    moved = found.extras["keypoints"].moved(np.array([[2.0, 0, 10], [0, 3.0, -1]]), (60, 60))
    assert moved.points.tolist() == [[[16, 11, 2], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("keypoints", {"keypoints": [1, 2]}, ("annotations[0]", "x, y, visibility")),
        ("keypoints", {"keypoints": [1, 2, "3"]}, ("annotations[0]", "x, y, visibility")),
        ("captions", {"caption": 3}, ("annotations[0]", "'caption' must be str")),
        ("panoptic", {"file_name": None}, ("annotations[0]", "'file_name' must be str")),
        ("panoptic", {"segments_info": [{"id": 1, "category_id": 5}]}, ("annotations[0]", "category 5", "unknown")),
        ("panoptic", {"segments_info": [{"id": 1 << 24, "category_id": 1}]}, ("annotations[0]", "unknown")),
        ("panoptic", {"segments_info": [3]}, ("annotations[0]", "must hold objects")),
    ],
)
def test_a_bad_record_is_named(file: str, change: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path)
    document = json.loads((tmp_path / f"{file}.json").read_text())
    document["annotations"][0] |= change
    (tmp_path / f"{file}.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        opened(tmp_path)
    assert f"{file}.json" in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_a_missing_file_and_a_wrong_picture_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "segments" / "b.png")
    with pytest.raises(DataError, match=r"b\.png is not of the photograph's size"):
        opened(tmp_path).read(1).annotations.extras["panoptic"].read()
    (tmp_path / "captions.json").unlink()
    with pytest.raises(DataError, match=r"captions\.json is missing"):
        opened(tmp_path)


def test_lists_of_absent_categories_narrow_the_claim(tmp_path: Path) -> None:
    """LVIS: what an image neither has nor lists as absent was not looked for."""
    said = menagerie.coco(tmp_path)
    document = json.loads((tmp_path / "train.json").read_text())
    document["images"][0]["neg_category_ids"] = [90]
    document["images"][3] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [3]}
    (tmp_path / "train.json").write_text(json.dumps(document))
    labelled = {"det": "all", "cls": "all"}
    dataset = {"path": str(tmp_path), **said, "labelled": labelled, "tags": "categories"}
    config = DataConfig.model_validate({"datasets": {"zoo": dataset}})
    mixture = open_mixture(config, {"det": "boxes", "cls": "tags"}, split="train", size=64, base=Path())
    found = [mixture.sample("zoo", k)[0].annotations for k in range(4)]
    assert [row.states["det"].tolist() for row in found] == [[N, P, U], [P, U, U], [U, U, U], [U, I, U]]
    assert [row.states["cls"].tolist() for row in found][:3] == [[N, P, U], [P, U, U], [U, U, U]]
    assert found[3].box_states.tolist() == [I, I]  # more dogs may stand beside them


def test_agrees_with_pycocotools_on_real_files(shared: Path) -> None:
    from pycocotools.coco import COCO

    root = shared / "data" / "coco-mini"
    files = {
        "annotations": "instances",
        "keypoints": "person_keypoints",
        "captions": "captions",
        "panoptic": "panoptic",
    }
    part = {key: f"annotations/{kind}_val2017.json" for key, kind in files.items()}
    part |= {"images": "val2017", "panoptic_images": "panoptic_val2017"}
    config = DatasetConfig.model_validate({"path": str(root), "val": part})
    ours = CocoDataset("mini", config, "val", Path())
    boxes, people, texts = (COCO(root / part[key]) for key in ("annotations", "keypoints", "captions"))
    panoptic = {r["image_id"]: r for r in json.loads((root / part["panoptic"]).read_text())["annotations"]}
    seen = {"points": 0, "segments": 0}
    for k in range(0, len(ours), 5):
        ident = int(ours.image_id(k))
        found = ours.annotations(k, ours.size(k) or (0, 0))
        said = [r["caption"].strip() for r in texts.loadAnns(texts.getAnnIds(imgIds=ident))]
        assert list(found.extras["captions"]) == said
        for row, record in enumerate(boxes.loadAnns(boxes.getAnnIds(imgIds=ident))):
            points = found.extras["keypoints"].points[row].flatten().tolist()
            truth = people.anns.get(record["id"], {}).get("keypoints", [0] * 51)
            assert np.allclose(points, truth, atol=1e-3)
            seen["points"] += truth != [0] * 51
        if ident in panoptic:
            drawn = found.extras["panoptic"].read()
            for segment, record in enumerate(panoptic[ident]["segments_info"]):
                assert int((drawn == segment).sum()) == pytest.approx(record["area"], rel=0.02, abs=4)
                seen["segments"] += 1
    assert seen["points"] > 20 and seen["segments"] > 100
