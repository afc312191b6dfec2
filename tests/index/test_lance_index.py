# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError
from unified.index import ExactIndex, Filter, Row, create
from unified.index import open as open_index

SPACE = "a" * 64


@pytest.fixture
def lance() -> None:
    pytest.importorskip("lancedb", reason="needs LanceDB (extra 'index')")


def vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 16, generator=generator) * torch.rand(count, 1, generator=generator).add(0.2)


def rows(count: int) -> list[Row]:
    def row(k: int) -> Row:
        box = (0.0, 1.0, k + 1.0, 9.5) if k % 3 else None
        name, score = ("it's", 0.5) if k % 3 == 1 else (None, None)
        return Row(f"id '{k}", f"{k}.jpg", box, name, score, ("a'b",) if k % 2 else ("b", "c"), (k + 1, 5), (k, 7))

    return [row(k) for k in range(count)]


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_it_answers_as_the_exact_index_does(lance: None, tmp_path: Path, metric: Any) -> None:
    both = [create(tmp_path / name, 16, SPACE, metric, backend=name) for name in ("exact", "lance")]  # type: ignore[arg-type]
    for index in both:
        assert index.add(vectors(60), rows(60), space=SPACE) == 60
        index.add(vectors(2, seed=3), ["new", "id '7"], space=SPACE, replace=True)
        assert index.delete(["id '5", "nobody"]) == 1
    exact, other = both[0], open_index(tmp_path / "lance")
    filters = [
        None,
        Filter(tags=("a'b",)),
        Filter(tags=("b", "c"), without=("a'b",)),
        Filter(names=("it's", "x")),
        Filter(level="image"),
        Filter(level="box", least_score=0.4),
        Filter(least_side=5),
        Filter(tags=("nowhere",)),
    ]
    for where in filters:
        one, two = (index.search(vectors(4, seed=9), 6, where) for index in (exact, other))
        assert [[hit.row for hit in hits] for hits in one] == [[hit.row for hit in hits] for hits in two], where
        assert torch.allclose(one.scores, two.scores, atol=1e-5)
        assert torch.equal(one.positions < 0, two.positions < 0)
    assert {row.id for row in exact.rows()} == {row.id for row in other.rows()}
    assert other.get(["id '8", "nobody"]) == [rows(60)[8], None]
    hit = other.search(vectors(1), 1)[0][0]
    assert other.row(hit.position) == hit.row
    stored, positions = other.vectors()
    assert (stored.shape, len(positions)) == ((60, 16), 60)
    distances, _ = other.kneighbors(vectors(3), 2)
    assert np.allclose(distances, exact.kneighbors(vectors(3), 2)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["ivf_pq", "ivf_flat", "ivf_hnsw_sq"])
def test_a_trained_index_finds_nearly_all(lance: None, tmp_path: Path, kind: Any) -> None:
    from unified.index.lance import Effort, LanceIndex

    create(tmp_path / "index.lancedb", 16).add(vectors(2000))
    index = open_index(tmp_path / "index.lancedb")
    assert isinstance(index, LanceIndex)
    truth = index.search(vectors(20, seed=1), 10, exact=True)
    words = {"num_sub_vectors": 4} if kind == "ivf_pq" else {}
    index.train(kind, num_partitions=8, **words)
    assert torch.equal(index.search(vectors(20, seed=1), 10, exact=True).positions, truth.positions)

    def recall(effort: Effort) -> float:
        index.effort = effort
        found = index.search(vectors(20, seed=1), 10)
        pairs = zip(found.positions.tolist(), truth.positions.tolist(), strict=True)
        return sum(len(set(a) & set(b)) for a, b in pairs) / 200

    assert recall(Effort(probes=8, refine=20)) >= 0.95
    assert recall(Effort(probes=1, refine=None)) < 0.9  # the control: who looks into one partition misses some
    assert recall(Effort()) >= 0.98  # by default all eight, since there are no more


def test_more_rows_are_looked_for_in_more_partitions() -> None:
    from unified.index.lance import Effort

    assert [Effort().of(rows) for rows in (0, 57_600, 1_000_000, 4_000_000)] == [20, 20, 83, 167]
    assert Effort(probes=5).of(1_000_000) == 5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: create(p / "index", 16, backend="lance"), "no index can be made at"),
        (lambda p: create(p / "bits", 16, precision="binary", backend="lance"), "float32 or float16 here, not binary"),
        (lambda p: open_index(p / "none.lancedb"), "the folder is not there"),
        (lambda p: open_index(p / "index").add(vectors(1)), "vectors do not say which model made them"),
        (lambda p: open_index(p / "index").add(vectors(1), space="b" * 64), "are of another model"),
        (lambda p: open_index(p / "index").add(vectors(1), ["0"], space=SPACE), "id '0' is in the index already"),
        (lambda p: open_index(p / "index").search(torch.full((16,), float("nan"))), "are no numbers"),
        (lambda p: open_index(p / "index").search(torch.ones(8)), "must be (n, 16)"),
        (lambda p: open_index(p / "index").train("ivf"), "unknown kind of index 'ivf'; known: ivf_flat, ivf_hnsw_sq"),
        (lambda p: open_index(p / "index").train("ivf_pq", num_sub_vectors=5), "LanceDB cannot build ivf_pq"),
    ],
)
def test_what_does_not_fit_is_one_line(lance: None, tmp_path: Path, call: Any, said: str) -> None:
    create(tmp_path / "index", 16, SPACE, backend="lance").add(vectors(300), space=SPACE)
    with pytest.raises((DataError, ConfigError)) as caught:
        call(tmp_path)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "none.lancedb").exists()


def test_without_lancedb_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ConfigError, match=r"needs LanceDB, .*pip install 'unified-networks\[index\]'"):
        create(tmp_path / "index", 16, backend="lance")
    assert isinstance(create(tmp_path / "index", 16), ExactIndex)


def test_a_folder_of_pictures_in_lancedb(lance: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distinct import distinct_model, noise
    from PIL import Image

    from unified.index.folder import Order, index_folder

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for k in range(4):
        Image.fromarray(noise(seed=k)).save(f"photos/{k}.png")
    distinct_model().save_pretrained("model")
    order = Order("model", ("photos",), "index.lancedb", tags=0.0, device="cpu", shard_size=3)
    assert (index_folder(order).rows, index_folder(order).looked_at) == (4, 0)
    Path("photos/1.png").unlink()
    again = Order("model", ("photos",), "index.lancedb", tags=0.0, device="cpu", prune=True)
    assert (index_folder(again).removed, len(open_index("index.lancedb"))) == (1, 3)
    with pytest.raises(ConfigError, match="is no folder: give --state FOLDER"):
        index_folder(Order("model", ("photos",), "s3://bucket/pictures", device="cpu"))
