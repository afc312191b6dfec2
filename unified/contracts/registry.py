# SPDX-License-Identifier: Apache-2.0
"""Names to classes, over entry points, so that a stranger's package and the built-ins come in by the same door."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Generic, TypeVar

from unified.contracts.errors import UnifiedError, suggestion

T = TypeVar("T")

HOME: Final = "unified-networks"
"""The distribution that the built-in parts come from."""

PROTOCOL: Final = 1
"""What this version asks of a plug-in. A part may say for which it was written: ``protocol = 1`` in its class."""

OLDEST: Final = 1
"""The oldest protocol that is still understood. A part that says nothing is of the first."""

_told: set[str] = set()


class RegistryError(UnifiedError):
    """A name is unknown or taken twice, or what it names cannot be imported or is not what its kind must be."""


@dataclass(frozen=True)
class Part:
    """A registered part in words. ``error`` says in one line why it cannot be used; None: it can."""

    kind: str
    name: str
    place: str  # module:Class, as far as it is known
    package: str = ""  # the distribution it is installed with; empty: registered in this process
    version: str = ""  # of the distribution
    file: str = ""  # the plug-in file that registered it
    summary: str = ""
    error: str | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, as an error names it."""
        if self.package:
            return f"package '{self.package}'" + (f" {self.version}" if self.version else "")
        return f"plug-in file '{self.file}'" if self.file else "this process"


