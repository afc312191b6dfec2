# SPDX-License-Identifier: Apache-2.0
"""Plug-ins that are a file, and what a run must remember of the parts that others gave it.

A file is code that its user asks for by name: with ``--plugin``, ``unified.load_plugin`` or the environment variable
``UNIFIED_PLUGINS`` (paths joined as in PATH). What a run remembers is only words; nothing is loaded because of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unified.contracts.registry import HOME, Part, Registry, RegistryError

if TYPE_CHECKING:
    from unified.contracts.config import RunConfig

VARIABLE: Final = "UNIFIED_PLUGINS"

_files: dict[str, str] = {}  # module -> file
_named: set[str] = set()  # values of the variable that were looked at
_loading: list[str] = []


def load_plugin(path: str | Path) -> Path:
    """Runs a plug-in file, whose decorators register its parts; a second time it does nothing.

    Its folder joins ``sys.path``, so that worker processes find it too, and what stands beside it.

    Args:
        path: a Python file, or the folder of a package.

    Returns:
        The file as an absolute path.

    Raises:
        RegistryError: it is not there, fails, has the name of another module, or registers nothing.
    """
    given = Path(path).expanduser()
    file = (given / "__init__.py" if given.is_dir() else given).resolve()
    if not file.is_file() or file.suffix != ".py":
        raise RegistryError(f"plug-in file '{path}' is no Python file (looked from {Path.cwd()})")
    top = file.parent if file.name == "__init__.py" else file
    module = top.stem
    if _files.get(module) == str(file):
        return file
    _check_free(module, top, path)
    before = _registered()
    _run(module, top, path)
    if _registered() == before:
        raise RegistryError(
            f"plug-in file '{path}' registers nothing; write @unified.register_head(NAME) or the like above its classes"
        )
    known = [word for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word]
    if str(file) not in known:
        os.environ[VARIABLE] = os.pathsep.join([*known, str(file)])  # for processes that this one starts
    return file


def load_named() -> None:
    """Loads the files that the environment variable names, once for each of its values."""
    value = os.environ.get(VARIABLE, "")
    if not value or value in _named or _loading:
        return
    _named.add(value)
    for word in value.split(os.pathsep):
        if word:
            load_plugin(word)


def file_of(module: str) -> str:
    """The plug-in file a module came from, or below which it stands; empty for none."""
    return _files.get(module) or _files.get(module.partition(".")[0], "")


def _check_free(module: str, top: Path, path: str | Path) -> None:
    if not module.isidentifier():
        raise RegistryError(f"plug-in file '{path}': '{module}' is no name of a module; use letters, digits and _")
    known = sys.modules.get(module)
    spec = None if known is not None else importlib.util.find_spec(module)
    place = getattr(known, "__file__", None) or (spec.origin if spec else None)
    if (known is not None or spec is not None) and not _same(place, top):
        raise RegistryError(f"plug-in file '{path}' has the name of another module ({place or 'built in'}); rename it")


def _same(place: str | None, top: Path) -> bool:
    return place is not None and Path(place).resolve() in (top, top / "__init__.py")


def _run(module: str, top: Path, path: str | Path) -> None:
    file = str(top / "__init__.py" if top.is_dir() else top)
    if str(top.parent) not in sys.path:
        sys.path.append(str(top.parent))
    _files[module] = file
    _loading.append(file)
    try:
        importlib.invalidate_caches()
        importlib.import_module(module)
    except BaseException as error:
        _files.pop(module)
        sys.modules.pop(module, None)
        if not isinstance(error, Exception | SystemExit):
            raise
        raise RegistryError(f"plug-in file '{path}' cannot be loaded: {_where(error, file)}") from error
    finally:
        _loading.remove(file)


def _where(error: BaseException, file: str) -> str:
    """The line of the file and the error, in one line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    number = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    place = f"line {number}: " if number else ""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{place}{first if isinstance(error, RegistryError) else f'{type(error).__name__}: {first}'}"


