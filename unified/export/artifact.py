# SPDX-License-Identifier: Apache-2.0
"""What must be known to run an exported network, as JSON: beside the file and, where the format can, inside it too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from unified.contracts.config import RunConfig
from unified.contracts.errors import CheckpointError
from unified.contracts.exporting import INPUT, Exporter
from unified.contracts.protocols import exporters
from unified.contracts.structures import Vocabulary
from unified.data.picture import GREY
from unified.disk import read_regular
from unified.pretrained import Provenance, without_data

ABOUT: Final = "unified.json"
PARITY: Final = "parity.json"
FORMAT: Final = 1
MOST: Final = 256 << 20  # bytes of a description


@dataclass(frozen=True)
class Outlet:
    """How one task's answer leaves the graph."""

    task: str
    ending: str  # see :mod:`unified.export.endings`
    tensors: Mapping[str, str]  # the ending's tensors -> outputs of the graph
    facts: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)  # outputs for other programs, not needed to restore

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return (*self.tensors.values(), *self.extra.values())


@dataclass(frozen=True)
class Artifact:
    """An exported network in words."""

    exporter: str
    precision: str
    size: int  # pixels: the side it was trained for
    stride: int  # height and width must be multiples
    outlets: tuple[Outlet, ...]
    spaces: Mapping[str, str]  # embedding task -> fingerprint at ``size``
    config: RunConfig  # of the exported tasks, without datasets
    vocabulary: Vocabulary
    provenance: Provenance
    version: str  # of unified
    plugins: Sequence[Mapping[str, str]] = ()  # parts of other packages that its tasks need
    files: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256; empty inside a file

    def dump(self, files: Mapping[str, str] | None = None) -> str:
        """The description as JSON. files: name -> SHA-256, for the one that lies beside them."""
        content = {
            "format": FORMAT,
            "unified": self.version,
            "exporter": self.exporter,
            "precision": self.precision,
            "input": {
                "name": INPUT,
                "shape": ["batch", 3, "height", "width"],
                "type": "float32",
                "colours": "RGB",
                "values": "0..1: pixel / 255",
                "fit": f"letterbox: scaled to fit, centred, the rest {GREY} / 255",
                "size": self.size,
                "multiple_of": self.stride,
            },
            "outlets": [asdict(outlet) for outlet in self.outlets],
            "spaces": dict(self.spaces),
            "config": without_data(self.config).model_dump(mode="json"),
            "vocabulary": {name: list(words) for name, words in vars(self.vocabulary).items()},
            "provenance": asdict(self.provenance),
            "plugins": list(self.plugins),
        }
        return json.dumps(content | ({"files": dict(files)} if files else {}), indent=1, allow_nan=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that the file gives, in order."""
        return tuple(name for outlet in self.outlets for name in outlet.outputs)

    def of(self, tasks: Sequence[str]) -> Artifact:
        """The same file, asked for only some of its tasks."""
        config = self.config.model_copy(update={"tasks": {name: self.config.tasks[name] for name in tasks}})
        return replace(self, config=config)


def is_export(path: Path) -> bool:
    """Whether a path is an exported network: its folder, or its file."""
    if path.is_dir():
        return (path / ABOUT).is_file() or _alone(path) is not None
    return path.is_file() and any(path.suffix == cls.suffix for _, cls in exporters.available())


def _alone(folder: Path) -> Path | None:
    """The file of an exported network in a folder; its description may have been lost."""
    names = (folder / f"model{cls.suffix}" for _, cls in exporters.available())
    return next((file for file in names if file.is_file()), None)


def read_artifact(path: Path) -> tuple[Artifact, Path]:
    """The description of an exported network, and its file.

    A file that carries its description inside needs nothing beside it; where its sum lies beside it, it is compared.

    Args:
        path: the folder, or the file in it.

    Raises:
        CheckpointError: damaged, or of a newer version, or its description is missing.
    """
    if path.is_dir() and not (path / ABOUT).is_file():
        path = _alone(path) or path
    if path.is_file() and (inside := _inside(path)):
        beside = path.with_name(ABOUT)
        listed = _parsed(_text(path, beside), beside).files if beside.is_file() else {}
        _compare(path.parent, {name: total for name, total in listed.items() if name == path.name})
        return _parsed(inside, path), path
    folder = path if path.is_dir() else path.parent
    artifact = _parsed(_text(path, folder / ABOUT), folder / ABOUT)
    exporter: type[Exporter] = exporters.get(artifact.exporter)
    _compare(folder, artifact.files)
    return artifact, folder / f"model{exporter.suffix}"


def _text(path: Path, about: Path) -> str:
    try:
        return read_regular(about, MOST).decode()
    except (OSError, ValueError):
        raise CheckpointError(
            f"'{path}' cannot be run: {ABOUT}, which says what its outputs mean, is not beside it, or cannot be read"
        ) from None


def _compare(folder: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        if digest(folder / name) != expected:
            raise CheckpointError(f"'{folder}' is damaged: {name} does not match its SHA-256 in {ABOUT}")


def digest(file: Path) -> str:
    """SHA-256 of a file.

    Raises:
        CheckpointError: it is missing.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"'{file.parent}' is damaged: {file.name} cannot be read ({error.strerror})") from None


def _inside(file: Path) -> str | None:
    for _, cls in exporters.available():
        if cls.suffix == file.suffix and (said := cls().about(file)):
            return str(said)
    return None


def _parsed(text: str, where: Path) -> Artifact:
    try:
        content = json.loads(text)
        version = int(content["format"])
        if version != FORMAT:
            raise CheckpointError(f"'{where}' has format {version}, this version reads {FORMAT}; update unified")
        return Artifact(
            exporter=str(content["exporter"]),
            precision=str(content["precision"]),
            size=int(content["input"]["size"]),
            stride=int(content["input"]["multiple_of"]),
            outlets=tuple(Outlet(**each) for each in content["outlets"]),
            spaces={str(task): str(space) for task, space in content["spaces"].items()},
            config=RunConfig.model_validate(content["config"]),
            vocabulary=Vocabulary(**{name: tuple(words) for name, words in content["vocabulary"].items()}),
            provenance=Provenance(**content["provenance"]),
            version=str(content["unified"]),
            plugins=list(content["plugins"]),
            files=_plain_names(content.get("files", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"'{where}' does not say what it holds ({reason})") from None


def _plain_names(files: Mapping[str, str]) -> dict[str, str]:
    if any(Path(name).name != name for name in files):
        raise ValueError("a file outside of the folder is listed")
    return dict(files)
