# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import unified
from unified.contracts.errors import ConfigError, DataError
from unified.index import ExactIndex, Filter, Row, create, exact, scan, segment
from unified.index import open as open_index
from unified.index.segment import sha256_of
from unified.inference.encoder import quantize, similarity

SPACE, OTHER = "a" * 64, "b" * 64


def vectors(count: int, dim: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def truth(stored: Tensor, queries: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """All scores in float64, sorted as a whole."""
    left, right = queries.double(), stored.double()
    if metric == "cosine":
        left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    best = (left @ right.T).topk(k, dim=1)
    return best.values, best.indices


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 700, 9000])
def test_nothing_is_missed(tmp_path: Path, metric: Any, count: int) -> None:
    stored, queries = vectors(count) * torch.rand(count, 1).add(0.1), vectors(7, seed=1)
    index = create(tmp_path / "index", 16, metric=metric)
    index.add(stored)
    k = min(10, count)
    found = index.search(queries, 10)
    scores, positions = truth(stored, queries, k, metric)
    assert torch.equal(found.positions[:, :k], positions)
    assert torch.allclose(found.scores[:, :k].double(), scores, atol=1e-6)
    assert (found.positions[:, k:] == -1).all()
    assert [len(hits) for hits in found] == [k] * 7


def test_against_faiss(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    stored, queries = F.normalize(vectors(20_000, 32), dim=1), F.normalize(vectors(300, 32, seed=1), dim=1)
    index = create(tmp_path / "index", 32)
    index.add(stored)
    flat = faiss.IndexFlatIP(32)
    flat.add(stored.numpy())
    scores, positions = flat.search(queries.numpy(), 25)
    found = index.search(queries, 25)
    assert np.allclose(found.scores.numpy(), scores, atol=1e-5)
    assert (found.positions.numpy() == positions).mean() > 0.999  # ties of float32 may stand either way


def test_against_scikit_learn(tmp_path: Path) -> None:
    from sklearn.neighbors import NearestNeighbors

    stored, queries = vectors(500), vectors(9, seed=3)
    index = create(tmp_path / "index", 16)
    index.add(stored)
    theirs = NearestNeighbors(n_neighbors=6, metric="cosine").fit(stored.numpy()).kneighbors(queries.numpy())
    ours = index.kneighbors(queries, 6)
    assert np.allclose(ours[0], theirs[0], atol=1e-5)
    assert (ours[1] == theirs[1]).all()
    assert (index.kneighbors(queries.numpy(), 6, return_distance=False) == ours[1]).all()
    with pytest.raises(DataError, match="n_neighbors 501 is more than the 500 rows"):
        index.kneighbors(queries, 501)


def test_the_best_of_the_blocks_holds_the_best_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: looking into fewer blocks than neighbours misses some, so the number of blocks matters."""
    stored, queries = vectors(6400), vectors(20, seed=1)
    index = create(tmp_path / "index", 16)
    index.add(stored)
    expected = truth(stored, queries, 10, "cosine")[1]
    monkeypatch.setattr(scan, "_WAITING", 8)
    monkeypatch.setattr(scan, "_CHUNK", 128)
    assert torch.equal(index.search(queries, 10).positions, expected)
    monkeypatch.setattr(scan, "_SPARE", -5)
    assert not torch.equal(index.search(queries, 10).positions, expected)


def test_a_batch_answers_as_single_queries_do(tmp_path: Path) -> None:
    index = create(tmp_path / "index", 16)
    index.add(vectors(3000))
    queries = vectors(300, seed=2)
    many = index.search(queries, 5)
    for q in (0, 255, 256, 299):
        one = index.search(queries[q], 5)
        assert torch.equal(one.scores[0], many.scores[q])
        assert torch.equal(one.positions[0], many.positions[q])


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_every_precision_answers_as_similarity_does(tmp_path: Path, precision: Any) -> None:
    stored, queries = F.normalize(vectors(400), dim=1), F.normalize(vectors(6, seed=1), dim=1)
    index = create(tmp_path / "index", 16, precision=precision)
    index.add(quantize(stored, precision))
    index.add(stored[:3], ["x", "y", "z"])  # floats are put into the index's form
    asked = quantize(queries, precision)
    expected = similarity(asked, torch.cat([quantize(stored, precision), quantize(stored[:3], precision)]))
    found = open_index(tmp_path / "index").search(asked, 403)
    assert torch.allclose(found.scores, expected.gather(1, found.positions), atol=1e-5)
    assert (found.scores.diff(dim=1) <= 0).all()
    assert torch.equal(found.scores, index.search(queries, 403).scores) or precision == "float16"


ROWS = [
    Row("a", "a.jpg", None, None, None, ("wet", "day"), (640, 480), (10, 20)),
    Row("b#0", "b.jpg", (1.5, 2.0, 30.0, 40.0), "dog", 0.9, ("dry",)),
    Row("b#1", "b.jpg", (0.0, 0.0, 5.0, 90.0), "cat", 0.3, ("dry", "day")),
    Row("naïve \U0001f415.jpg", "sub dir/it's.jpg", tags=("a'b",)),
    Row("bytes-\udcff"),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    index = create(tmp_path / "index", 16)
    index.add(vectors(5), ROWS)
    again = open_index(tmp_path / "index")
    assert list(again.rows()) == [
        ROWS[0],
        Row("b#0", "b.jpg", (1.5, 2.0, 30.0, 40.0), "dog", pytest.approx(0.9), ("dry",)),
        Row("b#1", "b.jpg", (0.0, 0.0, 5.0, 90.0), "cat", pytest.approx(0.3), ("dry", "day")),
        *ROWS[3:],
    ]
    assert again.get(["bytes-\udcff", "nobody"]) == [ROWS[4], None]
    assert [hit.id for hit in again.search(vectors(5)[3], 1)[0]] == [ROWS[3].id]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (Filter(tags=("day",)), {"a", "b#1"}),
        (Filter(tags=("day", "dry")), {"b#1"}),
        (Filter(without=("dry",)), {"a", "naïve \U0001f415.jpg", "bytes-\udcff"}),
        (Filter(names=("dog", "cow")), {"b#0"}),
        (Filter(level="box"), {"b#0", "b#1"}),
        (Filter(level="image", tags=("a'b",)), {"naïve \U0001f415.jpg"}),
        (Filter(least_score=0.5), {"b#0"}),
        (Filter(least_side=20), {"b#0"}),
        (Filter(tags=("nowhere",)), set()),
        (Filter(), {row.id for row in ROWS}),
    ],
)
def test_a_filter_leaves_what_fits(tmp_path: Path, where: Filter, ids: set[str]) -> None:
    index = create(tmp_path / "index", 16)
    index.add(vectors(5), ROWS)
    index.add(vectors(1, seed=9), ["later"])
    index.delete(["later"])
    assert {hit.id for hit in index.search(vectors(1), 10, where)[0]} == ids


def test_additions_deletions_and_replacements_add_up(tmp_path: Path) -> None:
    """A dictionary beside the index must know the same after every step, here and in a fresh handle."""
    index, known = ExactIndex.create(tmp_path / "index", exact.Layout(16)), dict[str, Tensor]()
    rng = np.random.default_rng(0)
    for step in range(60):
        some = [f"{n}" for n in rng.choice(80, size=int(rng.integers(1, 9)), replace=False)]
        if step % 3 == 2:
            assert index.delete(some) == len([each for each in some if each in known])
            known = {name: v for name, v in known.items() if name not in some}
        else:
            fresh = vectors(len(some), seed=step)
            index.add(fresh, some, replace=True)
            known |= dict(zip(some, fresh, strict=True))
        if step == 40:
            index.compact()
        assert len(index) == len(known)
    for each in (index, open_index(tmp_path / "index")):
        assert {row.id for row in each.rows()} == set(known)
        for name, vector in known.items():
            assert each.search(vector, 1)[0][0].id == name
    assert len(index.files) < 8
    on_disk = {p.name for p in (tmp_path / "index").iterdir()}
    assert on_disk == {"index.json", "lock", *index._now.catalog.files}
    index.compact()
    assert index.compact() == 0


def test_many_small_additions_leave_few_files(tmp_path: Path) -> None:
    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    for k in range(100):
        index.add(vectors(1, seed=k))
    assert len(index) == 100
    assert len(index.files) <= 8
    assert [row.id for row in index.rows()] == [str(k) for k in range(100)]


def test_a_large_addition_stands_in_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MOST", 1000)
    monkeypatch.setattr(exact, "_MERGED", 100)
    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    stored = vectors(3500)
    index.add(stored)
    index.delete([str(k) for k in range(0, 3500, 7)])
    assert [each.rows for each in index._now.catalog.segments] == [1000, 1000, 1000, 500]
    kept = [k for k in range(3500) if k % 7]
    expected = truth(stored[kept], vectors(4, seed=1), 9, "cosine")[1]
    ids = [[hit.id for hit in hits] for hits in index.search(vectors(4, seed=1), 9)]
    assert ids == [[str(kept[k]) for k in some] for some in expected.tolist()]
    saved = index.compact()
    assert saved > 0
    assert [[hit.id for hit in hits] for hits in index.search(vectors(4, seed=1), 9)] == ids


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda i: i.add(vectors(2)), "vectors do not say which model made them"),
        (lambda i: i.add(vectors(2), space=OTHER), "vectors are of another model (space bbbbbbbbbbbb..., the index"),
        (lambda i: i.search(vectors(2), space=OTHER), "queries are of another model"),
        (lambda i: i.add(vectors(2, 8), space=SPACE), "vectors must be (n, 16) for this index, got shape (2, 8)"),
        (lambda i: i.search(vectors(2, 17)), "queries must be (n, 16)"),
        (lambda i: i.search(torch.tensor([float("nan")] * 16)), "queries hold values that are no numbers (row 0)"),
        (lambda i: i.add(vectors(3).index_fill(0, torch.tensor([2]), float("inf")), space=SPACE), "(row 2)"),
        (lambda i: i.add(torch.ones(2, 16, dtype=torch.int8), space=SPACE), "must be floats or float32"),
        (lambda i: i.add([[1.0] * 16], space=SPACE), "must be a tensor or array (n, 16), got list"),
        (lambda i: i.add(vectors(2), ["x"], space=SPACE), "2 vectors came with 1 rows"),
        (lambda i: i.add(vectors(2), ["x", "x"], space=SPACE), "id 'x' stands twice"),
        (lambda i: i.add(vectors(1), [""], space=SPACE), "an id must be a text that is not empty"),
        (lambda i: i.add(vectors(1), ["0"], space=SPACE), "id '0' is in the index already; give replace=True"),
        (lambda i: i.search(vectors(1), 0), "k must be 1 or more"),
        (lambda i: Filter(level="boxes"), "unknown level 'boxes'"),
        (lambda i: create(i.folder, 16), "is not empty"),
        (lambda i: create("x", 16, metric="cos"), "unknown metric 'cos'; known: cosine, ip (did you mean 'cosine'?)"),
        (lambda i: create("x", 12, precision="binary"), "a multiple of 8"),
        (lambda i: create("x", 0), "a width of 1 or more"),
        (lambda i: create("x", 8, backend="faiss"), "unknown backend 'faiss'"),
        (lambda i: create("s3://bucket/x", 8, backend="exact"), "is an address"),
        (lambda i: open_index(i.folder / "nowhere"), "no index at"),
        (lambda i: open_index(i.folder.parent), "holds no index.json"),
    ],
)
def test_what_does_not_fit_is_one_line_and_changes_nothing(tmp_path: Path, call: Any, said: str) -> None:
    index = create(tmp_path / "index", 16, space=SPACE)
    index.add(vectors(4), space=SPACE)
    before = {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()}
    with pytest.raises((DataError, ConfigError)) as caught:
        call(index)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()} == before
    assert len(index) == 4


@pytest.mark.parametrize("name", ["index.json", "segment", "deleted"])
def test_no_damage_goes_unnoticed(tmp_path: Path, name: str) -> None:
    index = create(tmp_path / "index", 16)
    index.add(vectors(20), [Row(str(k), tags=("t",)) for k in range(20)])
    index.delete(["3"])
    file = next(p for p in (tmp_path / "index").iterdir() if p.name.startswith(name))
    good, rng = file.read_bytes(), np.random.default_rng(0)
    harms = [good[: len(good) // 2], b"", good + b"x", b"\0" * len(good)]
    for _ in range(40):
        at = int(rng.integers(len(good)))
        harms.append(good[:at] + bytes([good[at] ^ (1 << int(rng.integers(8)))]) + good[at + 1 :])
    for harm in harms:
        file.write_bytes(harm)
        with pytest.raises(DataError, match=r"is damaged|has format") as caught:
            open_index(tmp_path / "index")
        assert len(str(caught.value).splitlines()) == 1
    file.unlink()
    with pytest.raises(DataError, match=r"is missing|no index"):
        open_index(tmp_path / "index")
    file.write_bytes(good)
    assert len(open_index(tmp_path / "index")) == 19


def test_the_sums_are_what_sees_a_flipped_bit(tmp_path: Path) -> None:
    """The control: without them a vector's bit may be another one, and nobody is told."""
    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    index.add(vectors(20))
    file = tmp_path / "index" / next(iter(index.files))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert len(open_index(tmp_path / "index", verify=False)) == 20
    with pytest.raises(DataError, match="does not match its SHA-256"):
        open_index(tmp_path / "index")


def test_forged_columns_are_refused(tmp_path: Path) -> None:
    """Sums that fit do not make codes that lead nowhere good."""
    from dataclasses import replace

    from safetensors.torch import load_file, save_file

    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    index.add(vectors(3), ROWS[:3])
    catalog = index._now.catalog
    sealed = catalog.segments[0]
    file = tmp_path / "index" / sealed.name
    good = load_file(file)
    for column, value in (("path", 99), ("name", -2), ("tags", 7), ("ids.ends", 1 << 40), ("tag_ends", -1)):
        tensors = {**good, column: torch.full_like(good[column], value)}
        save_file(tensors, file)
        forged = replace(sealed, bytes=file.stat().st_size, sha256=sha256_of(file))
        catalog.after(segments=(forged,)).write(tmp_path / "index")
        with pytest.raises(DataError, match="is damaged"):
            open_index(tmp_path / "index")


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    index.add(vectors(5))
    before = {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()}

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(segment, "write_new", full)
        with pytest.raises(DataError, match=r"No space left.*bytes free.*the index is as it was"):
            index.add(vectors(5), ["a", "b", "c", "d", "e"])
    assert {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()} == before
    index.add(vectors(5), ["a", "b", "c", "d", "e"])
    assert len(open_index(tmp_path / "index")) == 10


def test_writers_wait_for_one_another_and_readers_for_none(tmp_path: Path) -> None:
    create(tmp_path / "index", 16)
    faults: list[str] = []

    def write(who: int) -> None:
        index = open_index(tmp_path / "index")
        for k in range(12):
            index.add(vectors(2, seed=k), [f"{who}-{k}-{j}" for j in range(2)])

    def read() -> None:
        last = 0
        for _ in range(60):
            try:
                count = len(open_index(tmp_path / "index"))
            except DataError as error:
                faults.append(str(error))
                return
            if count < last or count % 2:
                faults.append(f"{count} rows after {last}")
            last = count

    threads = [threading.Thread(target=write, args=(k,)) for k in range(3)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(open_index(tmp_path / "index")) == 72


def test_a_search_is_not_disturbed_by_what_comes_later(tmp_path: Path) -> None:
    index = ExactIndex.create(tmp_path / "index", exact.Layout(16))
    index.add(vectors(50))
    reader = ExactIndex(tmp_path / "index")
    before = reader.search(vectors(2, seed=1), 5)
    index.delete([str(k) for k in range(50)])
    index.compact()
    assert torch.equal(reader.search(vectors(2, seed=1), 5).positions, before.positions)
    reader.refresh()
    assert len(reader) == 0
    assert [len(hits) for hits in reader.search(vectors(2), 5)] == [0, 0]


def test_the_door_leads_to_the_index() -> None:
    code = "import unified, sys; assert 'torch' not in sys.modules; print(unified.index.open.__module__)"
    root = Path(unified.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "unified.index"
