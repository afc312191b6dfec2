# SPDX-License-Identifier: Apache-2.0
"""Embedding many pictures into shards: one callable that a loop here or Ray Data somewhere else feeds with numbers.

A job is cut into shards by the order of its pictures. A shard that has its receipt is never made again, so that a job
that was stopped goes on, and one that is finished does nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import CheckpointError, DataError
from unified.disk import read_regular, write_bytes
from unified.hardware import cores
from unified.inference.cluster import on_ray
from unified.inference.encoder import Precision, calibrate, quantize, shorten
from unified.inference.model import Level, UnifiedModel, load
from unified.inference.results import Result
from unified.inference.rows import COLUMNS, rows_of
from unified.inference.shards import MANIFEST, Format, Receipt, Rows, pick_format, receipt_at, write_shard
from unified.inference.source import ahead, in_groups
from unified.inference.worklist import Entry, Worklist, open_worklist

Say = Callable[[int], None]
"""Called with a number of pictures that are done."""


@dataclass(frozen=True)
class Job:
    """Everything that decides the vectors of a job, as plain values that travel to another machine."""

    model: str
    sources: tuple[str, ...]
    out: str
    level: Level = "image"
    column: str | None = None
    size: int | None = None  # pixels; None: the model's own
    confidence: float = 0.25
    truncate_dim: int | None = None
    precision: Precision = "float32"
    ranges: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # for int8
    form: Format | Literal["auto"] = "auto"  # auto: Parquet where pyarrow is installed
    shard_size: int = 10_000  # pictures a shard
    batch: int = 16
    device: str = "auto"
    workers: int | None = None  # threads that read pictures
    fuse: bool = False  # vectors are then the same to rounding only
    tags: float | None = None  # least score of a tag; then rows tell tags, and classes of boxes found in the picture


@dataclass(frozen=True)
class Summary:
    """What became of a job."""

    out: str
    shards: int
    made: int  # shards made by this call; the others were there
    pictures: int
    rows: int
    failed: int
    space: str
    seconds: float


class ShardEmbedder:
    """Makes shards by their numbers: ``map_batches`` of Ray Data takes it as it is, and so does a loop.

    Args:
        job: a :class:`Job` as a mapping, or one itself.
        model: where it is loaded already.
        say: hears of pictures that are done.
        work: the pictures, where they are known already; by default those of the job's sources.

    Raises:
        ConfigError: the format's package is not installed.
        UnifiedError: the model or the pictures do not fit.
    """

    def __init__(
        self,
        job: Mapping[str, Any] | Job,
        model: UnifiedModel | None = None,
        say: Say | None = None,
        work: Worklist | None = None,
    ) -> None:
        self.job = _job(asdict(job) if isinstance(job, Job) else job)
        self.form = pick_format(self.job.form)
        self.model = model or load(self.job.model, self.job.device, fuse=self.job.fuse)
        self.work = work or open_worklist(self.job.sources, self.job.column)
        self.say = say or (lambda _: None)
        self.ranges = None if self.job.ranges is None else torch.tensor(self.job.ranges)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """batch: ``shard``, numbers (n,). Returns ``shard``, ``rows`` and ``failed``, each (n,)."""
        receipts = [self.make(int(number)) for number in batch["shard"]]
        told = {"shard": [r.shard for r in receipts], "rows": [r.rows for r in receipts]}
        return {k: np.array(v) for k, v in {**told, "failed": [len(r.failed) for r in receipts]}.items()}

    def make(self, shard: int) -> Receipt:
        """One shard, unless it is there."""
        folder, start = Path(self.job.out), shard * self.job.shard_size
        stop = min(start + self.job.shard_size, len(self.work))
        known = receipt_at(folder, shard)
        if known is not None:
            self.say(known.pictures)
            return known
        failed: list[tuple[str, str]] = []
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        vectors: list[Tensor] = []
        for name, result in self._seen(self.work.entries(start, stop), failed):
            rows, found = rows_of(name, result, self.job.level, self.job.tags)
            vectors.append(self.kept(found))
            for key, values in rows.items():
                columns[key] += values
        blank = self.kept(torch.zeros(0, self.width))
        return write_shard(
            folder, shard, Rows(columns, torch.cat([blank, *vectors]), self.notes), stop - start, failed, self.form
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what stands beside the vectors."""
        return (*COLUMNS[self.job.level], *(("tags",) if self.job.tags is not None else ()))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Whose answers are needed."""
        needed = self.model.tasks_for(self.job.level)
        if self.job.tags is None:
            return needed
        kinds = self.model.trained.tasks
        telling = {name for name in self.model.tasks if {"tag_scores", "labels"} & set(kinds[name].provides)}
        return tuple(name for name in self.model.tasks if name in telling | set(needed))

    @property
    def width(self) -> int:
        """D of the model's vectors."""
        return self.model.trained.tasks[list(self.model.spaces)[-1]].outputs

    @property
    def notes(self) -> dict[str, str]:
        """What is written into every shard beside the vectors."""
        said = {"space": self.model.space_at(self.job.size), "level": self.job.level, "precision": self.job.precision}
        ranges = None if self.job.ranges is None else json.dumps(self.job.ranges)
        return {f"unified.{k}": str(v) for k, v in {**said, "ranges": ranges}.items() if v is not None}

    def raw(self, pictures: int) -> Tensor:
        """Vectors (n, D) float32 of the job's first pictures, to calibrate by."""
        seen = self._seen(self.work.entries(0, pictures), [])
        found = [rows_of(name, result, self.job.level)[1] for name, result in seen]
        return shorten(torch.cat([torch.zeros(0, self.width), *found]), self.job.truncate_dim, True)

    def kept(self, vectors: Tensor) -> Tensor:
        """Vectors (n, D) float32 in the job's form."""
        return quantize(shorten(vectors, self.job.truncate_dim, True), self.job.precision, self.ranges)

    def _seen(self, entries: Iterator[Entry], failed: list[tuple[str, str]]) -> Iterator[tuple[str, Result]]:
        """What the network says of every picture that can be read."""
        tasks, threads = self.tasks, self.job.workers or min(8, cores())
        for group in in_groups(ahead(entries, _read, threads, 2 * self.job.batch), self.job.batch):
            failed += [(name, found) for name, found in group if isinstance(found, str)]
            good = [(name, found) for name, found in group if isinstance(found, Tensor)]
            if good:
                yield from zip((name for name, _ in good), self._look([p for _, p in good], tasks), strict=True)
            self.say(len(group))

    def _look(self, pixels: Sequence[Tensor], tasks: Sequence[str]) -> list[Result]:
        job = self.job
        options: dict[str, Any] = {"confidence": job.confidence, "size": job.size, "batch_size": job.batch}
        found: list[Result] = self.model.predict(list(pixels), tasks, workers=0, **options)
        return found


