# SPDX-License-Identifier: Apache-2.0
"""How many images fit: the batch of a run that leaves it to the machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from accelerate import Accelerator
from torch import Tensor

from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader
from unified.data.mixing import Mixture
from unified.hardware import Hardware, free_memory
from unified.model.build import Assembly, assemble
from unified.training.course import Course
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer
from unified.training.portions import is_out_of_memory
from unified.training.ranks import Ranks

SHARE: Final = {"cuda": 0.8, "cpu": 0.5}  # of the free memory; the rest is for other pictures, and for others
MOST: Final = {"cuda": 1024, "cpu": 64}  # images a forward pass: on a CPU more are not faster
OVERHEAD: Final = 1.5  # times what backward passes need: what comes and goes while they run
COPIES: Final = 5  # of the weights: themselves, gradients, two moments and the average

Needs = Callable[[int], int | None]
"""Bytes that a forward and backward pass of so many images needs; None where they do not fit at all."""


@dataclass(frozen=True)
class Fit:
    """What was found."""

    images: int  # of a forward pass on one device
    needed: int  # bytes
    budget: int  # bytes

    def line(self, batch: int, device: str) -> str:
        """For a person."""
        return (
            f"batch {batch}: a pass of {self.images} images needs {self.needed / 1e9:.2f} GB "
            f"of {self.budget / 1e9:.2f} GB that may be used on {device}"
        )


def largest(needs: Needs, budget: int, most: int) -> Fit:
    """The largest power of two of images within a budget, looked for from 1 upwards.

    Raises:
        ConfigError: not even one image fits.
    """
    found: Fit | None = None
    images = 1
    while images <= most and (needed := needs(images)) is not None and needed <= budget:
        found = Fit(images, needed, budget)
        images *= 2
    if found is None:
        raise ConfigError(f"batch auto: not even one image fits in {budget / 1e9:.2f} GB; lower size, or give a batch")
    return found


def settled_batch(
    config: RunConfig, mixture: Mixture, accelerator: Accelerator, hardware: Hardware
) -> tuple[RunConfig, list[str]]:
    """A configuration that says how large a batch is, and a line about it where that had to be found.

    On a GPU real steps are taken with more and more images; elsewhere what two passes keep for their backward passes
    is counted, and the rest follows. All ranks take what fits on each of them. Torch's dice stay as they are.

    Raises:
        ConfigError: not even one image fits.
    """
    if not config.train.auto_batch:
        return config, []
    hardware = Hardware(accelerator.device, hardware.precision)
    cuda = [hardware.device] if hardware.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        fit = _fit(config, mixture, hardware, local=_local_ranks(accelerator))
    images = round(-Ranks(accelerator).most([-fit.images])[0])
    batch = images * config.train.accumulate * accelerator.num_processes
    chosen = config.train.model_copy(update={"batch": batch})
    return config.model_copy(update={"train": chosen}), [fit.line(batch, str(hardware.device))]


def _local_ranks(accelerator: Accelerator) -> int:
    """Ranks that share one memory."""
    shared = accelerator.device.type != "cuda"
    return accelerator.num_processes if shared else 1


def _fit(config: RunConfig, mixture: Mixture, hardware: Hardware, local: int) -> Fit:
    kind = "cuda" if hardware.device.type == "cuda" else "cpu"
    probe = Probe(config, mixture, hardware)
    budget = int(SHARE[kind] * free_memory(hardware.device) / local)
    nominal = config.train.nominal_batch
    most = min(MOST[kind], max(1, mixture.images), *([nominal] if nominal else []))
    return largest(probe.measured if kind == "cuda" else probe.reckoned(), budget, most)


class Probe:
    """Real passes of a run's network over its own training pictures, at the largest side that they may have."""

    def __init__(self, config: RunConfig, mixture: Mixture, hardware: Hardware) -> None:
        self.config, self.hardware = config, hardware
        parts: Assembly = assemble(config.model, config.tasks, mixture.vocabulary, fetch=False, growth=config.growth)
        self.model = hardware.place(JointModel(parts.network, parts.tasks)).train()
        stride = max(parts.network.neck.spec.strides)
        vary = max(phase.augment.multi_scale for phase in Course(config.train, mixture.images).phases)
        side = math.ceil(config.train.size * (1 + vary) / stride) * stride
        loader = EvalLoader(mixture, batch=2, size=side, workers=0, limit=2)
        self.batches = list({batch.dataset: batch for batch in loader}.values())

    def measured(self, images: int) -> int | None:
        """Bytes at the highest of whole steps, each of another dataset; None where memory ran out."""
        device = self.hardware.device
        optimizer = make_optimizer(self.model, self.config.train)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            for batch in self.batches:
                self._loss(filled(batch, images)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return int(torch.cuda.max_memory_allocated(device)) - before
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self.model.zero_grad(set_to_none=True)
            del optimizer
            torch.cuda.empty_cache()
        return None

    def reckoned(self) -> Needs:
        """A straight line through what passes of two and of four images keep, above the weights' own copies."""
        two, four = (max(self._kept(filled(batch, n)) for batch in self.batches) for n in (2, 4))
        each = max((four - two) / 2, 1.0)
        weights = COPIES * sum(p.numel() * p.element_size() for p in self.model.parameters())
        return lambda images: int(weights + OVERHEAD * (max(two - 2 * each, 0.0) + each * images))

    def _kept(self, batch: Batch) -> int:
        """Bytes that a forward pass keeps for the backward pass, each storage once, without weights."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        held: dict[int, tuple[Tensor, int]] = {}  # with the tensors, so that no address is used twice

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = (tensor, storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss(batch)
        total = sum(size for _, size in held.values())
        del loss
        return total

    def _loss(self, batch: Batch) -> Tensor:
        moved = batch.to(self.hardware.device, memory_format=torch.channels_last)
        with self.hardware.autocast():
            terms = self.model(moved)
        return torch.stack([term.sum for items in terms.values() for term in items.values()]).sum()


def filled(batch: Batch, images: int) -> Batch:
    """So many images, those of ``batch`` again and again."""
    rows: Sequence[int] = [k % len(batch) for k in range(images)]
    return replace(
        batch,
        images=batch.images[list(rows)],
        annotations=tuple(batch.annotations[k] for k in rows),
        frames=tuple(batch.frames[k] for k in rows),
    )
