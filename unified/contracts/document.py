# SPDX-License-Identifier: Apache-2.0
"""Configuration documents: YAML files and words of the command line, composed into one validated run.

A run is made of a model file, a recipe (how to learn), a data file and the names of its tasks; overrides come last.
Each is a name of a file that comes with the package (``unified.configs``) or the path of one's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from unified.contracts.complaint import place_of, validate
from unified.contracts.config import DataConfig, ModelConfig, RunConfig
from unified.contracts.draft import Draft
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.placement import written_out
from unified.contracts.recognition import DATA_SUFFIXES, Purpose, Recognised, Tell, recognise, tell_on_stderr
from unified.contracts.source import Place, Source, dump_yaml, read_source, shown_path

Kind = Literal["models", "train", "data", "latents", "studies"]

DEFAULT_RECIPE = "default"
_RECIPE_EXTRAS = ("balance", "tasks")  # what a recipe may say beside the keys of ``train``
_DATA_KEYS = ("datasets", "schedule", "recipe")
_WORDS = {"models": "model", "train": "recipe", "data": "data", "latents": "latents", "studies": "study"}


def load_run_config(
    *,
    model: str | ModelConfig,
    data: str,
    tasks: Sequence[str],
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    tell: Tell = tell_on_stderr,
) -> tuple[RunConfig, Path]:
    """Everything that decides a run, and the folder to which its datasets' paths are relative.

    Args:
        model, data, recipe: names of shipped configurations or paths to YAML files. Without a recipe, the one that the
            data file names, else ``default``. The model may also be a configuration that was read before, and the
            data a dataset's own folder or file, whose format is then recognised.
        tasks: registered kinds (``det``), or ``name:kind`` (``ppe:det``).
        overrides: ``key=value``, values in YAML; a dotted key is exact, a short one may be any key that is unique.
        options: values by dotted key as the command line's own options give them; None is left out.
        tell: hears in one line what a dataset was recognised to be.

    Raises:
        ConfigError: any word that is not understood, with its file and line.
    """
    draft = Draft()
    if isinstance(model, ModelConfig):
        draft.adopt(model.model_dump(mode="json"), ("model",), {})
    else:
        _mount_model(draft, config_path("models", model))
    _mount_tasks(draft, tasks)
    kinds = {name: task["task"] for name, task in draft.value["tasks"].items()}
    base, named_recipe = _mount_data(draft, data, kinds, "learn", tell)
    _mount_recipe(draft, config_path("train", recipe or named_recipe or DEFAULT_RECIPE))
    _override(draft, overrides, options or {})
    return validate(RunConfig, draft.source(), _extras(draft)), base


def load_model_config(name: str, latents: str | None = None) -> ModelConfig:
    """The model configuration of a shipped name or of a YAML file; ``latents`` in the place of its own."""
    draft = Draft()
    _mount_model(draft, config_path("models", name))
    if latents is not None:
        draft.put(("model", "latents"), latents, f"--latents {latents}")
        _write_out_latents(draft)
    return validate(ModelConfig, draft.source().under("model"))


def load_data(
    name: str, kinds: Mapping[str, str] | None = None, tell: Tell = tell_on_stderr, *, as_found: bool = False
) -> tuple[DataConfig, Path]:
    """The datasets of a shipped name or of a YAML file, and the folder to which their paths are relative.

    ``name`` may be a dataset's own folder or file too; ``kinds`` are then the tasks it is for, by their registered
    kind (by default every kind, by its own name). All of it is then there to be scored, as the val split too; or with
    ``as_found`` it has the splits it has.
    """
    draft = Draft()
    base, _ = _mount_data(draft, name, kinds, "find" if as_found else "score", tell)
    extras = {keys[1:]: words for keys, words in _extras(draft).items() if keys[0] == "data"}
    return validate(DataConfig, draft.source().under("data"), extras), base


def dump_run_config(config: RunConfig) -> str:
    """The whole configuration as YAML; :func:`read_run_config` reads back an equal one."""
    return dump_yaml(config.model_dump(mode="json"))


def read_run_config(path: Path, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration that a run saved in its folder; with ``overrides`` and ``options`` as a new run takes them."""
    source = read_source(path)
    value = _expect_mapping(source, path, "the configuration of a run")
    if not overrides and not options:
        return validate(RunConfig, source)
    draft = Draft()
    for key, part in value.items():
        draft.adopt(part, (key,), source.below(key))
    _override(draft, overrides, options or {})
    return validate(RunConfig, draft.source())


