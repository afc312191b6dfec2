# SPDX-License-Identifier: Apache-2.0
"""How a head's answer leaves a graph as named tensors, and becomes the same answer again where the graph is run.

Legend: B images, P points, K classes, A tags, N boxes shown of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from unified.contracts.errors import CheckpointError, ConfigError, suggestion
from unified.contracts.exporting import Suppression

Size = tuple[int, int]  # (height, width) pixels of the input
_PLAIN: Final = (bool, int, float, str)


class Ending(ABC):
    """One way out of a graph. ``facts`` are JSON: what the tensors do not say."""

    name: ClassVar[str]

    @abstractmethod
    def tensors(self, output: Any) -> dict[str, Tensor]:
        """The answer as tensors by name, with ordinary operations: this becomes part of the graph."""

    def facts(self, output: Any, size: Size) -> dict[str, Any]:
        """What :meth:`restore` must be told beside the tensors; by an example for an input of ``size``."""
        return {}

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], structure: type, size: Size) -> Any:
        """An answer that the task reads like the head's own. ``structure``: the class of the head's answer."""


class Fields(Ending):
    """The fields of a head's answer as they are; of any head whose answer is a dataclass of tensors and numbers."""

    name = "fields"

    def tensors(self, output: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in _fields(output):
            if isinstance(value, Tensor):
                found[name] = value
            elif _are_tensors(value):
                found |= {f"{name}_{i}": each for i, each in enumerate(value)}
        return found

    def facts(self, output: Any, size: Size) -> dict[str, Any]:
        said: dict[str, Any] = {"structure": type(output).__name__, "counts": {}, "sizes": [], "constants": {}}
        for name, value in _fields(output):
            if isinstance(value, Tensor):
                continue
            if _are_tensors(value):
                said["counts"][name] = len(value)
            elif isinstance(value, tuple) and tuple(value) == size:
                said["sizes"].append(name)
            elif _is_plain(value):
                said["constants"][name] = list(value) if isinstance(value, tuple) else value
            else:
                raise ConfigError(
                    f"{type(output).__name__}.{name} is {type(value).__name__}: what leaves a graph must be tensors, "
                    "or numbers and words that are the same for every picture"
                )
        return said

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], structure: type, size: Size) -> Any:
        if structure.__name__ != facts["structure"]:
            raise CheckpointError(
                f"the file was made of a head that answers {facts['structure']}, the installed one answers "
                f"{structure.__name__}"
            )
        constants = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["constants"].items()}
        lists = {k: tuple(tensors[f"{k}_{i}"] for i in range(count)) for k, count in facts["counts"].items()}
        known = {*constants, *lists, *facts["sizes"]}
        single = {field.name: tensors[field.name] for field in fields(structure) if field.name not in known}
        return structure(**constants, **lists, **dict.fromkeys(facts["sizes"], size), **single)


@dataclass(frozen=True)
class Answered:
    """A box head's answer that a graph has decoded already: every reader of ``decode`` can read it."""

    boxes_xyxy: Tensor  # (B, P, 4) pixels
    scores: Tensor  # (B, P, K) in 0..1; -1: nothing is said
    single: bool  # repeats need no suppression

    def decode(self) -> tuple[Tensor, Tensor]:
        return self.boxes_xyxy, self.scores


class Boxes(Ending):
    """Boxes (B, P, 4) in pixels and scores (B, P, K), of a head whose answer can ``decode()``."""

    name = "boxes"

    def tensors(self, output: Any) -> dict[str, Tensor]:
        boxes, scores = output.decode()
        return {"boxes_xyxy": boxes, "scores": scores}

    def facts(self, output: Any, size: Size) -> dict[str, Any]:
        return {"single": bool(getattr(output, "single", False))}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], structure: type, size: Size) -> Any:
        return Answered(tensors["boxes_xyxy"], tensors["scores"], bool(facts["single"]))


class Shown(Ending):
    """The boxes that are shown, after suppression: see :func:`unified.export.suppression.shown`."""

    name = "shown"

    def __init__(self, rule: Suppression | None = None) -> None:
        self.rule = rule or Suppression()

    def tensors(self, output: Any) -> dict[str, Tensor]:
        from unified.export.suppression import shown

        boxes, scores = output.decode()
        return shown(boxes, scores, self.rule)

    def facts(self, output: Any, size: Size) -> dict[str, Any]:
        return {"classes": int(output.decode()[1].shape[2]), "rule": vars(self.rule)}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], structure: type, size: Size) -> Any:
        """Each box says its one class; all other scores are -1, so that nothing else is ever read."""
        scores, labels, count = tensors["scores"], tensors["labels"].long(), tensors["count"]
        is_box = torch.arange(scores.shape[1]) < count[:, None]
        said = torch.where(is_box, scores, -1.0)[..., None]
        spread = scores.new_full((*scores.shape, int(facts["classes"])), -1.0).scatter(2, labels[..., None], said)
        return Answered(tensors["boxes_xyxy"], spread, single=True)


class Tags(Ending):
    """Scores (B, A) in 0..1, of a head whose answer has nothing but ``logits``."""

    name = "tags"

    def tensors(self, output: Any) -> dict[str, Tensor]:
        return {"scores": output.logits.float().sigmoid()}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], structure: type, size: Size) -> Any:
        return structure(logits=tensors["scores"].logit())


ENDINGS: Final[Mapping[str, type[Ending]]] = {each.name: each for each in (Fields, Boxes, Shown, Tags)}


def ending_for(output: Any, decode: bool, rule: Suppression | None) -> Ending:
    """How an answer leaves the graph.

    Args:
        output: an example.
        decode: whether the graph says boxes in pixels and scores in 0..1, or what the head says.
        rule: how it suppresses repeats; None: it does not.

    Raises:
        ConfigError: it is no dataclass.
    """
    if not is_dataclass(output):
        raise ConfigError(f"a head that answers {type(output).__name__} cannot be exported; let it answer a dataclass")
    if decode and hasattr(output, "decode"):
        return Boxes() if rule is None else Shown(rule)
    if decode and [name for name, _ in _fields(output)] == ["logits"]:
        return Tags()
    return Fields()


def ending_named(name: str) -> Ending:
    """An ending by its name in a file.

    Raises:
        CheckpointError: a newer version made the file.
    """
    if name not in ENDINGS:
        raise CheckpointError(f"unknown ending '{name}'{suggestion(name, ENDINGS)}; update unified")
    return ENDINGS[name]()


def _fields(output: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(output, field.name)) for field in fields(output)]


def _are_tensors(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(each, Tensor) for each in value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(each, _PLAIN) for each in value))