def _registered() -> dict[str, tuple[type, ...]]:
    from unified.contracts.protocols import registries

    return {registry.group: tuple(registry._local.values()) for registry in registries()}


def noted(config: RunConfig) -> list[dict[str, str]]:
    """The parts of a run that are not the platform's own, for its records: kind, name, package, version, file."""
    found = []
    for registry, name in _words(config):
        part = registry.whence(name)
        if part.package != HOME:
            found.append(
                {k: getattr(part, k) for k in ("kind", "name", "package", "version", "file") if getattr(part, k)}
            )
    return found


def require(said: Iterable[Mapping[str, Any]], config: RunConfig, who: str, *, data: bool = False) -> None:
    """Whether the parts that a run noted are here.

    Args:
        said: what :func:`noted` said when it was made.
        config: of the tasks that are wanted.
        who: the run or model, for the error.
        data: whether its datasets, balancer and loggers are needed too, not only its network and tasks.

    Raises:
        RegistryError: some are missing; names them, where they came from, and what to do.
    """
    wanted = {(registry.kind, name) for registry, name in _words(config, data=data)}
    known = {(registry.kind, name) for registry in _registries() for name in registry.names()}
    lost: dict[str, list[str]] = {}
    for each in said:
        key = (str(each.get("kind")), str(each.get("name")))
        if key in wanted and key not in known:
            lost.setdefault(_origin(each), []).append(f"{key[0]} '{key[1]}'")
    if lost:
        parts = "; ".join(f"{' and '.join(parts)} {origin}" for origin, parts in lost.items())
        raise RegistryError(f"'{who}' needs {parts}")


def _origin(said: Mapping[str, Any]) -> str:
    package, version, file = (str(said.get(key, "")) for key in ("package", "version", "file"))
    if package:
        pin = f"'{package}=={version}'" if version else package
        return f"of package '{package}' {version}".rstrip() + f", which is not installed: pip install {pin}"
    if file:
        return f"of the plug-in file '{file}', which is not loaded: --plugin {file}, or unified.load_plugin(...)"
    return "which a notebook or script registered that trained it: register it before"


def _registries() -> Sequence[Registry[Any]]:
    from unified.contracts.protocols import registries

    return registries()


def _words(config: RunConfig, data: bool = True) -> Iterator[tuple[Registry[Any], str]]:
    """Every registered name that a configuration uses, once."""
    from unified.contracts import protocols as p

    model, words = config.model, list[tuple[Registry[Any], str]]()
    words += [(p.backbones, model.backbone.name.partition(":")[0]), (p.necks, model.neck.name)]
    tasks = [*config.growth.tasks.values(), *config.tasks.values()]
    for rule in [*model.latents, *(rule for task in tasks for rule in task.latents or ())]:
        words += [(p.latents, rule.latent.name), (p.operators, rule.operator.name)]
    for task in tasks:
        words += [(p.tasks, task.task), *((p.metrics, metric.name) for metric in task.metrics)]
        head = task.head.name if task.head else model.default_heads.get(task.task)
        if head is None and task.task in p.tasks.names():
            head = p.tasks.get(task.task).default_head
        words += [(p.heads, head)] if head else []
    if data:
        words += [(p.datasets, dataset.format) for dataset in config.data.datasets.values()]
        words += [(p.balancers, config.balance.name), *((p.loggers, name) for name in config.train.logging)]
    yield from dict.fromkeys(words)


def part_in(error: BaseException) -> Part | None:
    """The plug-in in whose code an error arose; None where it arose in the platform's own.

    Of libraries that were called, whoever called them last counts.
    """
    parts = _foreign()
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top == "unified":
            return None
        if top in parts:
            return parts[top]
    return None


def _foreign() -> dict[str, Part]:
    """A part of every plug-in package and file, by its outermost module."""
    parts = [registry.whence(name) for registry in _registries() for name in registry.names()]
    foreign = [part for part in parts if part.package != HOME and (part.package or part.file)]
    return {part.place.partition(":")[0].partition(".")[0]: part for part in foreign}
