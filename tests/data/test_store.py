# SPDX-License-Identifier: Apache-2.0
"""The index on disk: equal to what was read, found again, made anew when damaged, and never beside the data."""

import dataclasses
import hashlib
import json
import os
import pickle
import random
import resource
import time
from pathlib import Path
from typing import Any

import menagerie
import numpy as np
import pytest

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.data.formats import coco, store
from unified.data.formats.coco import CocoDataset
from unified.data.formats.table import Table


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "SMALL", 0)
    store._tabulated.cache_clear()
    return tmp_path / "cache" / "tables"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = tmp_path / "zoo"
    root.mkdir()
    menagerie.coco(root)
    age(root)
    return root


def age(root: Path) -> None:
    """Files that were not changed just now."""
    for path in root.rglob("*.json"):
        os.utime(path, ns=(10**18, 10**18))


def opened(root: Path, **more: Any) -> CocoDataset:
    """As a new process would open it."""
    store._tabulated.cache_clear()
    said = {"path": str(root), "train": {"images": "images", "annotations": "train.json"}, **more}
    return CocoDataset("zoo", DatasetConfig.model_validate(said), "train", Path())


def kept(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir() and path.name != "known")


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if dataclasses.is_dataclass(first):
        names = [f.name for f in dataclasses.fields(first) if f.name not in ("folder", "warnings")]
        return all(equal(getattr(first, name), getattr(second, name)) for name in names)
    return bool(first == second)


