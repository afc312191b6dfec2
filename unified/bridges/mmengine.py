# SPDX-License-Identifier: Apache-2.0
"""MMEngine: its Runner and its hooks train our network on our data.

``UnifiedModel`` stands in its registry MODELS and ``UnifiedMetric`` in METRICS; loaders are those of a
:class:`~unified.bridges.workshop.Workshop`. A Runner evaluates on one rank only, and its checkpoints are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unified.bridges.workshop import Workshop
from unified.contracts.errors import ConfigError, needs
from unified.contracts.protocols import Metric
from unified.contracts.scoring import metric_of
from unified.contracts.structures import Batch, Prediction
from unified.model.prediction import predict_all
from unified.training.evaluator import LOW_CONFIDENCE

try:
    from mmengine.dist import get_world_size
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseDataPreprocessor, BaseModel
    from mmengine.registry import METRICS, MODELS
except ImportError:
    raise needs("the MMEngine bridge", "mmengine", "mmengine") from None


@dataclass(frozen=True)
class Answer:
    """What the network said of one validation batch, and the truth."""

    outputs: Mapping[str, Any]  # by task, as its head gives them
    predictions: Sequence[Prediction]  # B, in input pixels
    batch: Batch


class BatchPreprocessor(BaseDataPreprocessor):  # type: ignore[misc]
    """Brings a batch of ours to the model's device; its pictures are ready otherwise."""

    def forward(self, data: Batch, training: bool = False) -> dict[str, Batch]:
        return {"batch": data.to(self.device)}


@MODELS.register_module()
class UnifiedModel(BaseModel):  # type: ignore[misc]
    """A network and its tasks' losses as MMEngine takes models.

    ``mode="loss"`` gives a scalar ``loss_TASK`` for every task that a batch serves, weighted as configured (the Runner
    adds them up: other balancers belong to ``unified-train``), ``mode="predict"`` one :class:`Answer`, and
    ``mode="tensor"`` the heads' outputs by task.

    Args:
        workshop: the configured run, or the words of one: ``dict(tasks=["det", "cls"], data="my.yaml")``.

    Raises:
        ConfigError: a word that is not known, or a balancer that an MMEngine Runner cannot serve.
    """

    def __init__(self, workshop: Workshop | Mapping[str, Any]) -> None:
        super().__init__(data_preprocessor=BatchPreprocessor())
        self.workshop = workshop if isinstance(workshop, Workshop) else Workshop.of(**workshop)
        if (name := self.workshop.config.balance.name) != "fixed":
            raise ConfigError(f"balance {name}: MMEngine's Runner adds losses up; use fixed here, or unified-train")
        self.joint = self.workshop.joint_model()

    def forward(self, batch: Batch, mode: Literal["tensor", "loss", "predict"] = "tensor") -> Any:
        if mode == "loss":
            return {f"loss_{task}": loss for task, loss in self.workshop.losses(self.joint, batch).items()}
        outputs: Mapping[str, Any] = self.joint.network(batch.images, batch.tasks)
        if mode == "tensor":
            return outputs
        tasks = {name: self.joint.task(name) for name in batch.tasks}
        size = (batch.images.shape[-2], batch.images.shape[-1])
        found = predict_all(tasks, outputs, size, len(batch), frames=batch.frames, confidence=LOW_CONFIDENCE)
        return [Answer(outputs, found, batch)]


@METRICS.register_module()
class UnifiedMetric(BaseMetric):  # type: ignore[misc]
    """The scores of :command:`unified-eval`, by the same flat names: ``det/AP50``, ``cls/mAP``, ``emb/R@1``.

    Args:
        model: whose tasks say how they are measured.

    Raises:
        ConfigError: there are several ranks; each would see only its share.
    """

    def __init__(self, model: UnifiedModel) -> None:
        super().__init__(prefix="unified")
        self.model = model
        self._parts: dict[str, Metric] = {}

    def process(self, data_batch: Batch, data_samples: Sequence[Answer]) -> None:
        """Gathers the evidence of one batch."""
        if get_world_size() > 1:
            raise ConfigError("UnifiedMetric measures on one rank; validate with unified-eval, or without torchrun")
        if not self._parts:
            names = self.model.workshop.config.tasks
            self._parts = {name: metric_of(self.model.joint.task(name)) for name in names}
        for answer in data_samples:
            for name in answer.batch.tasks:
                self._parts[name].update(answer.outputs[name], answer.predictions, answer.batch)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """All scores that have evidence."""
        return {f"{name}/{key}": v for name, part in self._parts.items() for key, v in part.compute().items()}

    def evaluate(self, size: int) -> dict[str, float]:
        """Scores of everything since the last call."""
        scores, self._parts = self.compute_metrics([]), {}
        return scores
