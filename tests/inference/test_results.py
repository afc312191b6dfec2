# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spare import noise
from torch import Tensor

from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Frame, Prediction
from unified.inference.results import Result, result_of
from unified.inference.source import open_source


@dataclass(frozen=True)
class Pose:
    """What a stranger's task says: points in pixels."""

    points: Tensor  # (P, 2)

    def in_frame(self, frame: Frame) -> Pose:
        return replace(self, points=(self.points - torch.tensor(frame.offset)) / torch.tensor(frame.scale))


def result(source: Any = None) -> Result:
    said = Prediction(
        size=(48, 80),
        boxes_xyxy=torch.tensor([[10.0, 20, 30, 40], [0, 0, 80, 48]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([1, 0]),
        box_names=("cat", "dog"),
        tag_scores=torch.tensor([0.25, 0.75]),
        tag_names=("night", "rain"),
        embedding=torch.tensor([0.6, 0.8]),
        box_embeddings=torch.tensor([[1.0, 0], [0, 1]]),
        extras={"pose": Pose(torch.tensor([[1.0, 2]]))},
    )
    return result_of(said, next(open_source(noise() if source is None else source).stills))


def test_boxes_in_every_form() -> None:
    boxes = result().boxes
    assert boxes is not None
    assert boxes.xywh.tolist() == [[10, 20, 20, 20], [0, 0, 80, 48]]
    assert boxes.cxcywh.tolist() == [[20, 30, 20, 20], [40, 24, 80, 48]]
    assert boxes.xyxyn[1].tolist() == [0, 0, 1, 1]
    assert boxes.names == ["dog", "cat"]
    assert boxes.conf is boxes.scores
    assert boxes.cls is boxes.labels
    assert [(b.name, b.score, b.label) for b in boxes] == [("dog", 0.75, 1), ("cat", 0.5, 0)]
    assert boxes[1].names == boxes[[1]].names == boxes[boxes.scores < 0.6].names == boxes[1:].names == ["cat"]
    assert boxes[1].embeddings.tolist() == [[0, 1]]
    assert len(boxes[boxes.scores > 1]) == 0


def test_a_result_without_boxes_is_still_a_result() -> None:
    bare = result_of(Prediction(size=(48, 80), tag_scores=torch.tensor([0.5]), tag_names=("rain",)), result().still)
    assert bare.boxes is None
    assert bare.tags == {"rain": 0.5}
    assert bare.to_coco() == []
    assert bare
    assert bare.to_dict()["tags"] == {"rain": 0.5}


def test_a_dict_says_everything_as_json() -> None:
    said = json.loads(json.dumps(result().to_dict()))
    assert said["source"] == "array"
    assert said["size"] == {"width": 80, "height": 48}
    assert said["boxes"][0] == {"name": "dog", "score": 0.75, "box_xyxy": [10, 20, 30, 40]}
    assert said["tags"] == {"rain": 0.75, "night": 0.25}
    assert said["embedding"] == pytest.approx([0.6, 0.8])
    assert said["box_embeddings"] == [[1, 0], [0, 1]]
    assert said["extras"] == {"pose": {"points": [[1, 2]]}}
    assert result().to_dict(embeddings=False)["embedding"] == 2


def test_coco_entries_are_what_pycocotools_reads() -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    entries = result().to_coco(image_id=7)
    assert entries[0] == {"image_id": 7, "category_id": 2, "bbox": [10, 20, 20, 20], "score": 0.75}
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    truth.createIndex()
    assert truth.loadRes(entries).getAnnIds(imgIds=[7], catIds=[2]) == [1]
    assert [e["category_id"] for e in result().to_coco(category_ids=[18, 17])] == [17, 18]
    with pytest.raises(UnifiedError, match="category_ids has 1 ids for 2 classes"):
        result().to_coco(category_ids=[1])


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_supervision_gets_boxes_names_and_vectors() -> None:
    pytest.importorskip("supervision", reason="needs supervision (extra 'supervision')")
    said = result().to_supervision()
    assert said.xyxy.tolist() == [[10, 20, 30, 40], [0, 0, 80, 48]]
    assert said.confidence.tolist() == [0.75, 0.5]
    assert said.class_id.tolist() == [1, 0]
    assert said.data["class_name"].tolist() == ["dog", "cat"]
    assert said[said.confidence > 0.6].data["embedding"].tolist() == [[1, 0]]
    assert len(result_of(Prediction(size=(4, 4)), result().still).to_supervision()) == 0


def test_pandas_gets_a_row_a_box() -> None:
    pytest.importorskip("pandas", reason="needs pandas (extra 'pandas')")
    table = result().to_pandas()
    assert list(table.columns) == ["name", "label", "score", "x0", "y0", "x1", "y1"]
    assert table.iloc[0].tolist() == ["dog", 1, 0.75, 10, 20, 30, 40]
    assert result().to_pandas("tags")["name"].tolist() == ["rain", "night"]
    with pytest.raises(UnifiedError, match="unknown table 'tag'"):
        result().to_pandas("tag")  # type: ignore[arg-type]


@pytest.mark.parametrize(("module", "call"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_form_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch, module: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnifiedError) as caught:
        getattr(result(), call)()
    assert str(caught.value).endswith(f"which is not installed: pip install 'unified-networks[{module}]'")


def test_drawings_are_saved_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise()).save(path)
    before, said = path.read_bytes(), result(path)
    assert said.save(tmp_path) == tmp_path / "photo-seen.jpg"
    assert said.save(tmp_path / "new" / "deep") == tmp_path / "new" / "deep" / "photo-seen.jpg"
    assert said.save(tmp_path / "x.png").is_file()
    assert json.loads(said.save(tmp_path / "x.json").read_text())["boxes"]
    assert Image.open(tmp_path / "photo-seen.jpg").size[0] == 480
    with pytest.raises(UnifiedError, match="is the picture itself"):
        said.save(path)
    with pytest.raises(UnifiedError, match=r"unknown suffix; known: .jpeg, .jpg"):
        said.save(tmp_path / "x.gif")
    assert path.read_bytes() == before


def test_a_picture_can_be_drawn_on_another(tmp_path: Path) -> None:
    said, blank = result(), np.zeros((48, 80, 3), np.uint8)
    drawn = np.asarray(said.plot(blank).convert("L"))
    assert drawn.shape[1] == 480
    assert not np.array_equal(drawn, np.asarray(said.plot().convert("L")))
    path = tmp_path / "gone.png"
    Image.fromarray(noise()).save(path)
    gone = result(path)
    path.unlink()
    with pytest.raises(UnifiedError, match="is missing"):
        gone.plot()


def test_what_a_strangers_task_says_follows_into_the_pictures_pixels() -> None:
    said = Prediction(size=(64, 64), extras={"pose": Pose(torch.tensor([[34.0, 20]])), "count": 3})
    moved = said.in_frame(Frame("", (32, 16), scale=(2.0, 2.0), offset=(16.0, 0.0)))
    assert moved.extras["pose"].points.tolist() == [[9, 10]]
    assert moved.extras["count"] == 3
