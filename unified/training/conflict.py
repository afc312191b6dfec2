# SPDX-License-Identifier: Apache-2.0
"""Do the tasks pull the shared trunk in opposite directions? Cosines of their gradients, stage by stage.

Each task's gradient is taken on the same fixed pictures (:mod:`unified.training.probe`), on a copy of the model, so
that nothing that is trained notices. Two tasks are in conflict where their cosine is negative (Yu et al. 2020,
Gradient Surgery, definition 1). A cosine between batches of different pictures says little: two batches of one and the
same task are far from 1 too. The same pictures serve both tasks wherever there are such, and ``agreement`` tells how
much of a gradient is the task and how much the choice of pictures.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unified.checkpoint import write_bytes
from unified.contracts.config import RunConfig
from unified.contracts.structures import Batch
from unified.data.mixing import Mixture
from unified.hardware import Hardware
from unified.model.network import UnifiedNetwork
from unified.training.balance import normalised
from unified.training.course import Course
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.probe import draw_probe

FILE = "conflict.jsonl"
WHOLE = "trunk"  # the last row: all stages together
COST = 0.02  # share of training time that the interval ``auto`` stays below
MARGIN = 2.0  # small batches cost more a picture than large ones
HALF_SCALE = 1024.0  # loss scale under fp16, divided out again

Stages = Mapping[str, Sequence[nn.Parameter]]
Key = tuple[str, str]  # task, dataset
Products = Mapping[tuple[Key, Key], float]


@dataclass(frozen=True)
class ConflictRecord:
    """One look at the tasks' gradients; S stages from the stem to the neck, and the whole trunk last.

    A number is None where a gradient is missing or zero.
    """

    step: int
    seconds: float  # what the look took
    images: int
    stages: tuple[str, ...]  # S
    norm: Mapping[str, tuple[float, ...]]  # task -> (S,)
    agreement: Mapping[str, tuple[float | None, ...]]  # task -> (S,) cosine between its batches; None: one batch
    cosine: Mapping[str, tuple[float | None, ...]]  # "a~b" -> (S,)
    shared: Mapping[str, bool]  # "a~b" -> whether both were asked about the same pictures

    def line(self) -> dict[str, Any]:
        """The record as it stands in ``conflict.jsonl``."""
        rounded = {key: _rounded(getattr(self, key)) for key in ("norm", "agreement", "cosine")}
        seconds = round(self.seconds, 4)
        return {**vars(self), **rounded, "seconds": seconds, "stages": list(self.stages), "shared": dict(self.shared)}


def auto_every(tasks: int, images: int, step_images: int) -> int:
    """Steps between looks that keep their cost below ``COST`` of the time.

    A look is a forward pass of ``images`` and a backward pass (twice as dear) for each task; a step of training is a
    forward and a backward pass of ``step_images``.
    """
    steps = images * (1 + 2 * tasks) / (3 * step_images)
    return math.ceil(MARGIN * steps / COST)


def trunk_stages(network: UnifiedNetwork) -> dict[str, list[nn.Parameter]]:
    """What all tasks share, by stage: the backbone's parts in the order they are defined, then the neck."""
    named = [(name.split("."), p) for name, p in network.backbone.named_parameters() if p.requires_grad]
    while named and len({words[0] for words, _ in named}) == 1 and all(len(words) > 2 for words, _ in named):
        named = [(words[1:], p) for words, p in named]  # a wrapper's own name says nothing
    found: dict[str, list[nn.Parameter]] = {}
    for words, parameter in named:
        found.setdefault(".".join(words[: 2 if words[1:2] and words[1].isdigit() else 1]), []).append(parameter)
    neck = [p for p in network.neck.parameters() if p.requires_grad]
    return {**found, **({"neck": neck} if neck else {})}


