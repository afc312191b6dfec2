# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures in an index: embedded shard by shard, each shard added as a whole.

What is in the index already and has not changed since is not looked at again. A call that was stopped leaves its
shards; the next one adds them first and goes on with the rest.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file

from unified.contracts.errors import ConfigError, DataError
from unified.disk import append, make_folder, reason, remove, write_bytes
from unified.index import create
from unified.index import open as open_index
from unified.index.catalog import locked
from unified.index.protocol import Layout, VectorIndex
from unified.index.row import Row
from unified.inference.bulk import Job, ShardEmbedder
from unified.inference.model import Level, UnifiedModel, load
from unified.inference.shards import VECTORS, Receipt, receipt_at
from unified.inference.worklist import Files, open_worklist

PLAN: Final = "plan.json"
_PENDING: Final = "pending-"
_SEEN: Final = "seen.jsonl"
_FAILED: Final = "failed.jsonl"

Stamp = tuple[int, int]  # bytes of a file, and when it was changed in ns


@dataclass(frozen=True)
class Order:
    """Which pictures shall be found in which index."""

    model: str
    sources: tuple[str, ...]
    out: str  # a folder, or for LanceDB an address
    backend: str | None = None
    level: Level = "image"
    precision: str = "float32"
    truncate_dim: int | None = None
    size: int | None = None  # pixels; None: the model's own
    confidence: float = 0.25
    tags: float | None = 0.5  # least score of a tag that a row tells; None: no tags
    prune: bool = False  # whether pictures that are gone from the sources' folders leave the index
    state: str | None = None  # folder for what is known of the pictures; by default in or beside the index
    shard_size: int = 1000
    batch: int = 16
    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an order."""

    out: str
    pictures: int  # in the sources
    looked_at: int  # by the network, in this call
    failed: int
    removed: int  # pictures that are gone
    rows: int  # in the index now
    space: str
    seconds: float
    why: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # pictures that cannot be read


class Album:
    """What is known of the pictures of an index: when each was looked at, and how many rows it gave."""

    def __init__(self, folder: Path, index: VectorIndex) -> None:
        self.path = folder / _SEEN
        self.seen: dict[str, tuple[Stamp, int]] = {}
        if self.path.is_file():
            self._read()
        elif len(index):
            self._gather(index)

    def _read(self) -> None:
        for line in self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            try:
                name, size, at, rows = json.loads(line)
            except ValueError:
                continue  # half a line of a full disk: the picture is looked at again
            if rows < 0:
                self.seen.pop(name, None)
            else:
                self.seen[name] = ((size, at), rows)

    def _gather(self, index: VectorIndex) -> None:
        """From the rows, where the list was lost."""
        for row in index.rows():
            if row.path is not None and row.stamp is not None:
                self.seen[row.path] = (row.stamp, self.seen.get(row.path, (row.stamp, 0))[1] + 1)

    def note(self, found: Mapping[str, tuple[Stamp, int]]) -> None:
        """Pictures were looked at; ``rows`` of -1: it is gone."""
        self.seen.update({name: each for name, each in found.items() if each[1] >= 0})
        for name in (name for name, each in found.items() if each[1] < 0):
            self.seen.pop(name, None)
        lines = "".join(json.dumps([name, *stamp, rows]) + "\n" for name, (stamp, rows) in found.items())
        append(self.path, lines.encode())

    def ids(self, name: str, level: str) -> list[str]:
        """Ids of a picture's rows."""
        rows = self.seen.get(name, ((0, 0), 0))[1]
        return [name] * min(rows, 1) if level == "image" else [f"{name}#{k}" for k in range(rows)]


