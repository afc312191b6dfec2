# SPDX-License-Identifier: Apache-2.0
"""The passes of a step: batches forward and backward, in whatever portions memory allows, until gradients stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Batch, LossTerm
from unified.training import dice
from unified.training.descent import Descent
from unified.training.guard import Guard
from unified.training.joint import JointModel
from unified.training.portions import added, is_out_of_memory, portioned, shrunk
from unified.training.progress import Progress
from unified.training.ranks import Ranks
from unified.training.serving import Serving
from unified.training.sharding import forget_gradients

Terms = Mapping[str, Mapping[str, LossTerm]]
Scale = Callable[[Tensor], Tensor]


class Passes:
    """Makes the gradients of steps.

    Args:
        model: network and tasks; ``wrapped``, the same as ranks share it.
        descent: makes gradients of losses.
        guard: remembers what passes change in the model.
        pass_images: images of a pass, by which a loss is multiplied that is to be a sum; None for a mean.

    ``tell`` hears in one line that memory is short; ``check`` may refuse terms.
    """

    def __init__(
        self,
        model: JointModel,
        wrapped: nn.Module,
        accelerator: Accelerator,
        descent: Descent,
        guard: Guard,
        pass_images: int | None,
    ) -> None:
        self.model, self.wrapped, self.accelerator = model, wrapped, accelerator
        self.descent, self.guard, self.pass_images = descent, guard, pass_images
        self.ranks = Ranks(accelerator)
        self._agreeing = False
        if self.ranks.count > 1:
            model.forward = self._agreed(model.forward)  # type: ignore[method-assign,assignment]
        self.tell: Callable[[str], None] = print
        self.check: Callable[[Terms], None] = lambda terms: None

    def gradients(
        self, serving: Serving, gains: Mapping[str, float], progress: Progress, weight: Callable[[int], float]
    ) -> dict[str, Tensor]:
        """Losses by name; gradients are left with the parameters, those of the k-th pass times ``weight(k)``.

        Where memory is short all is done again with the same batches, each in twice as many portions.
        """
        self.descent.forget()
        self.guard.remember()
        thrown = dice.of_torch(self.accelerator.device)
        while True:
            try:
                losses = self._all(serving, gains, progress.portions, weight)
                self.descent.gather()
                return losses
            except Exception as error:
                told = shrunk(progress.portions, serving.largest) if is_out_of_memory(error) else None
                if told is None:
                    raise
            progress.portions, line = told  # only out here has the error let go of what it held
            self.wipe()
            dice.laid_down(thrown, self.accelerator.device)
            self.tell(line)

    def wipe(self) -> None:
        """Nothing of the step's passes remains: no gradients, and buffers as they were before."""
        self.descent.forget()
        self.guard.restore()
        if self.accelerator.is_fsdp2:
            forget_gradients(self.model)
        self.model.zero_grad(set_to_none=True)
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def after(self, serving: Serving, gains: Mapping[str, float]) -> None:
        """The step has been taken; an observing balancer looks at what it did."""
        if self.descent.observer:
            last = serving.kept[-1].to(self.accelerator.device, memory_format=torch.channels_last)
            self.descent.after(last, gains)

    def idle(self, served: Collection[str]) -> Iterator[nn.Parameter]:
        """Parameters of tasks without a turn."""
        for task in self.model.network.tasks:
            if task not in served:
                yield from self.model.parameters_of(task)

    def _all(
        self, serving: Serving, gains: Mapping[str, float], parts: int, weight: Callable[[int], float]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for k, batch in enumerate(serving):
            batch = batch.to(self.accelerator.device, memory_format=torch.channels_last)
            last = k == serving.count - 1
            losses |= self._one(portioned(batch, parts), gains, self._scale(serving.count, weight(k)), last)
        return losses

    def _scale(self, count: int, weight: float) -> Scale:
        """The share of a loss in a step of so many forward passes."""

        def scaled(loss: Tensor) -> Tensor:
            share = loss / count if self.pass_images is None else loss * self.pass_images
            return share if weight == 1 else share * weight

        return scaled

    def _one(
        self, portions: Sequence[Batch], gains: Mapping[str, float], scale: Scale, last: bool
    ) -> dict[str, Tensor]:
        """One batch of a step."""
        whole = self._whole(portions) if len(portions) > 1 else None
        found: dict[str, Tensor] = {}
        for portion in portions:
            with ExitStack() as stack:
                if not last or portion is not portions[-1] or self.descent.chooser:
                    stack.enter_context(self.ranks.unsynced(self.wrapped))
                losses = self._portion(portion, gains, scale, whole)
            found = {name: found[name] + part if name in found else part for name, part in losses.items()}
        return found

    def _portion(
        self, portion: Batch, gains: Mapping[str, float], scale: Scale, whole: Terms | None
    ) -> dict[str, Tensor]:
        """A portion forward and backward. Balancers see the losses of the whole batch, gradients are the portion's."""
        terms = self._forward(portion)
        self.check(terms)
        by_task, parts = self.descent.losses(terms, gains, whole)
        losses = {name: loss.detach() for name, loss in (by_task | parts).items()}
        if whole is not None:
            with torch.no_grad():
                all_, _ = self.descent.losses(whole, gains)
            by_task = {task: loss + (all_[task] - loss).detach() for task, loss in by_task.items()}
        self._backward(by_task, scale)
        return losses

    def _forward(self, batch: Batch) -> Terms:
        """Loss terms; ranks agree on whether it fitted everywhere before gradients are exchanged."""
        with self._agreement():
            return self.wrapped(batch)  # type: ignore[no-any-return]

    def _agreed(self, forward: Callable[[Batch], Terms]) -> Callable[[Batch], Terms]:
        """A forward pass that fails for want of memory on all ranks if it does on one.

        It stands inside what shares gradients: where only one rank failed there, the others would await its gradients.
        """

        def passed(batch: Batch) -> Terms:
            if not self._agreeing:
                return forward(batch)
            terms: Terms | None = None
            try:
                terms = forward(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if self.ranks.any(terms is None):
                raise torch.OutOfMemoryError("a forward pass did not fit on every rank")
            assert terms is not None
            return terms

        return passed

    @contextmanager
    def _agreement(self) -> Iterator[None]:
        """Every rank makes the same forward passes within."""
        self._agreeing = True
        try:
            yield
        finally:
            self._agreeing = False

    def _whole(self, portions: Sequence[Batch]) -> Terms:
        """The terms of a whole batch, in portions and without gradients: each portion is then a share of them."""
        kept, thrown = self.guard.copy(), dice.of_torch(self.accelerator.device)
        with torch.no_grad(), self._agreement():
            terms = added([self.model(portion) for portion in portions])
        self.guard.put(kept)
        dice.laid_down(thrown, self.accelerator.device)
        return terms

    def _backward(self, losses: Mapping[str, Tensor], scale: Scale) -> None:
        try:
            self.descent.backward(losses, scale, self.idle(losses))
        except Exception as error:
            if self.ranks.count > 1 and is_out_of_memory(error):
                raise UnifiedError(
                    "out of memory in a backward pass, from which ranks cannot go back together; raise accumulate or "
                    "lower batch and start again"
                ) from error
            raise