class Registry(Generic[T]):
    """Parts of one kind by name: installed entry points of ``group``, plus those registered in this process.

    Entry points are read once and imported only when asked for, so a broken plug-in harms nobody who does not use it.

    Args:
        kind: what a part is, in words.
        group: of the entry points.
        base: the class that a part must extend; None: any class.
        takes: the first parameters of a part's constructor, by name; those that the engine gives.
    """

    def __init__(self, kind: str, group: str, base: type | None = None, takes: Sequence[str] = ()) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self.takes = tuple(takes)
        self._local: dict[str, type[T]] = {}
        self._installed: dict[str, EntryPoint] | None = None
        self._clashes: dict[str, EntryPoint] = {}  # by name, the second of two

    def register(self, name: str, *, replace: bool = False) -> Callable[[type[T]], type[T]]:
        """Decorator for notebooks and plug-in files: ``@heads.register("mine")``.

        The same class may be registered again, as a notebook does when a cell is run twice.

        Raises:
            RegistryError: another class has this name, in this process or, without ``replace``, in an installed
                package; or the class is not what its kind must be.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._local.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise RegistryError(f"{self.kind} '{name}' is taken by {known.__module__}.{known.__qualname__}")
            point = self._entry_points().get(name)
            if point is not None and known is None and not replace and point.value != _place(cls):
                raise RegistryError(
                    f"{self.kind} '{name}' is taken by package '{_package(point)}' ({point.value}); choose another "
                    "name, or register it with replace=True"
                )
            self._check(name, cls, f"{self.kind} '{name}' of {cls.__module__}.{cls.__qualname__}")
            self._local[name] = cls
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Every known name, sorted; whether a part can be imported is only seen when it is asked for."""
        installed = self._entry_points()  # first: it loads the files that the environment names
        return tuple(sorted({*self._local, *installed}))

    def source(self, name: str) -> str:
        """Where a part comes from: a distribution's name, or ``this process``."""
        return "this process" if name in self._local else _package(self._entry_points()[name])

    def part(self, name: str) -> Part:
        """A known part in words; it is imported for its summary and to see whether it can be used."""
        told = self.whence(name)
        try:
            cls = self.get(name)
        except RegistryError as error:
            return _with(told, error=str(error))
        return _with(told, summary=_summary(cls))

    def whence(self, name: str) -> Part:
        """Where a known part comes from; nothing is imported."""
        if name in self._local:
            from unified.contracts.plugins import file_of

            cls = self._local[name]
            return Part(self.kind, name, _place(cls), file=file_of(cls.__module__))
        point = self._entry_points()[name]
        return Part(self.kind, name, point.value, _package(point), point.dist.version if point.dist else "")

    def named(self, name: str) -> str:
        """A known part as an error names it: ``head 'density' of package 'unified-counting' 0.1.0``."""
        return f"{self.kind} '{name}' of {self.whence(name).origin}"

    def called(self, cls: type[Any]) -> str:
        """A class as an error names it: by the name that it is registered with, or by its own."""
        place = _place(cls)
        known = next((name for name in self.names() if self.whence(name).place == place), None)
        return self.named(known) if known is not None else f"{self.kind} {cls.__module__}.{cls.__qualname__}"

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``.

        Raises:
            RegistryError: unknown name (the known ones are listed, nearest first), one that two packages offer, a
                package that fails to import, or a class that is not what its kind must be.
        """
        points = self._entry_points()
        if name in self._local:
            return self._local[name]
        point = points.get(name)
        if point is None:
            raise RegistryError(f"unknown {self.kind} '{name}'{suggestion(name, self.names())}")
        if other := self._clashes.get(name):
            raise RegistryError(
                f"{self.kind} '{name}' is offered twice: by package '{_package(point)}' ({point.value}) and by package "
                f"'{_package(other)}' ({other.value}); uninstall one"
            )
        try:
            cls: Any = point.load()
        except Exception as error:  # a plug-in may fail in any way; its author needs the name and the reason
            raise RegistryError(
                f"{self.kind} '{name}' of package '{_package(point)}' ({point.value}) cannot be imported: "
                f"{_reason(error)}"
            ) from error
        self._check(name, cls, self.named(name))
        return cls  # type: ignore[no-any-return]

    def available(self, tell: Callable[[str], None] | None = None) -> Iterator[tuple[str, type[T]]]:
        """Every part that can be used, by name. Of each other, one line is told, once in a process.

        Args:
            tell: hears the line; by default it is printed on standard error.
        """
        for name in self.names():
            try:
                cls = self.get(name)
            except RegistryError as error:
                line = f"note: {error}; it is left out"
                if line not in _told:
                    _told.add(line)
                    print(line, file=sys.stderr) if tell is None else tell(line)
                continue
            yield name, cls

    def _entry_points(self) -> dict[str, EntryPoint]:
        from unified.contracts.plugins import load_named

        load_named()
        if self._installed is None:
            found: dict[str, EntryPoint] = {}
            for point in sorted(entry_points(group=self.group), key=lambda p: _package(p) != HOME):
                other = found.setdefault(point.name, point)
                if other.value != point.value:
                    self._clashes[point.name] = point
            self._installed = found
        return self._installed

    def _check(self, name: str, cls: Any, who: str) -> None:
        """Whether a class is what its kind must be."""
        if not isinstance(cls, type):
            raise RegistryError(f"{who} is {cls!r}; expected a class")
        spoken = getattr(cls, "protocol", 1)
        if not isinstance(spoken, int) or not OLDEST <= spoken <= PROTOCOL:
            raise RegistryError(f"{who} {_of_another_time(spoken)}")
        if self.base is not None and not issubclass(cls, self.base):
            base = f"{self.base.__module__}.{self.base.__qualname__}"
            raise RegistryError(f"{who} is a {cls.__mro__[1].__name__}; expected a class that extends {base}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise RegistryError(f"{who} does not define {', '.join(missing)}()")
        if self.takes:
            self._check_signature(cls, who)

    def _check_signature(self, cls: type[Any], who: str) -> None:
        try:
            parameters = list(inspect.signature(cls).parameters.values())
        except (TypeError, ValueError):  # a constructor written in C says nothing of itself
            return
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return
        given = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if given[: len(self.takes)] != list(self.takes):
            expected = f"({', '.join(self.takes)}, *, option=default, ...)"
            raise RegistryError(f"{who} is built from ({', '.join(p.name for p in parameters)}); expected {expected}")


def _place(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _summary(cls: type[Any]) -> str:
    """The first line of a class's own docstring."""
    return (cls.__dict__.get("__doc__") or "").strip().partition("\n")[0]


def _with(part: Part, **more: Any) -> Part:
    from dataclasses import replace

    return replace(part, **more)


def _reason(error: Exception) -> str:
    """Why an import failed, in one line; an old plug-in is told apart from a broken one."""
    first = (str(error).strip().splitlines() or [""])[0]
    wanted = getattr(error, "name", None) if isinstance(error, ImportError) else None
    if isinstance(wanted, str) and wanted.split(".")[0] == "unified":
        from unified import __version__

        return (
            f"it was written for another version of unified than this one, {__version__} ({first.split(' (')[0]}); "
            "update one of them"
        )
    return f"{type(error).__name__}: {first}"


def _of_another_time(spoken: object) -> str:
    """What to do about a part that speaks another protocol."""
    from unified import __version__

    if not isinstance(spoken, int):
        return f"has protocol = {spoken!r}; expected a number, such as {PROTOCOL}"
    known = f"{PROTOCOL}" if OLDEST == PROTOCOL else f"{OLDEST} to {PROTOCOL}"
    mend = "update unified" if spoken > PROTOCOL else "update the plug-in"
    return f"is written for plug-in protocol {spoken}, and this unified ({__version__}) speaks {known}; {mend}"