def index_folder(
    order: Order, begin: Callable[[int], None] | None = None, say: Callable[[int], None] | None = None
) -> Outcome:
    """Brings pictures into an index, or what is left to do of that.

    Args:
        order: what is to be done.
        begin: called once with the number of pictures that have to be looked at.
        say: called with numbers of pictures that are done.

    Raises:
        UnifiedError: the model, the pictures or the place do not fit, or the index holds vectors of another kind.
    """
    start = time.monotonic()
    model = load(order.model, order.device)
    files = _pictures(order)
    layout = layout_of(order, model)
    state = _state(order)
    index = _index(order, layout)
    try:
        make_folder(state)
        with locked(state):
            album = Album(state, index)
            for left in sorted(state.glob(f"{_PENDING}*")):
                _finish(left, index, album, layout)
            todo = {name: stamp for name, stamp in files.items() if album.seen.get(name, (None, 0))[0] != stamp}
            if begin is not None:
                begin(len(todo))
            failed = _look(order, model, todo, index, album, state, say)
            removed = _prune(order, files, index, album) if order.prune else 0
            lines = "".join(json.dumps({"id": name, "why": why}) + "\n" for name, why in failed)
            write_bytes(state / _FAILED, lines.encode())
    except OSError as error:
        raise DataError(f"{reason(state, error)}; call again when there is room") from error
    seconds = round(time.monotonic() - start, 3)
    space, told = str(layout.space), tuple(failed)
    return Outcome(order.out, len(files), len(todo), len(failed), removed, len(index), space, seconds, told)


def layout_of(order: Order, model: UnifiedModel) -> Layout:
    """What the vectors of an order have in common.

    Raises:
        ConfigError: the model gives no such vectors, or a word does not fit.
    """
    model.tasks_for(order.level)
    width = ShardEmbedder(_job(order, ""), model, work=Files([])).width
    dim = order.truncate_dim or width
    if dim > width:
        raise ConfigError(f"truncate_dim {dim} does not fit vectors of width {width}")
    made = str(Path(order.model).resolve())
    words: dict[str, Any] = {"precision": order.precision, "level": order.level, "side": order.size}
    return Layout(dim, model.space_at(order.size), truncate=dim < width, model=made, **words)


def _pictures(order: Order) -> dict[str, Stamp | None]:
    """Every picture's absolute path, and its stamp; None where it is missing."""
    work = open_worklist(order.sources)
    if not isinstance(work, Files):
        raise ConfigError("unified-search index takes pictures; embed tables with unified-embed and add from Python")
    return {str(path.absolute()): stamp_of(path) for _, path in work.files}


