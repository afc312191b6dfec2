# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from unified.contracts.errors import ConfigError, DataError
from unified.index import Row, create, duplicates, sheet
from unified.index import clusters as clustering
from unified.index.clusters import clusters
from unified.index.duplicates import duplicates as groups_of
from unified.index.tile import Section, Tile


def picture(path: Path, seed: int, quality: int = 92, side: int = 160) -> Path:
    """Discs on a ground: coarse structure that compression keeps."""
    rng = np.random.default_rng(seed)
    drawn = Image.new("RGB", (160, 160), tuple(int(v) for v in rng.integers(0, 255, 3)))
    pen = ImageDraw.Draw(drawn)
    for _ in range(25):
        x, y, r = (int(v) for v in rng.integers((0, 0, 6), (160, 160, 40)))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    drawn.resize((side, side)).save(path, quality=quality)
    return path


def test_pairs_are_those_of_the_whole_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.randn(300, 8)
    stored[200:240] = stored[:40] + 0.05 * torch.randn(40, 8)
    index = create(tmp_path / "index", 8)
    index.add(stored)
    monkeypatch.setattr(duplicates, "_STEP", 64)
    done: list[int] = []
    found = groups_of(index, 0.97, confirm=False, say=done.append)
    assert sum(done) == 300
    unit = F.normalize(stored.double(), dim=1)
    near = (unit @ unit.T >= 0.97).numpy()
    known = {frozenset((str(a), str(b))) for a, b in zip(*np.nonzero(np.triu(near, 1)), strict=True)}
    together = {frozenset((a.id, b.id)) for g in found for a in g.rows for b in g.rows if a.id != b.id}
    assert known
    assert known <= together
    assert all(frozenset((str(k), str(200 + k))) in together for k in range(40))
    assert len({row.id for g in found for row in g.rows}) == sum(len(g.rows) for g in found)
    assert [len(g.rows) for g in found] == sorted((len(g.rows) for g in found), reverse=True)
    assert all(0.97 <= g.least <= 1.0001 for g in found)


def test_a_chain_is_one_group(tmp_path: Path) -> None:
    turns = torch.arange(5) * 0.3
    index = create(tmp_path / "index", 8)
    index.add(F.pad(torch.stack([turns.cos(), turns.sin()], dim=1), (0, 6)))
    found = groups_of(index, 0.95, confirm=False)
    assert [{row.id for row in group.rows} for group in found] == [{"0", "1", "2", "3", "4"}]
    assert found[0].least == pytest.approx(float(torch.tensor(0.3).cos()), abs=1e-5)
    index.delete(["2"])
    assert [len(group.rows) for group in groups_of(index, 0.95, confirm=False)] == [2, 2]


def test_fine_structure_tells_copies_from_pictures_of_one_kind(tmp_path: Path) -> None:
    """Three vectors that are all but equal: two of one picture, one of another. The control confirms nothing."""
    files = [
        picture(tmp_path / "a.jpg", 1),
        picture(tmp_path / "a small.jpg", 1, quality=40, side=90),
        picture(tmp_path / "b.jpg", 2),
    ]
    index = create(tmp_path / "index", 8)
    index.add(torch.ones(3, 8), [Row(path.name, str(path)) for path in files])
    assert [{row.id for row in g.rows} for g in groups_of(index, 0.9)] == [{"a.jpg", "a small.jpg"}]
    assert [len(g.rows) for g in groups_of(index, 0.9, confirm=False)] == [3]
    (tmp_path / "b.jpg").unlink()  # who cannot be seen is judged by its vector
    assert [len(g.rows) for g in groups_of(index, 0.9)] == [3]


def test_too_many_pairs_and_no_cosine_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = create(tmp_path / "index", 8)
    assert groups_of(index, 0.9) == []
    index.add(torch.ones(30, 8))
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 100)
    with pytest.raises(DataError, match=r"more than 100 pairs reach 0.9; raise --threshold"):
        groups_of(index, 0.9, confirm=False)
    with pytest.raises(ConfigError, match=r"threshold must lie in -1..1, got 1.5"):
        groups_of(index, 1.5)


def gathered(tmp_path: Path, loose: int = 0) -> tuple[object, list[int]]:
    """An index of 30, 20 and 10 rows round three centres, and some anywhere; and where each belongs."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.eye(16)[:3]
    truth = [0] * 30 + [1] * 20 + [2] * 10
    points = centres[truth] + 0.05 * torch.randn(60, 16, generator=generator)
    index = create(tmp_path / "index", 16)
    index.add(torch.cat([points, torch.randn(loose, 16, generator=generator)]))
    return index, truth


@pytest.mark.parametrize("count", [None, 3])
def test_clusters_are_found_with_and_without_their_number(tmp_path: Path, count: int | None) -> None:
    index, truth = gathered(tmp_path)
    found = clusters(index, count)  # type: ignore[arg-type]
    assert found.labels.tolist() == truth  # the largest is the first
    assert [len(each.rows) for each in found.clusters] == [30, 20, 10]
    assert all(each.closeness > 0.95 for each in found.clusters)
    assert found.loose == ()


def test_rows_that_lie_anywhere_are_loose(tmp_path: Path) -> None:
    index, truth = gathered(tmp_path, loose=12)
    found = clusters(index)  # type: ignore[arg-type]
    assert found.labels[:60].tolist() == truth
    assert found.loose  # what is left may also gather by chance
    assert {int(row.id) for row in found.loose} == {k for k in range(60, 72) if found.labels[k] < 0}
    assert clusters(index, 5).loose == ()  # type: ignore[arg-type]


def test_clusters_that_cannot_be_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = gathered(tmp_path)
    with pytest.raises(ConfigError, match="61 clusters do not fit 60 rows"):
        clusters(index, 61)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 rows or more"):
        clusters(index, least=1)  # type: ignore[arg-type]
    monkeypatch.setattr(clustering, "MOST_BY_DENSITY", 50)
    with pytest.raises(DataError, match="give one with --count"):
        clusters(index)  # type: ignore[arg-type]
    assert clusters(create(tmp_path / "empty", 16)).clusters == ()


def test_a_sheet_shows_pictures_boxes_and_what_is_missing(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), (200, 30, 30)).save(tmp_path / "red.png")
    path = str(tmp_path / "red.png")
    tiles = [
        Tile(path, "red.png", "query", asked=True),
        Tile(path, "a box", box=(80, 40, 120, 60)),
        Tile(str(tmp_path / "gone.png"), "x" * 90),
    ]
    drawn = sheet.draw_sheet([Section("one", "three tiles", tiles)] * 30, across=2)
    one = sheet._HEAD + sheet.SIDE + sheet._CAPTION + sheet._GAP
    assert drawn.height == sheet._GAP + 20 * one  # never narrower than three tiles; no more than 20 sections
    assert drawn.getpixel((sheet._GAP + sheet.SIDE // 2, 44 + sheet.SIDE // 2)) == (200, 30, 30)
    with pytest.raises(DataError, match=r"--sheet .*unknown suffix"):
        sheet.save_sheet([], tmp_path / "sheet.gif")