def embed(
    job: Job,
    engine: str = "local",
    actors: int = 1,
    calibration: int = 0,
    begin: Callable[[int], None] | None = None,
    say: Say | None = None,
) -> Summary:
    """Runs a job, or what is left of it.

    Args:
        job: what is to be done.
        engine: ``local``, or ``ray`` for Ray Data on this machine or a cluster, which must share the folders.
        actors: of Ray, each with a model of its own.
        calibration: for int8: pictures at the beginning that the ranges are taken from.
        begin: called once with the number of pictures.
        say: called with numbers of pictures that are done.

    Raises:
        UnifiedError: the model, the pictures or the folder do not fit, or the folder holds another job's shards.
    """
    start, folder, job = time.monotonic(), Path(job.out), replace(job, form=pick_format(job.form))
    model = load(job.model, job.device, fuse=job.fuse)
    model.tasks_for(job.level)
    embedder = ShardEmbedder(asdict(job), model, say)
    embedder.kept(torch.zeros(0, embedder.width))  # words that do not fit are said before the folder is made
    count = -(-len(embedder.work) // job.shard_size)
    job = _agreed(folder, job, embedder, calibration)
    if begin is not None:
        begin(len(embedder.work))
    waiting = [k for k in range(count) if receipt_at(folder, k) is None]
    if engine == "ray":
        sizes = [min(job.shard_size, len(embedder.work) - k * job.shard_size) for k in range(count)]
        embedder.say(sum(sizes) - sum(sizes[k] for k in waiting))
        words = {"job": asdict(_anywhere(job))}
        on_ray(ShardEmbedder, words, waiting, actors, job.device != "cpu", lambda k: embedder.say(sizes[k]))
    else:
        embedder = ShardEmbedder(asdict(job), model, say)
        for shard in range(count):
            embedder.make(shard)
    receipts = [receipt for k in range(count) if (receipt := receipt_at(folder, k)) is not None]
    if len(receipts) < count:
        raise CheckpointError(f"'{job.out}': {count - len(receipts)} of {count} shards were not made; run again")
    failed = [(name, why) for receipt in receipts for name, why in receipt.failed]
    lines = "".join(json.dumps({"id": name, "why": why}) + "\n" for name, why in failed)
    write_bytes(folder / "failed.jsonl", lines.encode())
    rows, space = sum(receipt.rows for receipt in receipts), str(model.space_at(job.size))
    seconds = round(time.monotonic() - start, 3)
    return Summary(job.out, count, len(waiting), len(embedder.work), rows, len(failed), space, seconds)


def _agreed(folder: Path, job: Job, embedder: ShardEmbedder, calibration: int) -> Job:
    """The job as the folder's manifest has it; a fresh folder gets one.

    Raises:
        CheckpointError: the folder holds shards of another job.
    """
    known = _manifest(folder)
    if known is None:
        if job.precision == "int8" and calibration:
            low, high = calibrate(embedder.raw(calibration)).tolist()
            job = replace(job, ranges=(tuple(low), tuple(high)))
        write_bytes(folder / MANIFEST, json.dumps(_said(job, embedder), indent=1).encode())
        return job
    job = replace(job, ranges=known.get("ranges") and tuple(tuple(row) for row in known["ranges"]))
    wanted = _said(job, embedder)
    asked = json.loads(json.dumps(wanted))
    for key in {**known, **asked}:
        if known.get(key) != asked.get(key):
            raise CheckpointError(
                f"'{folder}' holds shards of another job: {WORDS.get(key, key)} {_short(known.get(key))}, now "
                f"{_short(asked.get(key))}; choose another --out"
            )
    return job


WORDS: Mapping[str, str] = {"work": "pictures", "space": "embedding space"}


def _said(job: Job, embedder: ShardEmbedder) -> dict[str, Any]:
    """What must be the same for shards to belong together."""
    return {
        "format": 1,
        "space": embedder.model.space_at(job.size),
        "pictures": len(embedder.work),
        "work": embedder.work.digest,
        "level": job.level,
        "precision": job.precision,
        "ranges": job.ranges,
        "truncate_dim": job.truncate_dim,
        "confidence": job.confidence if job.level == "box" else None,
        "form": job.form,
        "shard_size": job.shard_size,
        **({"fuse": True} if job.fuse else {}),
        **({} if job.tags is None else {"tags": job.tags, "confidence": job.confidence}),
    }


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(read_regular(folder / MANIFEST, 64 << 20)))
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise CheckpointError(f"--out {folder}: is not empty and holds no shards; choose another folder") from None
        return None
    except NotADirectoryError:
        raise CheckpointError(f"--out {folder}: is below a file; choose another folder") from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"'{folder / MANIFEST}' cannot be read ({error}); choose another --out") from None


def _anywhere(job: Job) -> Job:
    """The same job in the words of a process that began in another folder."""
    model, out = (str(Path(word).resolve()) for word in (job.model, job.out))
    return replace(job, model=model, out=out, sources=tuple(str(Path(word).absolute()) for word in job.sources))


def _read(entry: Entry) -> tuple[str, Tensor | str]:
    """A picture's name and its pixels, or why it has none."""
    try:
        return entry.name, entry.read()
    except DataError as error:
        return entry.name, str(error)


def _job(said: Mapping[str, Any]) -> Job:
    return Job(**{each.name: said[each.name] for each in fields(Job) if each.name in said})


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
