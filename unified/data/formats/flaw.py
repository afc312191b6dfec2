# SPDX-License-Identifier: Apache-2.0
"""What a reader finds wrong with its files: refused at the first for training, all written down for the linter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unified.contracts.errors import DataError

if TYPE_CHECKING:
    from unified.data.formats.table import Table


class Place(NamedTuple):
    """Where something stands: a file, and the record in it; without one, the whole file."""

    file: str
    record: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.record}" if self.record else self.file

    def of(self, what: str) -> str:
        """The place of a field of the record, for an error's line."""
        return f"{self}{'.' if self.record and what else ': ' if what else ''}{what}"


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong; ``fault`` is its name in the linter's catalogue."""

    fault: str
    place: Place
    field: str  # empty: the whole record
    reason: str

    @property
    def line(self) -> str:
        """The error's one line."""
        return f"{self.place.of(self.field)}: {self.reason}"


class Faults:
    """What readers tell of their files. This one refuses the first fault, and lets pass what can be left out."""

    collecting = False
    documents: Mapping[Path, Mapping[str, Any]] = {}
    """JSON files that somebody has parsed already, by their path."""

    def tell(self, fault: str, place: Place, where: str, reason: str) -> None:
        """A fault that cannot be passed over. Who goes on after this call leaves the record out.

        Raises:
            DataError: always; not while faults are collected.
        """
        raise DataError(Flaw(fault, place, where, reason).line)

    def doubt(self, fault: str, place: Place, where: str, reason: str) -> None:
        """What training can go on without, after a remark, and what the linter refuses."""

    @contextmanager
    def going_on(self, fault: str, place: Place, where: str = "") -> Iterator[None]:
        """Takes an error of what is done inside for a fault of this place."""
        yield

    def placed(self, name: str, place: Place, boxes: Sequence[Place]) -> None:
        """Told where a picture of a table and its boxes, in the table's order, were read."""


@dataclass
class Collector(Faults):
    """Writes all faults down, each once, so that one pass over the files finds them all.

    ``tables`` has the tables made on the way by the key of their scan; ``places``, by a picture's name, where it and
    its boxes were read.
    """

    collecting = True
    documents: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    found: dict[Flaw, None] = field(default_factory=dict)
    tables: dict[Any, Table] = field(default_factory=dict)
    places: dict[str, tuple[Place, Sequence[Place]]] = field(default_factory=dict)

    def tell(self, fault: str, place: Place, where: str, reason: str) -> None:
        self.found[Flaw(fault, place, where, reason)] = None

    def doubt(self, fault: str, place: Place, where: str, reason: str) -> None:
        self.tell(fault, place, where, reason)

    @contextmanager
    def going_on(self, fault: str, place: Place, where: str = "") -> Iterator[None]:
        try:
            yield
        except DataError as error:
            self.tell(fault, place, where, " ".join(str(error).removeprefix(f"{place}: ").split()))

    def placed(self, name: str, place: Place, boxes: Sequence[Place]) -> None:
        self.places[name] = place, boxes

    def table(self, key: Any, make: Callable[[], Table]) -> Table:
        """The table of a key, made once."""
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]


REFUSE = Faults()
"""For those who read to learn."""