def digest(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_what_is_kept_is_what_was_read(zoo: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"tags": {"fields": ["weather"]}, "identity": {"image": "place"}}
    before = digest(zoo)
    with monkeypatch.context() as patch:
        patch.setattr(store, "SMALL", 1 << 30)
        read = opened(zoo, **fields).table
    assert not home.exists()
    first, again = opened(zoo, **fields).table, opened(zoo, **fields).table
    assert equal(read, first) and equal(read, again) and again.folder == first.folder and first.folder is not None
    assert len(kept(home)) == 1 and digest(zoo) == before
    assert isinstance(again.boxes_xyxy, np.memmap) or again.boxes_xyxy.nbytes < 256
    assert {p.suffix for p in kept(home)[0].iterdir()} == {".npy", ".json"}
    assert len(kept(home)) == 1 and opened(zoo).table.fields == ()
    assert len(kept(home)) == 2  # other fields, another table


def test_an_unchanged_file_is_not_even_read(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(zoo)
    monkeypatch.setattr(coco, "load_table", lambda *a, **k: pytest.fail("the file was read again"))
    monkeypatch.setattr(store.hashlib, "file_digest", lambda *a: pytest.fail("the file was hashed again"))
    assert len(opened(zoo)) == 4


def test_a_moved_dataset_is_known_by_its_content(zoo: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(zoo)
    zoo.rename(zoo.with_name("ark"))
    age(zoo.with_name("ark"))
    monkeypatch.setattr(coco, "load_table", lambda *a, **k: pytest.fail("the file was read again"))
    assert len(opened(zoo.with_name("ark"))) == 4 and len(kept(home)) == 1


def test_a_changed_file_is_seen_although_its_size_and_time_are_the_same(zoo: Path) -> None:
    opened(zoo)
    file = zoo / "train.json"
    file.write_text(file.read_text().replace('"dog"', '"cow"'))
    age(zoo)
    assert opened(zoo).vocabulary.boxes == ("cat", "cow", "owl")


def test_every_damaged_file_is_found_and_made_anew(zoo: Path, home: Path) -> None:
    whole = opened(zoo, tags={"fields": ["weather"]}).table
    rng = random.Random(0)
    names = sorted(path.name for path in kept(home)[0].iterdir())
    assert len(names) > 15
    for name in names:
        for harm in ("flip", "cut", "gone"):
            path = kept(home)[0] / name
            data = bytearray(path.read_bytes())
            if harm == "flip":
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.unlink()
            if harm != "gone":
                path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
            source = opened(zoo, tags={"fields": ["weather"]})
            assert equal(source.table, whole), (name, harm)
            told = [text for text in source.warnings if "was damaged and is made anew" in text]
            assert len(told) == 1 and "\n" not in told[0], (name, harm)
            assert not [t for t in opened(zoo, tags={"fields": ["weather"]}).warnings if "damaged" in t]


def test_objects_in_an_array_are_never_unpickled(zoo: Path, home: Path, tmp_path: Path) -> None:
    opened(zoo)

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    np.save(kept(home)[0] / "labels.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    assert opened(zoo).table.labels.dtype == np.int32 and not (tmp_path / "harmed").exists()


def test_a_cache_that_cannot_be_written_is_a_remark(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "file"))
    source = opened(zoo)
    assert len(source) == 4 and any("the index cannot be kept" in text for text in source.warnings)
    monkeypatch.setenv("UNIFIED_CACHE", "here")
    with pytest.raises(DataError, match="UNIFIED_CACHE must be an absolute path, got 'here'"):
        opened(zoo)


def test_a_source_travels_by_the_name_of_its_index(zoo: Path, home: Path) -> None:
    source = opened(zoo)
    sent = pickle.dumps(source.table)
    assert len(sent) < 500 and equal(pickle.loads(sent), source.table)
    assert pickle.loads(pickle.dumps(source)).read(3).annotations.box_labels.tolist() == [1, 1]


def test_old_tables_and_drafts_are_swept(zoo: Path, home: Path) -> None:
    opened(zoo)
    old, draft, mine = home / "f" / "x", home / ".draft-x" / "x", home / ".draft-y" / "x"
    for path, days in ((old, 100), (draft, 2), (mine, 0)):
        path.parent.mkdir()
        path.write_text("")
        os.utime(path.parent, (time.time() - 86400 * days,) * 2)
    opened(zoo, identity={"image": "place"})
    assert not old.exists() and not draft.exists() and mine.exists() and len(kept(home)) == 3


def write_large(path: Path, images: int, boxes: int) -> None:
    """A file as COCO's own training file is: polygons, and ids with gaps."""
    rng = random.Random(0)
    polygon = [[round(rng.random() * 600, 2) for _ in range(40)]]
    with path.open("w") as file:
        file.write('{"info": {}, "images": [')
        for k in range(images):
            record = {"license": 1, "file_name": f"{k:012d}.jpg", "height": 480, "width": 640, "id": 3 * k + 9}
            file.write(("," if k else "") + json.dumps(record))
        file.write('], "annotations": [')
        for k in range(boxes):
            box = [rng.random() * 500, rng.random() * 400, rng.random() * 100 + 1, rng.random() * 70 + 1]
            record = {"segmentation": polygon, "area": 9.5, "iscrowd": 0, "image_id": 3 * rng.randrange(images) + 9}
            record |= {"bbox": [round(x, 2) for x in box], "category_id": rng.randint(1, 90), "id": k + 1}
            file.write(("," if k else "") + json.dumps(record))
        categories = [{"id": k, "name": f"class {k}"} for k in range(1, 91)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


def measured(root: Path) -> tuple[float, float, Table]:
    """Seconds by the clock and of this process, which alone counts where others use the machine too."""
    clock, own = time.perf_counter(), time.process_time()
    table = opened(root).table
    return time.perf_counter() - clock, time.process_time() - own, table


@pytest.mark.slow
def test_a_million_boxes_are_indexed_in_a_minute_and_opened_in_two_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "large"
    menagerie.draw(root / "images", tuple(menagerie.Picture(f"{k:012d}", 640, 480) for k in range(8)), ".jpg")
    write_large(root / "train.json", 120_000, 1_000_000)
    age(root)
    took, busy, table = measured(root)
    again, reopened, same = measured(root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = (root / "train.json").stat().st_size / 1e6
    with capsys.disabled():
        print(
            f"\n{size:.0f} MB, 1,000,000 boxes: {took:.1f} s ({busy:.1f} s of CPU), "
            f"peak {peak:.2f} GB, reopened in {again:.2f} s"
        )
    assert len(table.boxes_xyxy) == len(same.boxes_xyxy) == 1_000_000 and len(same) == 120_000
    assert busy <= 60 and peak <= 4 and reopened <= 2
