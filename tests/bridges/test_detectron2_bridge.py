# SPDX-License-Identifier: Apache-2.0
"""Our network as a meta-architecture: losses fall, answers are ours, in the pixels that detectron2 asks for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from detectron2_stand_in import stand_in
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError
from unified.inference.model import UnifiedModel

MISSING = importlib.util.find_spec("detectron2") is None
REAL = pytest.param(
    "package", marks=pytest.mark.skipif(MISSING, reason="detectron2 is not installed: it must be built from its source")
)
BRIDGE = "unified.bridges.detectron2"


@pytest.fixture(params=["stand-in", REAL])
def bridge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if request.param == "package":
        yield importlib.import_module(BRIDGE)
        return
    stand_in(monkeypatch)
    monkeypatch.delitem(sys.modules, BRIDGE, raising=False)
    yield importlib.import_module(BRIDGE)
    sys.modules.pop(BRIDGE, None)


def dataset() -> list[dict[str, Any]]:
    """Two pictures in detectron2's standard form: a dark or a bright square on grey."""
    rows = []
    for k, label in enumerate((0, 1, 0, 1)):
        box = [20.0 + 5 * k, 30.0, 60.0 + 5 * k, 70.0]
        annotations = [{"bbox": box, "bbox_mode": 0, "category_id": label, "iscrowd": 0}]
        rows.append({"file_name": f"{k}.png", "image_id": k, "height": 96, "width": 128, "annotations": annotations})
    return rows


def mapped(row: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    """What a mapper of detectron2 makes of a row: pixels in BGR at another size, and Instances."""
    from detectron2.structures import Boxes, Instances

    size = (round(row["height"] * scale), round(row["width"] * scale))
    image = torch.full((3, *size), 120, dtype=torch.uint8)
    boxes = torch.tensor([each["bbox"] for each in row["annotations"]]) * scale
    labels = torch.tensor([each["category_id"] for each in row["annotations"]])
    for (left, top, right, bottom), label in zip(boxes.round().int().tolist(), labels.tolist(), strict=True):
        image[:, top:bottom, left:right] = torch.tensor([0, 0, 250] if label else [250, 0, 0])[:, None, None]
    found = Instances(size)
    found.gt_boxes, found.gt_classes = Boxes(boxes), labels
    return {**{k: v for k, v in row.items() if k != "annotations"}, "image": image, "instances": found}


def configured(bridge: ModuleType, folder: Path, **said: Any) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    bridge.add_unified_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "UnifiedNetwork", "cpu"
    cfg.MODEL.UNIFIED.NAME, cfg.MODEL.UNIFIED.SIZE = tiny.write_model(folder), 96
    cfg.DATASETS.TRAIN = ("squares",)
    for name, value in said.items():
        setattr(cfg.MODEL.UNIFIED, name, value)
    return cfg


@pytest.fixture
def catalogued(bridge: ModuleType) -> Iterator[list[dict[str, Any]]]:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    DatasetCatalog.register("squares", dataset)
    MetadataCatalog.get("squares").thing_classes = ["blue", "red"]
    yield DatasetCatalog.get("squares")
    DatasetCatalog.remove("squares")
    MetadataCatalog.remove("squares")


def built(bridge: ModuleType, folder: Path, **said: Any) -> Any:
    from detectron2.modeling import build_model

    return build_model(configured(bridge, folder, **said))


def trained(model: Any, rows: list[dict[str, Any]], steps: int = 60) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(steps):
        losses: dict[str, Tensor] = model.train()(rows)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    return totals


def test_dicts_of_the_catalog_train_it_and_instances_come_back(
    bridge: ModuleType, catalogued: list[dict[str, Any]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = built(bridge, tmp_path)
    rows = [mapped(row) for row in catalogued]
    totals = trained(model, rows)
    assert set(model.train()(rows)) == {"loss_box", "loss_class", "loss_dfl"}
    assert totals[-1] < 0.5 * totals[0]
    answered = model.eval()(rows)
    assert [set(each) for each in answered] == [{"instances"}] * 4
    for row, each in zip(catalogued, answered, strict=True):
        found, (true,) = each["instances"], row["annotations"]
        best = int(found.scores.argmax())
        assert found.image_size == (96, 128)
        assert found.pred_classes[best] == true["category_id"]
        assert torch.allclose(found.pred_boxes.tensor[best], torch.tensor(true["bbox"]), atol=6.0)


def test_it_says_what_our_own_model_says_in_pixels_of_the_file(
    bridge: ModuleType, catalogued: list[dict[str, Any]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = built(bridge, tmp_path, CONFIDENCE=0.0)
    row = mapped(catalogued[0], scale=0.75)
    ours: UnifiedModel = model.finished("cpu")
    (said,) = model.eval()([row])
    boxes = ours.predict(row["image"].flip(0), confidence=0.0).boxes
    found = said["instances"]
    assert boxes is not None
    boxes = boxes[(boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all(1)]  # detectron2 leaves empty ones out
    assert len(found) == len(boxes) > 9
    assert torch.allclose(found.pred_boxes.tensor, boxes.xyxy / 0.75, atol=1e-3)
    assert torch.equal(found.scores, boxes.scores)
    assert torch.equal(found.pred_classes, boxes.labels)
    home = UnifiedModel.from_pretrained(ours.save_pretrained(tmp_path / "handed"), device="cpu")
    assert home.trained.vocabulary.boxes == ("blue", "red")
    begun = built(bridge, tmp_path, FROM=str(tmp_path / "handed"), CONFIDENCE=0.0)
    assert torch.equal(begun.eval()([row])[0]["instances"].scores, found.scores)


def test_instances_of_a_result_have_its_vectors(bridge: ModuleType) -> None:
    from spare import noise, spare_model

    result = spare_model().predict(noise(), confidence=0.0)
    made = bridge.instances(result)
    assert torch.equal(made.pred_boxes.tensor, result.boxes.xyxy)
    assert torch.equal(made.embeddings, result.box_embeddings)
    assert made.image_size == (48, 80)


def test_what_is_wrong_is_one_line(bridge: ModuleType, catalogued: list[dict[str, Any]], tmp_path: Path) -> None:
    model = built(bridge, tmp_path, CLASSES=["blue"])
    with pytest.raises(DataError, match="picture '1' has class 1; there are 1 class names"):
        model.train()([mapped(catalogued[1])])
    bare = {key: value for key, value in mapped(catalogued[0]).items() if key != "instances"}
    with pytest.raises(DataError, match="picture '0' has no 'instances'"):
        model.train()([bare])
    assert len(model.eval()([bare])) == 1
    cfg = configured(bridge, tmp_path)
    cfg.DATASETS.TRAIN = ("nameless",)
    with pytest.raises(ConfigError, match="dataset 'nameless' names no thing_classes"):
        bridge.UnifiedNetwork(cfg)
    cfg = configured(bridge, tmp_path)
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT L"):
        bridge.UnifiedNetwork(cfg)


@pytest.mark.skipif(not MISSING, reason="detectron2 is installed")
def test_without_the_package_one_line_says_so() -> None:
    sys.modules.pop(BRIDGE, None)
    with pytest.raises(ConfigError, match="the detectron2 bridge needs detectron2, which is not installed"):
        importlib.import_module(BRIDGE)