def stamp_of(path: Path) -> Stamp | None:
    """Bytes and time of a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _state(order: Order) -> Path:
    if order.state is not None:
        return Path(order.state)
    if "://" in order.out:
        raise ConfigError(f"'{order.out}' is no folder: give --state FOLDER for what is known of the pictures")
    return Path(f"{order.out}.pictures") if _is_lance(order) else Path(order.out) / "pictures"


def _is_lance(order: Order) -> bool:
    path = Path(order.out)
    return order.backend == "lance" or path.suffix == ".lancedb" or any(path.glob("*.lance"))


def _index(order: Order, layout: Layout) -> VectorIndex:
    """The index of an order, made where it is not there.

    Raises:
        DataError: it holds vectors of another kind.
    """
    path = Path(order.out)
    if "://" not in order.out and not (path.is_dir() and any(path.iterdir())):
        words = {key: value for key, value in asdict(layout).items() if key not in ("ranges",)}
        return create(order.out, backend=order.backend, **words)  # type: ignore[arg-type]
    try:
        index = open_index(order.out)
    except DataError:
        if "://" not in order.out:
            raise
        return create(order.out, backend="lance", **asdict(layout))
    for key, word in _MUST_AGREE.items():
        known, wanted = getattr(index.layout, key), getattr(layout, key)
        if known != wanted:
            raise DataError(f"'{order.out}' is an index of another kind: {word} {known}, now {wanted}; choose another")
    return index


_MUST_AGREE: Final = {
    "space": "space",
    "dim": "width",
    "precision": "precision",
    "level": "level",
    "metric": "metric",
}


def _look(
    order: Order,
    model: UnifiedModel,
    todo: Mapping[str, Stamp | None],
    index: VectorIndex,
    album: Album,
    state: Path,
    say: Callable[[int], None] | None,
) -> list[tuple[str, str]]:
    """Embeds pictures and adds them, a shard at a time; tells which cannot be read."""
    if not todo:
        return []
    place = state / f"{_PENDING}{secrets.token_hex(6)}"
    plan = {"space": index.layout.space, "level": order.level, "shard_size": order.shard_size}
    pictures = [[name, *(stamp or (-1, -1))] for name, stamp in todo.items()]
    write_bytes(place / PLAN, json.dumps({**plan, "pictures": pictures}).encode())
    work = Files([(name, Path(name)) for name in todo])
    embedder = ShardEmbedder(_job(order, str(place)), model, say, work)
    failed: list[tuple[str, str]] = []
    for shard in range(-(-len(todo) // order.shard_size)):
        receipt = embedder.make(shard)
        failed += receipt.failed
        _take(place, receipt, pictures[shard * order.shard_size :][: order.shard_size], index, album)
    remove(place)
    return failed


def _finish(place: Path, index: VectorIndex, album: Album, layout: Layout) -> None:
    """Adds the whole shards that a call left that was stopped."""
    try:
        plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
        pictures, size = plan["pictures"], int(plan["shard_size"])
        ours = (plan["space"], plan["level"]) == (layout.space, layout.level)
    except (OSError, ValueError, KeyError, TypeError):
        ours, pictures, size = False, [], 1
    for shard in range(-(-len(pictures) // size) if ours else 0):
        if (receipt := receipt_at(place, shard)) is not None:
            _take(place, receipt, pictures[shard * size :][:size], index, album)
    remove(place)


def _take(place: Path, receipt: Receipt, pictures: Sequence[Sequence[Any]], index: VectorIndex, album: Album) -> None:
    """Adds one shard; its pictures' earlier rows give way."""
    stem, level = f"shard-{receipt.shard:05d}", str(index.layout.level)
    stamps = {name: (size, at) for name, size, at in pictures}
    unread = {name for name, _ in receipt.failed}
    vectors = load_file(place / f"{stem}.safetensors")[VECTORS]
    lines = [json.loads(line) for line in (place / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = list(_rows(lines, stamps))
    counts = dict.fromkeys((name for name in stamps if name not in unread), 0)
    for row in rows:
        counts[str(row.path)] += 1
    stale = {each for name in stamps for each in album.ids(name, level)} - {row.id for row in rows}
    index.add(vectors, rows, space=index.layout.space, replace=True)
    index.delete(sorted(stale))
    album.note({name: (stamps[name], count) for name, count in counts.items()})


def _rows(lines: Sequence[Mapping[str, Any]], stamps: Mapping[str, Stamp]) -> Iterator[Row]:
    for line in lines:
        name = line["id"]
        common: dict[str, Any] = {"path": name, "tags": tuple(line.get("tags", ())), "stamp": stamps[name]}
        if "box" in line:
            box = (line["x0"], line["y0"], line["x1"], line["y1"])
            yield Row(f"{name}#{line['box']}", box=box, name=line["name"], score=line["score"], **common)
        else:
            yield Row(name, size=(line["width"], line["height"]), **common)


def _prune(order: Order, files: Mapping[str, Stamp | None], index: VectorIndex, album: Album) -> int:
    """Removes pictures of the sources' folders that are there no more."""
    folders = [str(Path(word).absolute()) for word in order.sources if Path(word).is_dir()]
    gone = [name for name in album.seen if name not in files and any(name.startswith(f"{f}/") for f in folders)]
    index.delete([each for name in gone for each in album.ids(name, str(index.layout.level))])
    if gone:
        album.note(dict.fromkeys(gone, ((-1, -1), -1)))
    return len(gone)


def _job(order: Order, out: str) -> Job:
    return Job(
        order.model,
        order.sources,
        out,
        level=order.level,
        size=order.size,
        confidence=order.confidence,
        truncate_dim=order.truncate_dim,
        precision=order.precision,  # type: ignore[arg-type]
        form="safetensors",
        shard_size=order.shard_size,
        batch=order.batch,
        device=order.device,
        workers=order.workers,
        tags=order.tags,
    )
