# SPDX-License-Identifier: Apache-2.0
"""From the losses of forward passes to the gradients of an optimizer step, by the balancer's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from unified.contracts.protocols import Balancer, GradientBalancer, ObservingBalancer
from unified.contracts.structures import Batch, LossTerm
from unified.training.balance import normalised
from unified.training.joint import JointModel
from unified.training.ranks import Ranks

Terms = Mapping[str, Mapping[str, LossTerm]]
Losses = Mapping[str, Tensor]  # scalars by task


class Descent:
    """Backward passes of one optimizer step after the other.

    A balancer that only combines losses makes one backward pass of their combination and nothing else; so does every
    balancer of a network with one task. An observing one is told the losses of all ranks. A gradient balancer makes a
    backward pass for each task: the parameters that tasks share follow what it chooses of their gradients, summed over
    the step's forward passes and averaged over ranks before it is asked; a task's own parameters follow their own.
    """

    def __init__(self, model: JointModel, accelerator: Accelerator, balancer: Balancer) -> None:
        self.model, self.accelerator, self.balancer = model, accelerator, balancer
        self.ranks = Ranks(accelerator)
        several = len(model.tasks) > 1
        self.observer = balancer if several and isinstance(balancer, ObservingBalancer) else None
        self.chooser = balancer if several and isinstance(balancer, GradientBalancer) else None
        self._gradients: dict[str, list[Tensor | None]] = {}  # by task, of shared parameters and then of its own
        self._seen: list[dict[str, float]] = []  # losses by task of the step's forward passes

    def losses(
        self, terms: Terms, gains: Mapping[str, float], whole: Terms | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the tasks, and of their terms; normalised by the labelled items of all ranks.

        Averaged over the ranks they are the losses of all ranks' images together. Of a portion of a batch they are its
        share of the ``whole`` batch's.
        """
        counts = self.ranks.counts(terms if whole is None else whole)
        by_task: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for task, items in terms.items():
            for name, term in items.items():
                gain = gains.get(task, 1.0) * gains.get(f"{task}/{name}", 1.0)
                loss = normalised(term, counts[task, name]) * gain
                parts[f"{task}/{name}"] = loss * self.ranks.count if self.ranks.count > 1 else loss
            by_task[task] = torch.stack([parts[f"{task}/{name}"] for name in items]).sum()
        return by_task, parts

    def backward(self, losses: Losses, scale: Callable[[Tensor], Tensor], idle: Iterator[nn.Parameter]) -> None:
        """Adds the gradients of one forward pass to those of the step.

        Args:
            losses: by task.
            scale: the step's share of a scalar.
            idle: parameters of tasks without a turn, which ranks that wait for each other must still hear of.
        """
        if self.chooser:
            return self._take(self.chooser, losses, scale)
        if self.observer:
            seen = self._over_ranks(losses)
            self._seen.append(seen)
            factors = self.observer.factors(seen)
            losses = {task: factors[task] * loss for task, loss in losses.items()}
        total = self.balancer.combine(losses)
        heard = self.accelerator.num_processes > 1 and not self.accelerator.is_fsdp2
        touched = sum(p.sum() for p in idle) if heard else 0.0
        self.accelerator.backward(scale(total + 0.0 * touched))

    def _over_ranks(self, losses: Losses) -> dict[str, float]:
        stacked = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        return dict(zip(losses, stacked.tolist(), strict=True))

    def _take(self, chooser: GradientBalancer, losses: Losses, scale: Callable[[Tensor], Tensor]) -> None:
        """One backward pass for each task, past the hooks by which ranks share the gradients of a single one."""
        shared, scaler = self.model.shared_parameters(), self.accelerator.scaler
        live = [task for task, loss in losses.items() if loss.requires_grad]
        for task in losses:
            wanted = [*shared, *self.model.own_parameters(task)]
            found: Sequence[Tensor | None] = [None] * len(wanted)  # on a rank without labels, perhaps
            if task in live:
                loss = scale(chooser.weights.get(task, 1.0) * losses[task])
                scaled = loss if scaler is None else scaler.scale(loss)
                found = torch.autograd.grad(scaled, wanted, retain_graph=task != live[-1], allow_unused=True)
            self._gradients[task] = _added(self._gradients.get(task), found)

    def gather(self) -> None:
        """Leaves the step's gradients with the parameters; for a gradient balancer only, others have done so."""
        if not self.chooser or not self._gradients:
            return
        shared = self.model.shared_parameters()
        for task, gradients in self._gradients.items():
            own = self.model.own_parameters(task)
            if self.accelerator.num_processes > 1:
                gradients = self._averaged(gradients, [*shared, *own])
            _leave(own, gradients[len(shared) :])
            self._gradients[task] = gradients[: len(shared)]
        weights = self._chosen(self.chooser)
        rows = list(zip(*(self._gradients[task] for task in weights), strict=True)) if weights else []
        _leave(shared, [_mixed(row, list(weights.values())) for row in rows])
        self._gradients = {}

    def _averaged(self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Over all ranks, in one exchange; a parameter that no rank has a gradient of gets zeros."""
        whole = torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(gradients, parameters, strict=True)]
        )
        parts = self.accelerator.reduce(whole, "mean").split([p.numel() for p in parameters])
        return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]

    def _chosen(self, chooser: GradientBalancer) -> dict[str, float]:
        """How much of each task's shared gradient is followed, alike on every rank; all of it where it is alone.

        Gradients that are zero have no say. Where one is not finite nothing is chosen: the plain sum shows it to
        whoever looks after such steps.
        """
        tasks = list(self._gradients)
        gramian = _gramian([self._gradients[task] for task in tasks])
        diagonal = gramian.diagonal()
        heard = [k for k in range(len(tasks)) if float(diagonal[k]) > 0]
        weights = dict.fromkeys(tasks, 1.0)
        if len(heard) < 2 or not bool(gramian.isfinite().all()):
            return weights
        whole = gramian[heard][:, heard]
        names = [tasks[k] for k in heard]
        found = chooser.weigh(whole / whole.diagonal().mean(), names)
        if self.accelerator.num_processes > 1:
            found = broadcast(found.to(self.accelerator.device), from_process=0).cpu()  # type: ignore[union-attr]
        return weights | dict(zip(names, found.tolist(), strict=True))

    def forget(self) -> None:
        """The step's passes have never been: they are made again, or left out."""
        self._gradients, self._seen = {}, []

    def after(self, batch: Batch, gains: Mapping[str, float]) -> None:
        """Tells an observing balancer what the step did; ``batch`` is the last one of it."""
        if not self.observer or not self._seen:
            return
        seen, self._seen = self._seen, []
        labelled = {task for losses in seen for task, loss in losses.items() if loss > 0}
        if not self.observer.again:
            told = {task: [losses[task] for losses in seen if losses.get(task, 0.0) > 0] for task in labelled}
            return self.observer.observe({task: sum(each) / len(each) for task, each in told.items()}, {})
        with torch.no_grad(), still(self.model):
            after = self._over_ranks(self.losses(self.model(batch), gains)[0])
        self.observer.observe({task: loss for task, loss in seen[-1].items() if loss > 0}, after)


def _added(kept: Sequence[Tensor | None] | None, found: Sequence[Tensor | None]) -> list[Tensor | None]:
    if kept is None:
        return list(found)
    return [a if b is None else b if a is None else a + b for a, b in zip(kept, found, strict=True)]


def _gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """(T, T) float64 on the CPU: inner products of T gradients, each in tensors of one parameter."""
    many = len(rows)
    total = torch.zeros(many, many, dtype=torch.float64)
    found: list[Tensor] = []
    for tensors in zip(*rows, strict=True):
        shown = next((t for t in tensors if t is not None), None)
        if shown is not None:
            flat = torch.stack([(torch.zeros_like(shown) if t is None else t).float().reshape(-1) for t in tensors])
            found.append((flat @ flat.T).double())
    return torch.stack(found).sum(dim=0).cpu() if found else total


def _mixed(row: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor | None:
    """The weighted sum of several gradients of one parameter; a weight of 1 changes no bit."""
    total: Tensor | None = None
    for gradient, weight in zip(row, weights, strict=True):
        if gradient is not None:
            part = gradient if weight == 1 else gradient * weight
            total = part if total is None else total + part
    return total


def _leave(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Gives parameters their gradients, in their own memory layout as backward passes do."""
    for parameter, gradient in zip(parameters, gradients, strict=False):
        if gradient is None or gradient.stride() == parameter.stride():
            parameter.grad = gradient
        else:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics and remember none of them."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, kept in zip(norms, tracked, strict=True):
            norm.track_running_stats = kept