def _override(draft: Draft, overrides: Sequence[str], options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if value is not None:
            flag = key.rsplit(".", 1)[-1].replace("_", "-")
            draft.put(tuple(key.split(".")), value, f"--{flag} {value}")
    _write_out_latents(draft)
    for override in overrides:
        draft.override(override)
    _write_out_latents(draft)


def list_configs(kind: Kind) -> tuple[str, ...]:
    """Names of the configurations of one kind that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _shipped(kind).glob("*.yaml")))


def config_path(kind: Kind, name: str) -> Path:
    """The file of a shipped configuration, or the file a person named.

    Raises:
        ConfigError: neither.
    """
    word = _WORDS[kind]
    given = Path(name).expanduser()
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        if not given.is_file():
            raise ConfigError(f"{word} file '{name}' does not exist (looked from {Path.cwd()})")
        return given.resolve()
    shipped = _shipped(kind) / f"{name}.yaml"
    if not name or not shipped.is_file():
        raise ConfigError(f"unknown {word} '{name}'{suggestion(name, list_configs(kind))}; or the path of a YAML file")
    return shipped


def check_options(
    kind: str, name: str, cls: Callable[..., Any], options: Mapping[str, Any], reserved: Iterable[str] = ()
) -> None:
    """Whether a part's constructor takes these options.

    Args:
        kind, name: the part in words, for the error: ``head``, ``embed``.
        cls: its class.
        options: what the configuration gives.
        reserved: parameters that the builder gives itself.

    Raises:
        ConfigError: an option the constructor does not know, one the builder gives, or one that is missing.
    """
    given_by_builder = set(reserved)
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    choices = [p.name for p in named if p.name not in given_by_builder]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option in given_by_builder or (option not in choices and not takes_any):
            raise ConfigError(f"unknown option '{option}' of {kind} '{name}'{suggestion(option, choices)}")
    for p in named:
        if p.default is p.empty and p.name not in given_by_builder and p.name not in options:
            raise ConfigError(f"option '{p.name}' of {kind} '{name}' is missing; write {name}: {{{p.name}: ...}}")


def _shipped(kind: Kind) -> Path:
    return Path(str(resources.files("unified.configs"))) / kind


def _expect_mapping(source: Source, path: Path, what: str) -> dict[str, Any]:
    if source.value is None:
        raise ConfigError(f"{shown_path(path)}: is empty; expected {what}")
    if not isinstance(source.value, dict):
        raise ConfigError(f"{shown_path(path)}:1: expected {what}, written in lines such as 'key: value'")
    return source.value


def _mount_model(draft: Draft, path: Path) -> None:
    source = read_source(path)
    value = _expect_mapping(source, path, "a model")
    value.setdefault("name", path.stem)
    draft.mount(source, ("model",))
    _write_out_latents(draft)


def _write_out_latents(draft: Draft) -> None:
    """Names of blocks and one-line rules become the rules they stand for."""
    value = draft.value["model"].get("latents")
    if isinstance(value, str) or (isinstance(value, list) and any(isinstance(item, str) for item in value)):
        source = Source(
            value, {(): place_of(("model", "latents"), draft.source()), **draft.source().below("model", "latents")}
        )
        draft.replace(written_out(source, partial(config_path, "latents")), ("model", "latents"))


def _mount_data(
    draft: Draft, name: str, kinds: Mapping[str, str] | None, purpose: Purpose, tell: Tell
) -> tuple[Path, str | None]:
    """Returns the folder that paths are relative to, and the recipe that the file names."""
    found = _recognised(name, purpose)
    if found is None:
        path = config_path("data", name)
        return path.parent, _mount_data_file(draft, path)
    dataset = found.for_tasks(_tables(kinds), views=kinds is not None)
    draft.mount(Source(dataset, {(): Place(f"--data {name}")}), ("data", "datasets", found.name))
    tell(found.described())
    return found.path, None


def _recognised(name: str, purpose: Purpose) -> Recognised | None:
    """The dataset that stands at a path; None for a name of a shipped configuration or a data file."""
    given = Path(name).expanduser()
    plain = given.suffix not in DATA_SUFFIXES and not given.is_dir()
    if not name or plain:
        return None
    if given.is_dir() and "/" not in name and (_shipped("data") / f"{name}.yaml").is_file():
        raise ConfigError(f"--data {name}: is a folder here and a shipped configuration; write ./{name} for the folder")
    from unified.contracts.protocols import datasets  # late: the formats import torch

    return recognise(given, [cls for _, cls in datasets.available()], purpose)


def _tables(kinds: Mapping[str, str] | None) -> dict[str, Any]:
    """The table that each task learns from, by the task's name."""
    from unified.contracts.protocols import tasks as registry

    classes = dict(registry.available()) if kinds is None else {n: registry.get(kind) for n, kind in kinds.items()}
    return {name: getattr(cls, "labels", None) for name, cls in classes.items()}


def _mount_data_file(draft: Draft, path: Path) -> str | None:
    """Returns the recipe that the file names."""
    source = read_source(path)
    value = _expect_mapping(source, path, "a dataset, or 'datasets:'")
    recipe = value.pop("recipe", None)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{source.places[('recipe',)].text}: recipe: expected a name or a path, got {recipe}")
    whole = "datasets" in value or "schedule" in value
    draft.mount(source, ("data",) if whole else ("data", "datasets", path.stem))
    if whole and value.get("datasets", {}) == {}:
        place = source.places.get(("datasets",), Place(shown_path(path)))
        raise ConfigError(f"{place.text}: datasets: names no dataset; write at least one, by a name of your choice")
    return recipe


def _mount_recipe(draft: Draft, path: Path) -> None:
    source = read_source(path)
    value = _expect_mapping(source, path, "a recipe") if source.value is not None else {}
    beside = {key: value.pop(key) for key in _RECIPE_EXTRAS if key in value}
    draft.mount(source, ("train",))
    if "balance" in beside:
        draft.adopt(beside["balance"], ("balance",), source.below("balance"))
    settings = _mapping_at(beside.get("tasks", {}), source, "tasks")
    for name, task in draft.value["tasks"].items():
        if name in settings:
            given = _mapping_at(settings[name], source, "tasks", name)
            draft.adopt({**given, **task}, ("tasks", name), source.below("tasks", name))


def _mapping_at(value: Any, source: Source, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{source.places[keys].text}: {'.'.join(keys)}: expected a mapping, got {value!r}")
    return value


def _mount_tasks(draft: Draft, tasks: Sequence[str]) -> None:
    from unified.contracts.protocols import tasks as registry  # late: it imports torch

    draft.value["tasks"] = {}
    for text in tasks:
        name, _, kind = text.strip().partition(":")
        kind = kind or name
        if not name.isidentifier():
            raise ConfigError(f"--tasks: '{text}' is not a task's name; write det, or my_name:det")
        if name in draft.value["tasks"]:
            raise ConfigError(
                f"--tasks: '{name}' stands twice; give the second a name of its own, such as {name}2:{kind}"
            )
        if kind not in registry.names():
            raise ConfigError(f"--tasks: unknown task '{kind}'{suggestion(kind, registry.names())}")
        draft.put(("tasks", name), {"task": kind}, f"--tasks {text}")
    if not draft.value["tasks"]:
        raise ConfigError(f"--tasks: no task given; known: {', '.join(registry.names())}")


def _extras(draft: Draft) -> dict[tuple[str | int, ...], tuple[str, ...]]:
    """What may stand in a file beside the keys of the mapping it became."""
    datasets = draft.value["data"].get("datasets", {})
    single = [("data", "datasets", name) for name in datasets] if draft.single_dataset else []
    return {("train",): _RECIPE_EXTRAS, ("data",): ("recipe",), **dict.fromkeys(single, _DATA_KEYS)}
