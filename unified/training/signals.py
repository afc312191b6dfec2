# SPDX-License-Identifier: Apache-2.0
"""Who may ask a run to stop, and how it hears of it: Ctrl-C, SIGTERM and the file ``stop`` in its folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

FILE: Final = 1  # stands for the stop file where signals stand for themselves; no signal that anyone catches
GLANCE: Final = 0.5  # seconds between two looks for the file

_SAID: Final = {
    signal.SIGINT: "stopping after this step; press Ctrl-C again to stop at once without saving",
    signal.SIGTERM: "stopping after this step: SIGTERM",
}


class StopAsked(Exception):  # noqa: N818  (nothing is wrong)
    """Somebody asked for a stop in the middle of something that is not worth finishing, such as an evaluation."""


class Stops:
    """What has been asked of this process.

    Args:
        file: a run ends cleanly once this file is there; it is removed when it has been seen.
        tell: hears one line when something is asked.
    """

    def __init__(self, file: Path | None = None, tell: Callable[[str], None] | None = None) -> None:
        self.file, self.tell = file, tell or (lambda text: None)
        self.asked: int | None = None  # a signal's number, or FILE
        self._looked = 0.0
        if file is not None:
            file.unlink(missing_ok=True)  # of an earlier sitting

    def look(self) -> int:
        """What has been asked so far; 0 for nothing."""
        now = time.monotonic()
        if self.asked is None and self.file is not None and now - self._looked >= GLANCE:
            self._looked = now
            if self.file.exists():
                self.file.unlink(missing_ok=True)
                self.asked = FILE
                self.tell(f"stopping: {self.file} was there")
        return self.asked or 0

    def check(self) -> None:
        """Raises StopAsked where something has been asked."""
        if self.look():
            raise StopAsked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are remembered. A second Ctrl-C stops at once; a second SIGTERM changes nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, number
        if again not in (None, FILE):
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = again
            return
        self.tell(_SAID[signal.Signals(number)])


def stopped_by(asked: int | None) -> int:
    """The signal that stopped a run; 0 for none, and for the file."""
    return 0 if asked in (None, FILE) else int(asked or 0)
