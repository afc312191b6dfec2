# SPDX-License-Identifier: Apache-2.0
"""The work behind the routes: a picture's bytes in, what the network says of it out. It knows nothing of HTTP.

Reading a picture, fitting it and writing its answer are done by a few threads beside the network's passes.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from unified.contracts.errors import ConfigError, DataError, UnifiedError, suggestion
from unified.contracts.structures import Prediction
from unified.data.picture import FORMATS, said
from unified.inference.encoder import quantize, shorten
from unified.inference.model import UnifiedModel
from unified.inference.predictor import Fitted, fit
from unified.inference.results import as_dict
from unified.inference.source import as_pixels
from unified.serve.answers import dump, predicted
from unified.serve.asked import EmbedAsk, PredictAsk
from unified.serve.batcher import Batcher, Outcome
from unified.serve.problem import Problem, bad_word, busy
from unified.serve.settings import Settings

T = TypeVar("T")
Key = tuple[tuple[str, ...], float]
"""What a pass is asked: task names and the least score of a box."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is sent, and what it cost."""

    body: bytes  # JSON
    pixels: int  # of the picture
    batch: int  # pictures of the pass
    waited: float  # seconds in the queue
    took: float  # seconds of the pass


class Service:
    """A model that answers many at once. Use it in one event loop, and close it at the end.

    Args:
        model: whose answers are given.
        settings: its limits.
        passed: hears the size and the seconds of every pass.
    """

    def __init__(
        self,
        model: UnifiedModel,
        settings: Settings,
        passed: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.model, self.settings = model, settings
        self.side = model.network.check_size(settings.size or model.size)
        self.space = model.space_at(self.side)
        self.warm = False
        self.held = 0  # pictures taken and not yet answered
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="unified-serve")
        self._batcher: Batcher[Key, Fitted, Prediction] = Batcher(
            self._pass, settings.max_batch, settings.max_wait, passed
        )

    @property
    def alive(self) -> bool:
        """Whether pictures can be answered."""
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Pictures that are ready for a pass."""
        return len(self._batcher)

    def warm_up(self) -> None:
        """Makes the passes that are slow because they are the first: of one picture, and of a full batch."""
        for size in sorted({1, self.settings.max_batch}):
            self.model.warmup(size, self.side)
        self.warm = True

    async def predict(self, body: bytes, ask: PredictAsk) -> Answer:
        """Everything, or what some tasks say, of the picture in ``body``.

        Raises:
            Problem: a picture that cannot be read, an unknown task, or a full queue.
        """
        key = (self._tasks(ask.tasks), ask.confidence)
        return await self._look(body, key, lambda found: predicted(found, self.space, ask.embeddings))

    async def embed(self, body: bytes, ask: EmbedAsk) -> Answer:
        """The vector of the picture in ``body``, or those of the boxes found in it.

        Raises:
            Problem: as :meth:`predict`, or a model without such vectors, or a width that does not fit.
        """
        try:
            tasks = self.model.tasks_for(ask.level)
        except ConfigError as error:
            raise bad_word("level", str(error)) from None
        return await self._look(body, (tasks, ask.confidence), lambda found: self._vectors(found, ask))

    def close(self) -> None:
        """Answers what was taken, and ends the threads."""
        self._pool.shutdown(wait=True)
        self._batcher.close()

    def _tasks(self, names: Sequence[str] | None) -> tuple[str, ...]:
        known = self.model.tasks
        for name in names or ():
            if name not in known:
                raise bad_word("tasks", f"this model has no task '{said(name)}'{suggestion(said(name), known)}")
        return tuple(task for task in known if names is None or task in names)

    async def _look(self, body: bytes, key: Key, told: Callable[[Prediction], dict[str, Any]]) -> Answer:
        self._take()
        try:
            reading = self._pool.submit(self._read, body)
        except BaseException:
            self._leave()
            raise
        try:
            fitted = await asyncio.wrap_future(reading)
            outcome = await asyncio.wrap_future(self._batcher.submit(key, fitted))
            text = await asyncio.wrap_future(self._pool.submit(self._write, outcome, told))
        except UnifiedError as error:  # such as a confidence that an exported file has left out
            raise bad_word("", str(error)) from None
        finally:
            reading.cancel()
            reading.add_done_callback(self._leave)  # a picture that is being decoded keeps its place until it is done
        height, width = fitted.frame.size
        return Answer(text, height * width, outcome.batch, outcome.waited, outcome.took)

    def _take(self) -> None:
        with self._lock:
            if self.held >= self.settings.queue:
                ahead = self.held / self.settings.max_batch * self._batcher.seconds
                raise busy(ahead, f"{self.held} pictures are waiting, which is as many as may")
            self.held += 1

    def _leave(self, _: Future[Fitted] | None = None) -> None:
        with self._lock:
            self.held -= 1

    def _read(self, body: bytes) -> Fitted:
        try:
            check_extent(body, self.settings.pixels)
            return fit(as_pixels(body), self.side)
        except DataError as error:
            raise Problem(422, str(error), "bad-picture") from None

    def _pass(self, key: Key, pictures: Sequence[Fitted]) -> list[Prediction]:
        tasks, confidence = key
        return self.model.predictor(pictures, tasks, {"confidence": confidence})

    def _write(self, outcome: Outcome[Prediction], told: Callable[[Prediction], dict[str, Any]]) -> bytes:
        return dump(told(outcome.answer))

    def _vectors(self, found: Prediction, ask: EmbedAsk) -> dict[str, Any]:
        entry = as_dict(found, embeddings=False)
        kept = {"size": entry["size"], "level": ask.level, "precision": ask.precision, "space": self.space}
        name = "embedding" if ask.level == "image" else "box_embeddings"
        try:
            vectors = quantize(shorten(getattr(found, name), ask.truncate_dim, True), ask.precision)
        except ConfigError as error:
            raise bad_word("", str(error)) from None
        boxes = {"boxes": entry["boxes"]} if ask.level == "box" else {}
        return {**kept, **boxes, name: vectors.tolist()}


def check_extent(body: bytes, most: int) -> None:
    """Reads only a picture's header; that it is none is said by whoever decodes it.

    Raises:
        Problem: 413: more pixels than may be.
    """
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
            width, height = opened.size
    except Image.DecompressionBombError:
        raise Problem(413, f"the picture is far over the limit of {most / 1e6:g} megapixels", "too-large") from None
    except Exception:  # a damaged header may make its reader fail in any way
        return
    if width * height > most:
        line = f"the picture has {width} x {height} pixels, over the limit of {most / 1e6:g} megapixels; scale it down"
        raise Problem(413, line, "too-large")
