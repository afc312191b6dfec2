# SPDX-License-Identifier: Apache-2.0
"""Detectron2: our network as one of its meta-architectures, fed with its dataset dicts, answering in its Instances.

``MODEL.META_ARCHITECTURE = "UnifiedNetwork"`` makes ``detectron2.modeling.build_model`` build it; its mappers, trainer,
evaluators and ``DefaultPredictor`` work as with any other model, and its checkpoints are its own. Written after
detectron2's documentation of the formats that models take and give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import ConfigError, DataError
from unified.contracts.structures import Annotations, Batch, Frame, LabelState, Prediction, Vocabulary
from unified.data.transforms import letterbox
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.model.defaults import spelled_out
from unified.model.prediction import predict_all
from unified.trained import Trained
from unified.training.balance import normalised
from unified.training.joint import JointModel
from unified.training.start import begin_with

try:
    from detectron2.config import CfgNode
    from detectron2.data import MetadataCatalog
    from detectron2.modeling import META_ARCH_REGISTRY, detector_postprocess
    from detectron2.structures import Boxes, Instances
except ImportError:
    raise ConfigError(
        "the detectron2 bridge needs detectron2, which is not installed; it is on no package index: build it from its "
        "own source, as its installation page says"
    ) from None

TASK = "det"  # what its boxes are called here
Dict = Mapping[str, Any]
"""A dataset dict as a mapper leaves it: ``image`` (3, H, W), and perhaps ``instances``, ``height``, ``width``."""


def add_unified_config(cfg: Any) -> None:
    """Gives a configuration of detectron2 the section ``MODEL.UNIFIED``, with defaults.

    ``NAME``: a shipped model or a YAML file. ``SIZE``: side of the input in pixels. ``SETTINGS``: a list of
    ``KEY=VALUE`` of ``unified-train``. ``FROM``: a run or model folder to begin with. ``CLASSES``: names; by default
    ``thing_classes`` of the first training dataset. ``CONFIDENCE``: least score of an answer.
    """
    cfg.MODEL.UNIFIED = CfgNode()
    node = cfg.MODEL.UNIFIED
    node.NAME, node.SIZE, node.SETTINGS = "unified-n", 640, []
    node.FROM, node.CLASSES, node.CONFIDENCE = "", [], 0.05


@META_ARCH_REGISTRY.register()
class UnifiedNetwork(nn.Module):
    """A network of ours with the task of finding boxes, as detectron2 takes models.

    Args:
        cfg: a configuration with :func:`add_unified_config`. ``INPUT.FORMAT`` may be BGR or RGB.

    Raises:
        ConfigError: no class names, another picture format, or a word of ``MODEL.UNIFIED`` that is not understood.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        said = cfg.MODEL.UNIFIED
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise ConfigError(f"INPUT.FORMAT {cfg.INPUT.FORMAT}: the network takes BGR or RGB")
        self.flipped = cfg.INPUT.FORMAT == "BGR"
        self.confidence = float(said.CONFIDENCE)
        self.vocabulary = Vocabulary(boxes=_classes(cfg))
        settings = [*said.SETTINGS, f"train.size={said.SIZE}"]
        config, self.base = load_run_config(model=said.NAME, data="shapes", tasks=[TASK], overrides=settings)
        self.config: RunConfig = spelled_out(config)
        parts = assemble(self.config.model, self.config.tasks, self.vocabulary, fetch=False)
        parts.network.check_size(self.config.train.size)
        self.started = begin_with(parts.network, Path(said.FROM)) if said.FROM else ""
        self.joint = JointModel(parts.network, parts.tasks)
        self.joint.settle(self.config)

    @property
    def device(self) -> torch.device:
        """Where its weights are; detectron2 asks for it."""
        return next(self.joint.parameters()).device

    def forward(self, batched_inputs: Sequence[Dict]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses by name while training, else for each picture ``{"instances": Instances}`` in its own pixels.

        Raises:
            DataError: a picture without ``instances`` while training, or a class that is not known.
        """
        if not self.training:
            return self.inference(batched_inputs)
        batch = self.batch(batched_inputs)
        terms = self.joint(batch)[TASK]
        weight = self.config.tasks[TASK].weight
        return {f"loss_{name}": weight * normalised(term, term.count.detach().float()) for name, term in terms.items()}

    @torch.no_grad()
    def inference(self, batched_inputs: Sequence[Dict]) -> list[dict[str, Any]]:
        """What is found in each picture, in pixels of ``height`` and ``width`` where they are given."""
        batch = self.batch(batched_inputs, labelled=False)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        outputs = self.joint.network(batch.images, (TASK,))
        tasks = {TASK: self.joint.task(TASK)}
        found = predict_all(tasks, outputs, size, len(batch), frames=batch.frames, confidence=self.confidence)
        there = [said.in_frame(frame) for said, frame in zip(found, batch.frames, strict=True)]
        return [{"instances": _sized(each, given)} for each, given in zip(there, batched_inputs, strict=True)]

    def batch(self, batched_inputs: Sequence[Dict], labelled: bool = True) -> Batch:
        """Mapped dataset dicts as a batch of ours: whole pictures on the grey of a square input."""
        rows = [self._fitted(given, labelled) for given in batched_inputs]
        images = torch.stack([pixels for pixels, _, _ in rows]).to(self.device, memory_format=torch.channels_last)
        return Batch(images, tuple(known for _, known, _ in rows), tuple(frame for *_, frame in rows), tasks=(TASK,))

    def _fitted(self, given: Dict, labelled: bool) -> tuple[Tensor, Annotations, Frame]:
        image = given["image"].cpu()
        image = (image if image.dtype == torch.uint8 else image.round().clamp(0, 255).to(torch.uint8)).contiguous()
        name = str(given.get("image_id", given.get("file_name", "")))
        pixels, frame = letterbox(image.flip(0) if self.flipped else image, self.config.train.size, name)
        if not labelled:
            return pixels, Annotations(), frame
        if "instances" not in given:
            raise DataError(f"picture '{name}' has no 'instances'; train with a DatasetMapper with is_train=True")
        return pixels, _known(given["instances"], frame, len(self.vocabulary.boxes)), frame

    def finished(self, device: str = "auto") -> UnifiedModel:
        """What was trained, as :func:`unified.load` would give it; ``save_pretrained`` writes it to disk."""
        tasks = {TASK: self.joint.task(TASK).eval()}
        network = self.joint.network.eval()
        return UnifiedModel(Trained(network, tasks, self.vocabulary, self.config, self.base, self.base), device)


def _classes(cfg: Any) -> tuple[str, ...]:
    if cfg.MODEL.UNIFIED.CLASSES:
        return tuple(cfg.MODEL.UNIFIED.CLASSES)
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    classes = tuple(MetadataCatalog.get(name).get("thing_classes") or ()) if name else ()
    if not classes:
        raise ConfigError(f"dataset '{name}' names no thing_classes; set them there, or in MODEL.UNIFIED.CLASSES")
    return classes


def _known(instances: Any, frame: Frame, classes: int) -> Annotations:
    """What Instances say of a picture, in input pixels; every class counts as labelled."""
    boxes, labels = instances.gt_boxes.tensor.float().cpu(), instances.gt_classes.long().cpu()
    if len(labels) and int(labels.max()) >= classes:
        raise DataError(f"picture '{frame.image_id}' has class {int(labels.max())}; there are {classes} class names")
    states = torch.full((classes,), int(LabelState.NEGATIVE), dtype=torch.int8)
    states[labels] = int(LabelState.POSITIVE)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Annotations(
        boxes_xyxy=frame.to_input(boxes),
        box_labels=labels,
        box_states=torch.full((len(labels),), int(LabelState.POSITIVE), dtype=torch.int8),
        box_identities=torch.full((len(labels),), -1),
        box_areas=sides.prod(1),
        box_crowd=torch.zeros(len(labels), dtype=torch.bool),
        states={TASK: states},
    )


def instances(prediction: Prediction) -> Any:
    """A prediction's boxes as ``detectron2.structures.Instances``, with their vectors as ``embeddings`` if it has any.

    Fields: ``pred_boxes`` (Boxes, N), ``scores`` (N,), ``pred_classes`` (N,) int64.
    """
    boxes = prediction.boxes_xyxy if prediction.boxes_xyxy is not None else torch.zeros(0, 4)
    made = Instances(prediction.size)
    made.pred_boxes = Boxes(boxes)
    made.scores = prediction.scores if prediction.scores is not None else boxes.new_ones(len(boxes))
    labels = prediction.labels
    made.pred_classes = labels if labels is not None else torch.zeros(len(boxes), dtype=torch.int64)
    if prediction.box_embeddings is not None:
        made.embeddings = prediction.box_embeddings
    return made


def _sized(prediction: Prediction, given: Dict) -> Any:
    """Instances in the pixels that the dict asks for: those of the picture before a mapper resized it."""
    height, width = given.get("height", prediction.size[0]), given.get("width", prediction.size[1])
    boxes = prediction.boxes_xyxy
    kept = replace(prediction, boxes_xyxy=None if boxes is None else boxes.clone())  # theirs scales them in place
    return detector_postprocess(instances(kept), height, width)
