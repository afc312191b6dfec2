# SPDX-License-Identifier: Apache-2.0
"""The validation of a run: how a network scores on its validation split, while somebody may ask for a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from unified.contracts.config import RunConfig
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader
from unified.data.mixing import Mixture
from unified.data.spoilage import Spoilage
from unified.hardware import Hardware
from unified.training.evaluator import Evaluation, evaluate
from unified.training.jury import Testimony, alike, heard, together, verdict
from unified.training.page.story import Story
from unified.training.portions import is_out_of_memory
from unified.training.ranks import Ranks
from unified.training.signals import StopAsked, Stops

_SHORT, _STOPPED = 1, 2  # what may keep a rank from evaluating; the worse is the greater


class Validation:
    """Evaluates networks, by all ranks together. Where memory is short, it goes on with smaller batches.

    Args:
        tasks: by name.
        stops: a request to stop ends an evaluation at once, by StopAsked.
        tell: hears in one line that memory is short.
        ranks: that share the images, where the evidence of every metric can be sent; else the first one has them all.
        story: looks at every evaluation.
    """

    def __init__(
        self,
        config: RunConfig,
        mixture: Mixture,
        tasks: Any,
        hardware: Hardware,
        spoilage: Spoilage,
        stops: Stops,
        tell: Callable[[str], None],
        ranks: Ranks,
        story: Story | None = None,
    ) -> None:
        self.config, self.mixture, self.tasks, self.hardware = config, mixture, dict(tasks.items()), hardware
        self.spoilage, self.stops, self.tell, self.story = spoilage, stops, tell, story
        self.ranks = ranks
        self.shared = together(self.tasks, self.ranks)
        self.batch = 2 * config.train.batch

    def __call__(self, network: Any) -> Evaluation:
        """The evaluation, on the first rank; what others return says nothing. Every rank must call it.

        Raises:
            StopAsked: on every rank, if on some of them a stop was asked for.
        """
        alike(network, self.ranks)
        while (found := self._tried(network)) is None:
            self.batch = max(1, self.batch // 2)
            if self.ranks.main:
                self.tell(f"out of memory: validation goes on with batches of {self.batch} images")
        evaluation, told = found
        if self.shared:
            evaluation = verdict(evaluation, told, self.tasks, self.ranks)
        if self.story:
            self.story.look(network, evaluation)
        return evaluation

    def _tried(self, network: Any) -> tuple[Evaluation, Testimony] | None:
        """What this rank found; None where memory was too short on some rank."""
        found, fault = None, 0
        try:
            found = self._evaluate(network)
        except StopAsked:
            fault = _STOPPED
        except Exception as error:
            if not is_out_of_memory(error) or self.batch == 1:
                raise
            fault = _SHORT
        fault = int(self.ranks.most([fault])[0])
        if fault == _STOPPED:
            raise StopAsked
        return None if fault == _SHORT else found

    def _evaluate(self, network: Any) -> tuple[Evaluation, Testimony]:
        if not self.shared and not self.ranks.main:
            return Evaluation(), []
        settings, share = self.config.train, (self.ranks.index, self.ranks.count) if self.shared else (0, 1)
        given: dict[str, Any] = {"size": settings.size, "workers": 0, "limit": settings.val_images, "share": share}
        loader = EvalLoader(self.mixture, batch=self.batch, spoilage=self.spoilage, **given)
        most = (settings.val_images or self.mixture.images) * len(self.mixture.sources)
        total = min(self.mixture.images, most) // share[1]
        if self.shared:
            return heard(network, self.tasks, self._watched(loader), self.hardware, total=total)
        return evaluate(network, self.tasks, self._watched(loader), self.hardware, total=total), []

    def _watched(self, loader: EvalLoader) -> Iterator[Batch]:
        for batch in loader:
            self.stops.check()
            yield batch
