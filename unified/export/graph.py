# SPDX-License-Identifier: Apache-2.0
"""A trained network as a function of one tensor: latents folded, norms fused, answers as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError
from unified.contracts.exporting import Suppression
from unified.export.artifact import Outlet
from unified.export.endings import Ending, ending_for
from unified.export.opened import structure_of
from unified.model.fusion import fuse
from unified.model.network import UnifiedNetwork
from unified.trained import Trained

BOXES = "boxes_xyxy"


class ExportGraph(nn.Module):
    """images (B, 3, H, W) float in 0..1 -> the tensors of every outlet, in order.

    Args:
        network: in evaluation mode.
        outlets: what leaves, and how.
        endings: one for each outlet.
    """

    def __init__(self, network: UnifiedNetwork, outlets: Sequence[Outlet], endings: Sequence[Ending]) -> None:
        super().__init__()
        self.network = network
        self.outlets, self.endings = tuple(outlets), tuple(endings)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(name for outlet in self.outlets for name in outlet.outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answers = self.network(images, [outlet.task for outlet in self.outlets])
        found: dict[str, Tensor] = {}
        for outlet, ending in zip(self.outlets, self.endings, strict=True):
            tensors = ending.tensors(answers[outlet.task])
            found |= {outlet.tensors[name]: tensor for name, tensor in tensors.items()}
        for outlet in self.outlets:
            for boxes, name in outlet.extra.items():
                found[name] = _vectors(answers[outlet.task], found[boxes])
        return tuple(found[name] for name in self.names)

    def on(self, network: UnifiedNetwork) -> ExportGraph:
        """The same outlets of another network."""
        return ExportGraph(network, self.outlets, self.endings).eval()


def plan(trained: Trained, decode: bool, suppress: bool, rules: Mapping[str, Any] | None = None) -> ExportGraph:
    """The graph of a trained network as it is, unfolded: what an exported one is compared with.

    Args:
        trained: with the tasks that are wanted.
        decode: whether the graph says boxes in pixels and scores in 0..1, or what the heads say.
        suppress: whether it shows the best boxes only, without repeats.
        rules: fields of :class:`Suppression` that are to differ from the task's own.

    Raises:
        ConfigError: a head that cannot be exported.
    """
    network = trained.network.eval()
    size = (2 * network.stride, 3 * network.stride)
    with torch.no_grad():
        answers = network(torch.zeros(1, 3, *size), list(trained.tasks))
    outlets, endings = [], []
    for task, answer in answers.items():
        rule = _rule(trained.tasks[task], rules or {}) if suppress else None
        ending = ending_for(answer, decode, rule)
        with torch.no_grad():
            names = {name: f"{task}_{name}" for name in ending.tensors(answer)}
        outlets.append(Outlet(task, ending.name, names, ending.facts(answer, size)))
        endings.append(ending)
        _check_structure(trained, task, answer)
    if suppress:
        outlets = _with_vectors(outlets, answers)
    return ExportGraph(network, outlets, endings).eval()


def folded(network: UnifiedNetwork) -> UnifiedNetwork:
    """A copy for inference: latents folded, norms fused, and nothing computed in place, which graphs cannot hold."""
    made = fuse(network)
    for module in made.modules():
        if isinstance(module, nn.SiLU | nn.ReLU):
            module.inplace = False
    return made


def _rule(task: Any, rules: Mapping[str, Any]) -> Suppression:
    own = getattr(task, "selection", None)
    said = {each.name: getattr(own, each.name) for each in fields(Suppression) if hasattr(own, each.name)}
    return Suppression(**{**said, **{name: value for name, value in rules.items() if value is not None}})


def _with_vectors(outlets: Sequence[Outlet], answers: Mapping[str, Any]) -> list[Outlet]:
    """With a vector for every shown box, of each task whose answer can read them."""
    boxes = next((outlet.tensors[BOXES] for outlet in outlets if outlet.ending == "shown"), None)
    made = []
    for outlet in outlets:
        reads = boxes is not None and hasattr(answers[outlet.task], "box_vectors")
        extra = {boxes: f"{outlet.task}_box_embeddings"} if reads and boxes else {}
        made.append(Outlet(outlet.task, outlet.ending, outlet.tensors, outlet.facts, extra))
    return made


def _vectors(answer: Any, boxes: Tensor) -> Tensor:
    from unified.export.suppression import box_embeddings

    return box_embeddings(answer, boxes)


def _check_structure(trained: Trained, task: str, answer: Any) -> None:
    said = structure_of(trained.config.tasks[task], trained.config.model)
    if said is not type(answer):
        raise ConfigError(
            f"the head of task '{task}' answers {type(answer).__name__}, its forward is annotated {said.__name__}; "
            "annotate what it answers"
        )
