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
from unified.training.page.story import Story
from unified.training.portions import is_out_of_memory
from unified.training.signals import Stops


class Validation:
    """Evaluates networks. Where memory is short, it goes on with smaller batches.

    Args:
        tasks: by name.
        stops: a request to stop ends an evaluation at once, by StopAsked.
        tell: hears in one line that memory is short.
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
        story: Story | None = None,
    ) -> None:
        self.config, self.mixture, self.tasks, self.hardware = config, mixture, dict(tasks.items()), hardware
        self.spoilage, self.stops, self.tell, self.story = spoilage, stops, tell, story
        self.batch = 2 * config.train.batch

    def __call__(self, network: Any) -> Evaluation:
        while True:
            try:
                evaluation = self._evaluate(network)
                break
            except Exception as error:
                if not is_out_of_memory(error) or self.batch == 1:
                    raise
            self.batch = max(1, self.batch // 2)
            self.tell(f"out of memory: validation goes on with batches of {self.batch} images")
        if self.story:
            self.story.look(network, evaluation)
        return evaluation

    def _evaluate(self, network: Any) -> Evaluation:
        settings = self.config.train
        given: dict[str, Any] = {"size": settings.size, "workers": 0, "limit": settings.val_images}
        loader = EvalLoader(self.mixture, batch=self.batch, spoilage=self.spoilage, **given)
        most = (settings.val_images or self.mixture.images) * len(self.mixture.sources)
        total = min(self.mixture.images, most)
        return evaluate(network, self.tasks, self._watched(loader), self.hardware, total=total)

    def _watched(self, loader: EvalLoader) -> Iterator[Batch]:
        for batch in loader:
            self.stops.check()
            yield batch
