# SPDX-License-Identifier: Apache-2.0
"""From a trained network to a folder that holds it in another format, with the proof that it answers the same."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unified import __version__
from unified.contracts import protocols
from unified.contracts.errors import CheckpointError, ConfigError, suggestion
from unified.contracts.exporting import Blueprint, Exporter
from unified.contracts.plugins import noted
from unified.disk import NEW, clear, make_folder, sync, unwritable, write_bytes
from unified.export.accuracy import UNWATCHED, Score, Watch, scores
from unified.export.artifact import ABOUT, PARITY, Artifact, digest, is_export
from unified.export.calibration import calibration_pictures
from unified.export.graph import ExportGraph, folded, plan
from unified.export.opened import open_export
from unified.export.parity import TOLERANCE, Parity, compare
from unified.inference.space import fingerprint
from unified.trained import Trained, load_trained

Say = Callable[[str], None]
VECTORS = {"embedding", "box_embeddings"}  # fields of a prediction that are vectors of a space


@dataclass(frozen=True)
class Job:
    """What is to be exported, and how."""

    run: Path  # a run, a checkpoint or a model that was handed on
    out: Path  # a new folder
    form: str = "onnx"
    tasks: Sequence[str] | None = None  # None: all
    precision: str = "fp32"
    decode: bool = True  # boxes in pixels and scores in 0..1, instead of what the heads say
    suppress: bool = False  # only the best boxes, without repeats
    size: int | None = None  # pixels; None: the training's
    rules: Mapping[str, Any] = field(default_factory=dict)  # of the suppression, other than the task's own
    calibrate: str | None = None  # a data file or dataset, for INT8
    samples: int = 300  # pictures of its training split
    scored: int = 500  # pictures of its validation split; 0: none
    drop: float = 0.01  # how much an INT8 network's scores may fall
    tolerance: float | None = None  # see :class:`unified.export.parity.Parity`; None: by precision


@dataclass(frozen=True)
class Exported:
    """What was made."""

    folder: Path
    file: Path
    size: int  # bytes of all files that are needed to run it
    seconds: float
    parity: Parity
    scores: tuple[Score, ...]  # of an INT8 network, beside those of the network it was made from

    def told(self) -> dict[str, Any]:
        """As JSON."""
        told = {"folder": str(self.folder), "file": str(self.file), "bytes": self.size}
        scores = [asdict(score) for score in self.scores]
        return {**told, "seconds": round(self.seconds, 1), "parity": self.parity.told(), "scores": scores}


def export(job: Job, say: Say = lambda line: None, watch: Watch = UNWATCHED) -> Exported:
    """Writes a network in another format, and compares what the file answers with what the network answers.

    Args:
        job: what and how.
        say: hears a line at each step.
        watch: hears of the batches that an INT8 network is scored on.

    Returns:
        What was made. Nothing is left where it fails.

    Raises:
        ConfigError: a word that is not known, or a network or a precision that the format cannot hold.
        CheckpointError: the run cannot be read, the folder cannot be written, or the file does not answer as it must.
        DataError: calibration data that cannot be read.
    """
    start = time.monotonic()
    exporter = _exporter(job)
    trained = load_trained(job.run, job.tasks)
    trained.network.check_size(_size(job, trained))
    say("tracing the network")
    graph = plan(trained, job.decode, job.suppress, job.rules)
    artifact = _described(job, trained, graph)
    draft = job.out.parent / f"{NEW}{job.out.name}-{secrets.token_hex(4)}"
    try:
        make_folder(draft)
        parity, found = _made(job, trained, graph, artifact, exporter, draft, say, watch)
        _publish(draft, job.out)
    except OSError as error:
        raise unwritable(job.out, error) from error
    finally:
        clear(draft)
    files = [job.out / name for name in json.loads((job.out / ABOUT).read_text())["files"]]
    size = sum(file.stat().st_size for file in files)
    return Exported(job.out, job.out / _name(exporter), size, time.monotonic() - start, parity, found)


def _made(
    job: Job,
    trained: Trained,
    graph: ExportGraph,
    artifact: Artifact,
    exporter: Exporter,
    draft: Path,
    say: Say,
    watch: Watch,
) -> tuple[Parity, tuple[Score, ...]]:
    """Writes, compares and describes in a folder that nobody sees yet."""
    pictures = None
    if job.precision == "int8":
        say(f"reading {job.samples} pictures to calibrate with")
        pictures = calibration_pictures(trained, str(job.calibrate), artifact.size, job.samples)
    about = artifact.dump()
    written = graph.on(folded(trained.network))
    blueprint = Blueprint(written, graph.names, artifact.size, artifact.stride, job.precision, about, pictures=pictures)
    say(f"writing {_name(exporter)}")
    exporter.write(blueprint, draft / _name(exporter))
    files = {path.name: digest(path) for path in sorted(draft.iterdir())}
    write_bytes(draft / ABOUT, artifact.dump(files).encode())
    say(f"comparing it with the network in {exporter.runtime()}")
    parity = _compared(job, graph, exporter, draft, artifact)
    found: tuple[Score, ...] = ()
    if job.precision == "int8" and job.scored:
        say(f"scoring both on up to {job.scored} validation pictures of each dataset")
        found = scores(trained, open_export(draft), str(job.calibrate), artifact.size, job.scored, watch)
        _check_scored(job, trained, found, say)
        _check_scores(job, found)
    report = {**parity.told(), "scores": [asdict(score) for score in found]}
    write_bytes(draft / PARITY, json.dumps(report, indent=1).encode())
    return parity, found


def _compared(job: Job, graph: ExportGraph, exporter: Exporter, draft: Path, artifact: Artifact) -> Parity:
    runner = exporter.open(draft / _name(exporter), graph.names, "cpu")
    rows, shapes = compare(graph, runner, artifact.size, artifact.stride)
    limit = TOLERANCE[job.precision] if job.tolerance is None else job.tolerance
    parity = Parity(exporter.runtime(), job.precision, limit, tuple(shapes), tuple(rows))
    if not parity.passed:
        worst = parity.worst
        raise CheckpointError(
            f"{parity.runtime} does not answer like the network: output '{worst.output}' is off by {worst.error:.2g}, "
            f"at most {limit:g} is allowed; nothing was written (another --format may do, or a larger --tolerance)"
        )
    return parity


def _check_scored(job: Job, trained: Trained, found: Sequence[Score], say: Say) -> None:
    """Whether anything says what 8 bits cost; tasks that the data does not label are told."""
    scored = {score.name.partition("/")[0] for score in found}
    silent = ", ".join(name for name in trained.tasks if name not in scored)
    if not found:
        raise ConfigError(
            f"'{job.calibrate}' scores none of {silent}, so nothing says what INT8 costs; give data that labels one, "
            "or --scored 0"
        )
    if silent:
        say(f"not scored, because '{job.calibrate}' does not label it: {silent}")


def _check_scores(job: Job, found: Sequence[Score]) -> None:
    lost = [score for score in found if score.drop > job.drop]
    if lost:
        worst = max(lost, key=lambda score: score.drop)
        raise CheckpointError(
            f"INT8 loses too much: {worst.name} falls from {worst.before:.4f} to {worst.after:.4f}, at most "
            f"{job.drop:g} is allowed; nothing was written (more --samples may help, or --precision fp16)"
        )


def _exporter(job: Job) -> Exporter:
    """The format, after all words have been looked at."""
    exporter: Exporter = protocols.exporters.get(job.form)()
    if job.precision not in exporter.precisions:
        raise ConfigError(
            f"format '{job.form}' cannot hold precision '{job.precision}'{suggestion('', exporter.precisions)}"
        )
    if job.suppress and not exporter.suppresses:
        raise ConfigError(f"format '{job.form}' cannot suppress repeats inside its graph; give --nms outside")
    if job.suppress and not job.decode:
        raise ConfigError("--nms inside needs boxes in pixels; leave --decode outside away")
    if job.precision == "int8" and not job.calibrate:
        raise ConfigError("INT8 needs pictures to calibrate with; give --calibrate DATA")
    if is_export(job.run):
        raise ConfigError(f"'{job.run}' is an exported file already; give the run or model it was made from")
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise ConfigError(f"--out '{job.out}' is there already; choose another folder, or remove it")
    exporter.check(job.precision)
    return exporter


def _size(job: Job, trained: Trained) -> int:
    return trained.config.train.size if job.size is None else job.size


def _described(job: Job, trained: Trained, graph: ExportGraph) -> Artifact:
    size = _size(job, trained)
    config = trained.config.model_copy(update={"train": trained.config.train.model_copy(update={"size": size})})
    giving = [name for name, task in trained.tasks.items() if VECTORS & set(task.provides)]
    spaces = {name: fingerprint(trained.network, trained.config.model, name, size) for name in giving}
    if job.precision == "int8":  # its vectors lie beside those of the network, not on them
        spaces = {name: _own_space(space, job) for name, space in spaces.items()}
    return Artifact(
        exporter=job.form,
        precision=job.precision,
        size=size,
        stride=trained.network.stride,
        outlets=graph.outlets,
        spaces=spaces,
        config=config,
        vocabulary=trained.vocabulary,
        provenance=trained.provenance,
        version=__version__,
        plugins=noted(trained.config),
    )


def _own_space(space: str, job: Job) -> str:
    return hashlib.sha256(f"{space} {job.form} int8 {job.calibrate} {job.samples}".encode()).hexdigest()


def _name(exporter: Exporter) -> str:
    return f"model{exporter.suffix}"


def _publish(draft: Path, out: Path) -> None:
    """Gives the finished folder its name, after everything in it has reached the disk."""
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync(draft)
    if out.is_dir():
        out.rmdir()
    os.rename(draft, out)  # noqa: PTH104
    sync(out.parent)