class ConflictMeter:
    """Looks at the tasks' gradients every so many steps and writes what it saw to ``RUN/conflict.jsonl``.

    Args:
        probe: batches that name the tasks they serve. Ranks share them: the mean over all batches is what counts, so
            that any number of ranks sees the same.
        every: steps from one look to the next.
    """

    def __init__(
        self, probe: Sequence[Batch], every: int, folder: RunFolder, accelerator: Accelerator, hardware: Hardware
    ) -> None:
        self.probe, self.every = tuple(probe), every
        self.path, self.accelerator, self.hardware = folder.path / FILE, accelerator, hardware

    def due(self, step: int) -> bool:
        """Whether it is time for a look after ``step``."""
        return step > 0 and step % self.every == 0

    def look(self, model: JointModel, step: int, gains: Mapping[str, float] | None = None) -> ConflictRecord:
        """Measures a model, which is left as it was, and appends a line to the file.

        Args:
            gains: factors on losses by name, such as ``det/box``.
        """
        start = time.monotonic()
        with _untouched_dice(self.accelerator.device):
            twin = JointModel(copy.deepcopy(model.network), copy.deepcopy(model.tasks)).train()
            gathered = self._gathered(twin, gains or {})
        record = self._record(gathered, step, start)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(record.line()) + "\n")
        return record

    def trim(self, step: int) -> None:
        """Drops lines of steps after ``step``, which a resumed run will take again."""
        if self.accelerator.is_main_process and self.path.is_file():
            kept = [line for line in read_lines(self.path) if line["step"] <= step]
            write_bytes(self.path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())

    def _gathered(self, twin: JointModel, gains: Mapping[str, float]) -> dict[Key, Gathered]:
        """Sums over the batches of every rank, by task and dataset."""
        stages = trunk_stages(twin.network)
        sizes = {name: sum(p.numel() for p in group) for name, group in stages.items()}
        keys = dict.fromkeys((task, batch.dataset) for batch in self.probe for task in batch.tasks)
        sums = {key: Gathered.empty(sizes, self.accelerator.device) for key in keys}
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for batch in self.probe[rank::world]:
            moved = batch.to(self.accelerator.device, memory_format=torch.channels_last)
            for task, gradient in self._gradients(twin, moved, stages, gains):
                sums[task, batch.dataset].add(gradient)
        return {key: each.over(self.accelerator) for key, each in sums.items()} if world > 1 else sums

    def _gradients(
        self, twin: JointModel, batch: Batch, stages: Stages, gains: Mapping[str, float]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Every task's gradient on one batch, flat by stage."""
        scale = HALF_SCALE if self.hardware.precision == "fp16" else 1.0
        with self.hardware.autocast():
            terms = twin(batch)
        losses = {
            task: torch.stack([normalised(t, t.count) * gains.get(f"{task}/{n}", 1.0) for n, t in items.items()]).sum()
            for task, items in terms.items()
        }
        for left, (task, loss) in zip(range(len(losses) - 1, -1, -1), losses.items(), strict=True):
            found = stage_gradients(loss * scale, stages, keep=left > 0)
            yield task, {name: gradient / scale for name, gradient in found.items()}

    def _record(self, gathered: Mapping[Key, Gathered], step: int, start: float) -> ConflictRecord:
        counts = Counter((task, batch.dataset) for batch in self.probe for task in batch.tasks)
        tasks = list(dict.fromkeys(task for task, _ in gathered))
        grams = gram({key: each.total for key, each in gathered.items()})
        summary = {task: [_alone(g, stage, task, gathered, counts) for stage, g in grams.items()] for task in tasks}
        cosine = {f"{a}~{b}": tuple(_cosine(g, a, b) for g in grams.values()) for a, b in combinations(tasks, 2)}
        return ConflictRecord(
            step=step,
            seconds=time.monotonic() - start,
            images=sum(len(batch) for batch in self.probe),
            stages=tuple(grams),
            norm={task: tuple(norm for norm, _ in rows) for task, rows in summary.items()},
            agreement={task: tuple(agreed for _, agreed in rows) for task, rows in summary.items()},
            cosine=cosine,
            shared={f"{a}~{b}": bool(_common(gathered, a, b)) for a, b in combinations(tasks, 2)},
        )


def make_meter(
    config: RunConfig, mixture: Mixture, folder: RunFolder, accelerator: Accelerator, hardware: Hardware
) -> ConflictMeter | None:
    """The meter that a configuration asks for; None where it asks for none, or one task has nobody to differ from."""
    asked = config.train.diagnostics
    if asked.every is None or len(config.tasks) < 2:
        return None
    probe = draw_probe(mixture.at(config.train.size), asked.batches, asked.batch, config.train.seed)
    images, step_images = sum(len(batch) for batch in probe), Course(config.train, mixture.images).step_images
    every = auto_every(len(config.tasks), images, step_images) if asked.every == "auto" else asked.every
    return ConflictMeter(probe, every, folder, accelerator, hardware)


@dataclass
class Gathered:
    """One task's gradients over batches: their sum and the sum of their squared lengths, by stage."""

    total: dict[str, Tensor]  # (P,) of each stage
    squares: dict[str, float]

    @classmethod
    def empty(cls, sizes: Mapping[str, int], device: torch.device) -> Gathered:
        return cls({name: torch.zeros(size, device=device) for name, size in sizes.items()}, dict.fromkeys(sizes, 0.0))

    def add(self, gradient: Mapping[str, Tensor]) -> None:
        for name, part in gradient.items():
            self.total[name] += part
            self.squares[name] += float(part.double().square().sum())

    def over(self, accelerator: Accelerator) -> Gathered:
        """The same of all ranks together."""
        names = list(self.total)
        squares = torch.tensor([self.squares[name] for name in names], device=accelerator.device)
        summed: list[float] = accelerator.reduce(squares, "sum").tolist()  # type: ignore[union-attr]
        total = {name: accelerator.reduce(self.total[name], "sum") for name in names}
        return Gathered(total, dict(zip(names, summed, strict=True)))  # type: ignore[arg-type]

    def squares_of(self, stage: str) -> float:
        return sum(self.squares.values()) if stage == WHOLE else self.squares[stage]


def stage_gradients(loss: Tensor, stages: Stages, keep: bool = False) -> dict[str, Tensor]:
    """The gradient of a scalar, flat (P,) and in float32, by stage; zeros where it does not reach. No ``.grad`` is set.

    ``keep``: whether the graph is needed again.
    """
    parameters = [p for group in stages.values() for p in group]
    if not parameters or not loss.requires_grad:
        return {name: torch.cat([_flat(p, None) for p in group]).float() for name, group in stages.items()}
    found = iter(torch.autograd.grad(loss, parameters, retain_graph=keep, allow_unused=True))
    return {name: torch.cat([_flat(p, next(found)) for p in group]).float() for name, group in stages.items()}


def gram(gradients: Mapping[Key, Mapping[str, Tensor]]) -> dict[str, Products]:
    """Inner products of gradients by stage, and of all stages together under ``trunk``."""
    keys = list(gradients)
    exact = {key: {stage: part.double() for stage, part in by.items()} for key, by in gradients.items()}
    stages = list(exact[keys[0]]) if keys else []
    found = {stage: {(a, b): float(exact[a][stage] @ exact[b][stage]) for a in keys for b in keys} for stage in stages}
    whole = {(a, b): sum(found[stage][a, b] for stage in stages) for a in keys for b in keys}
    return {**found, WHOLE: whole}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``conflict.jsonl``; one that a crash cut off is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "cosine" in line:
            found.append(line)
    return found


@contextmanager
def _untouched_dice(device: torch.device) -> Iterator[None]:
    """Random numbers drawn inside are always the same and leave the generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(0)
        yield


def _flat(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.detach().reshape(-1)


def _common(keys: Iterable[Key], a: str, b: str) -> set[str]:
    """Datasets on which both tasks were asked."""
    known = set(keys)
    return {dataset for task, dataset in known if task == a and (b, dataset) in known}


def _cosine(products: Products, a: str, b: str) -> float | None:
    """Between two tasks, on the datasets that serve both; where there is none, each on its own."""
    keys = {key for pair in products for key in pair}
    both = _common(keys, a, b)
    mine, theirs = ([key for key in keys if key[0] == task and (not both or key[1] in both)] for task in (a, b))

    def product(left: Sequence[Key], right: Sequence[Key]) -> float:
        return sum(products[x, y] for x in left for y in right)

    length = math.sqrt(max(product(mine, mine), 0.0)) * math.sqrt(max(product(theirs, theirs), 0.0))
    known = length > 0 and math.isfinite(length)
    return max(-1.0, min(1.0, product(mine, theirs) / length)) if known else None


def _alone(
    products: Products, stage: str, task: str, gathered: Mapping[Key, Gathered], counts: Mapping[Key, int]
) -> tuple[float, float | None]:
    """Length of a task's mean gradient, and how far its batches agree."""
    keys = [key for key in gathered if key[0] == task]
    square, batches = sum(products[x, y] for x in keys for y in keys), sum(counts[key] for key in keys)
    squares = sum(gathered[key].squares_of(stage) for key in keys)
    return math.sqrt(max(square, 0.0)) / batches, agreement(square, squares, batches)


def agreement(square_of_sum: float, sum_of_squares: float, batches: int) -> float | None:
    """Mean inner product of two different batches' gradients over their mean squared length: 1 alike, 0 unrelated."""
    if batches < 2 or not sum_of_squares > 0 or not math.isfinite(sum_of_squares):
        return None
    return (square_of_sum - sum_of_squares) / ((batches - 1) * sum_of_squares)


def _rounded(values: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    def one(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

    return {name: [one(value) for value in row] for name, row in values.items()}
