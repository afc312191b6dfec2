# SPDX-License-Identifier: Apache-2.0
"""Names to classes, over entry points, so that a stranger's package and the built-ins come in by the same door."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from unified.contracts.errors import UnifiedError, suggestion

T = TypeVar("T")


class RegistryError(UnifiedError):
    """A name is unknown, taken twice, or its package cannot be imported."""


class Registry(Generic[T]):
    """Parts of one kind by name: installed entry points of ``group``, plus those registered in this process.

    Entry points are read once and imported only when asked for, so a broken plug-in harms nobody who does not use it.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._local: dict[str, type[T]] = {}
        self._installed: dict[str, EntryPoint] | None = None

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator for notebooks and scripts: ``@heads.register("mine")``.

        Raises:
            RegistryError: another class already has this name in this process.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._local.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise RegistryError(f"{self.kind} '{name}' is taken by {known.__module__}.{known.__qualname__}")
            self._local[name] = cls
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Every known name, sorted."""
        return tuple(sorted({*self._local, *self._entry_points()}))

    def source(self, name: str) -> str:
        """Where a part comes from: a distribution's name, or ``this process``."""
        if name in self._local:
            return "this process"
        point = self._entry_points()[name]
        return point.dist.name if point.dist else point.value

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``.

        Raises:
            RegistryError: unknown name (the known ones are listed, nearest first), or the package fails to import.
        """
        if name in self._local:
            return self._local[name]
        point = self._entry_points().get(name)
        if point is None:
            raise RegistryError(f"unknown {self.kind} '{name}'{suggestion(name, self.names())}")
        try:
            cls: Any = point.load()
        except Exception as error:  # a plug-in may fail in any way; its author needs the name and the reason
            raise RegistryError(
                f"{self.kind} '{name}' of package '{self.source(name)}' ({point.value}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        return cls  # type: ignore[no-any-return]

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            found: dict[str, EntryPoint] = {}
            for point in entry_points(group=self.group):
                other = found.get(point.name)
                if other is not None and other.value != point.value:
                    raise RegistryError(
                        f"{self.kind} '{point.name}' is offered twice: {other.value} and {point.value}; uninstall one"
                    )
                found[point.name] = point
            self._installed = found
        return self._installed
