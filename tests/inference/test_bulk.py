# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from spare import noise, spare_model

import unified
from unified.cli import embed as command
from unified.contracts.errors import CheckpointError, UnifiedError
from unified.inference import bulk
from unified.inference.bulk import Job, embed
from unified.inference.model import UnifiedModel
from unified.inference.worklist import open_worklist

FORMATS = ("parquet", "safetensors", "lance")
NEEDS = {"parquet": "pyarrow", "lance": "lancedb"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and eleven pictures, one of them no picture."""
    folder = tmp_path_factory.mktemp("bulk")
    spare_model().save_pretrained(folder / "model")
    for k in range(10):
        path = folder / "photos" / ("deep" if k % 2 else "") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed=k)).save(path)
    (folder / "photos" / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A finished job. Tests compare with it, or go on with a copy."""
    embed(job(place, place / "whole"))
    return place / "whole"


@pytest.fixture
def model(place: Path) -> UnifiedModel:
    return UnifiedModel.from_pretrained(place / "model", device="cpu", precision="fp32")


def job(place: Path, out: Path, **words: Any) -> Job:
    given: dict[str, Any] = {"form": "safetensors", "shard_size": 4, "device": "cpu", "workers": 2, **words}
    sources = given.pop("sources", (str(place / "photos"),))
    return Job(str(place / "model"), tuple(map(str, sources)), str(out), **given)


def sums(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a job in order, whatever their format."""
    return list(_rows(folder))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for receipt in sorted(folder.glob("shard-*.json")):
        stem = folder / receipt.stem
        if stem.with_suffix(".parquet").exists():
            import pyarrow.parquet as pq

            yield from pq.read_table(stem.with_suffix(".parquet")).to_pylist()
        elif stem.with_suffix(".lance").exists():
            import lancedb

            yield from lancedb.connect(folder).open_table(stem.name).to_arrow().to_pylist()
        else:
            vectors = load_file(stem.with_suffix(".safetensors"))["embedding"].tolist()
            lines = map(json.loads, stem.with_suffix(".jsonl").read_text().splitlines())
            yield from ({**line, "embedding": v} for line, v in zip(lines, vectors, strict=True))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_what_the_model_says(place: Path, tmp_path: Path, model: UnifiedModel, form: str) -> None:
    pytest.importorskip(NEEDS.get(form, "json"), reason=f"needs {NEEDS.get(form)}")
    done = embed(job(place, tmp_path / "out", form=form))
    assert (done.pictures, done.rows, done.failed, done.shards, done.made) == (11, 10, 1, 3, 3)
    assert done.space == model.space
    found = rows(tmp_path / "out")
    names = sorted(str(p.relative_to(place / "photos")) for p in (place / "photos").rglob("?.png"))
    assert [row["id"] for row in found] == names
    assert (found[0]["width"], found[0]["height"]) == (80, 48)
    expected = model.encode([str(place / "photos" / name) for name in names])
    assert torch.allclose(torch.tensor([row["embedding"] for row in found]), expected, atol=1e-5)
    failed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in failed] == ["text.png"]


def test_a_row_for_every_box(place: Path, tmp_path: Path, model: UnifiedModel) -> None:
    embed(job(place, tmp_path / "out", level="box", confidence=0.0))
    found = rows(tmp_path / "out")
    for name in ("0.png", "deep/3.png"):
        own = [row for row in found if row["id"] == name]
        said = model.predict(place / "photos" / name, confidence=0.0)
        assert [row["box"] for row in own] == list(range(len(said.boxes)))
        assert [row["name"] for row in own] == said.boxes.names
        corners = torch.tensor([[row[k] for k in ("x0", "y0", "x1", "y1")] for row in own]).reshape(-1, 4)
        assert torch.allclose(corners, said.boxes.xyxy, atol=1e-2)
    assert any(found)


def test_twice_is_once(place: Path, whole: Path, tmp_path: Path) -> None:
    first = embed(job(place, tmp_path / "out"))
    assert sums(tmp_path / "out") == sums(whole)
    before = sums(tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
    again = embed(job(place, tmp_path / "out"))
    assert (first.made, again.made, again.rows, again.failed) == (3, 0, 10, 1)
    assert sums(tmp_path / "out") == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")} == times


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_what_is_left_is_made_and_the_whole_is_the_same(place: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip(NEEDS.get(form, "json"), reason=f"needs {NEEDS.get(form)}")
    whole = job(place, tmp_path / "whole", form=form)
    embed(whole)
    for k, harm in enumerate(("receipt", "payload", "half")):
        out = shutil.copytree(tmp_path / "whole", tmp_path / harm)
        payload = next(p for p in out.glob("shard-00001.*") if p.suffix != ".json")
        if harm == "receipt":
            (out / "shard-00001.json").unlink()
        elif harm == "payload":
            payload.unlink()
        else:
            payload.write_bytes(payload.read_bytes()[:-5])
        done = embed(replace(whole, out=str(out)))
        assert done.made == 1, (k, harm)
        assert sums(out) == sums(tmp_path / "whole")


def test_a_killed_job_goes_on(place: Path, tmp_path: Path) -> None:
    whole = job(place, tmp_path / "whole", shard_size=1, batch=1)
    embed(whole)
    words = [str(place / "model"), str(place / "photos"), "--out", str(tmp_path / "cut"), "--shard", "1"]
    words += ["--batch", "1", "--format", "safetensors", "--device", "cpu", "--workers", "2"]
    code = "from unified.cli.embed import main; main()"
    root = Path(unified.__file__).resolve().parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    child = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list((tmp_path / "cut").glob("shard-*.json")) and time.monotonic() < limit and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = len(list((tmp_path / "cut").glob("shard-*.json")))
    assert there >= 1
    done = embed(replace(whole, out=str(tmp_path / "cut")))
    assert done.made <= 11 - there + 1
    for stale in (tmp_path / "cut").glob(".new-*"):
        stale.unlink()
    assert sums(tmp_path / "cut") == sums(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"precision": "binary"}, "precision float32, now binary"),
        ({"shard_size": 5}, "shard_size 4, now 5"),
        ({"level": "box"}, "level image, now box"),
        ({"truncate_dim": 8}, "truncate_dim None, now 8"),
        ({"size": 96}, "embedding space"),
        ({"fuse": True}, "fuse None, now True"),
        ({"sources": ["photos/0.png"]}, "pictures 11, now 1"),
    ],
)
def test_a_folder_takes_shards_of_one_job_only(
    place: Path, whole: Path, tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    if "sources" in words:
        words = {"sources": [place / name for name in words["sources"]]}
    with pytest.raises(UnifiedError) as caught:
        embed(job(place, tmp_path / "out", **words))
    assert "holds shards of another job" in str(caught.value)
    assert said in str(caught.value)


def test_what_only_the_first_call_asked_for_is_another_job_too(place: Path, tmp_path: Path) -> None:
    embed(job(place, tmp_path / "out", tags=0.5))
    with pytest.raises(UnifiedError, match="shards of another job"):
        embed(job(place, tmp_path / "out"))


def test_a_fused_model_makes_the_same_vectors_to_rounding(place: Path, whole: Path, tmp_path: Path) -> None:
    done = embed(job(place, tmp_path / "quick", fuse=True))
    assert done.space == json.loads((whole / "embedding.json").read_text())["space"]
    for name in ("shard-00000.safetensors", "shard-00001.safetensors"):
        a, b = (load_file(folder / name)["embedding"] for folder in (whole, tmp_path / "quick"))
        assert torch.allclose(a, b, atol=1e-5, rtol=0)


def test_a_folder_with_other_things_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear")
    with pytest.raises(UnifiedError, match="is not empty and holds no shards"):
        embed(job(place, tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["diary.txt"]


def test_small_vectors(place: Path, tmp_path: Path, model: UnifiedModel) -> None:
    names = sorted((place / "photos").rglob("?.png"), key=lambda p: str(p.relative_to(place / "photos")))
    embed(job(place, tmp_path / "bits", precision="binary", truncate_dim=8))
    bits = load_file(tmp_path / "bits" / "shard-00000.safetensors")["embedding"]
    assert torch.equal(bits[:3], model.encode(names[:3], precision="binary", truncate_dim=8))
    done = embed(job(place, tmp_path / "bytes", precision="int8"), calibration=6)
    assert done.rows == 10
    kept = json.loads((tmp_path / "bytes" / "embedding.json").read_text())["ranges"]
    assert torch.allclose(torch.tensor(kept), model.calibrate(model.encode(names[:6])), atol=1e-6)
    assert embed(job(place, tmp_path / "bytes", precision="int8"), calibration=6).made == 0


def test_lists_and_tables_name_pictures_too(place: Path, tmp_path: Path) -> None:
    names = ["0.png", "deep/1.png", "gone.png"]
    listed = place / "photos" / "list.txt"
    listed.write_text("\n".join(names) + "\n\n")
    done = embed(job(place, tmp_path / "list", sources=[listed]))
    listed.unlink()
    assert (done.rows, done.failed) == (2, 1)
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra 'parquet')")
    import pyarrow as pa

    data = [(place / "photos" / name).read_bytes() for name in names[:2]]
    pq.write_table(pa.table({"path": names}), place / "photos" / "paths.parquet")
    pq.write_table(pa.table({"image": data * 3}), tmp_path / "bytes.parquet", row_group_size=2)
    structs = [{"bytes": d, "path": n} for d, n in zip(data, names, strict=False)]
    pq.write_table(pa.table({"image": structs}), tmp_path / "structs.parquet")
    by_list = rows(tmp_path / "list")
    for k, source in enumerate((place / "photos" / "paths.parquet", tmp_path / "structs.parquet")):
        embed(job(place, tmp_path / f"out{k}", sources=[source]))
        assert rows(tmp_path / f"out{k}") == by_list
    done = embed(job(place, tmp_path / "blobs", sources=[tmp_path / "bytes.parquet"]))
    found = rows(tmp_path / "blobs")
    assert [row["id"] for row in found] == [f"bytes.parquet#{k}" for k in range(6)]
    twice = [torch.tensor([row["embedding"] for row in some]) for some in (found[:2], found[4:])]
    assert torch.allclose(*twice, atol=1e-5)
    (place / "photos" / "paths.parquet").unlink()


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["nothing"], "picture 'nothing' is missing"),
        (["https://host/a.txt"], "is a URL"),
        (["broken.parquet"], "table broken.parquet cannot be read"),
        (["plain.parquet"], "has no column 'image'; known: words; give --column"),
        (["photos", "plain.parquet"], "cannot be mixed"),
        (["empty.txt"], "the list is empty"),
        (["urls.txt"], "is a URL"),
        (["clip.mp4"], "is a video"),
    ],
)
def test_what_cannot_be_embedded_is_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], said: str
) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra 'parquet')")
    import pyarrow as pa

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(place / "photos")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" * 20)
    pq.write_table(pa.table({"words": ["a"]}), "plain.parquet")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "urls.txt").write_text("http://host/a.jpg\n")
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(UnifiedError) as caught:
        embed(job(place, tmp_path / "out", sources=sources))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_of_one_name_in_two_folders_stay_apart(place: Path, tmp_path: Path) -> None:
    both = open_worklist([str(place / "photos"), str(place / "photos" / "deep")])
    assert len({entry.name for entry in both.entries(0, len(both))}) == len(both) == 11 + 5
    (tmp_path / "0.png").write_bytes((place / "photos" / "0.png").read_bytes())
    same = open_worklist([str(place / "photos"), str(tmp_path)])
    assert len({entry.name for entry in same.entries(0, len(same))}) == len(same) == 12


# --- Ray -------------------------------------------------------------------------------------------------------------


def test_the_callable_is_what_map_batches_takes(place: Path, whole: Path, tmp_path: Path) -> None:
    worker = bulk.ShardEmbedder(bulk.asdict(job(place, tmp_path / "one")))
    told = worker({"shard": np.array([2, 0])})
    assert {k: v.tolist() for k, v in told.items()} == {"shard": [2, 0], "rows": [2, 4], "failed": [1, 0]}
    for name in ("shard-00000.safetensors", "shard-00002.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (whole / name).read_bytes()


def test_ray_gets_the_same_callable(place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the calls of Ray Data, for machines without it; the real one is used below where it is there."""
    asked: dict[str, Any] = {}

    class Dataset:
        def __init__(self, items: list[dict[str, Any]]) -> None:
            self.items = items

        def map_batches(self, fn: type, *, fn_constructor_kwargs: dict[str, Any], **words: Any) -> Dataset:
            asked.update(words)
            worker = fn(**json.loads(json.dumps(fn_constructor_kwargs)))
            batches = [worker({"shard": np.array([item["shard"]])}) for item in self.items]
            return Dataset([{k: v[0] for k, v in batch.items()} for batch in batches])

        def iter_rows(self) -> Iterator[dict[str, Any]]:
            return iter(self.items)

    ray = types.ModuleType("ray")
    ray.data = types.SimpleNamespace(from_items=Dataset)  # type: ignore[attr-defined]
    ray.is_initialized = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)  # type: ignore[attr-defined]
    seen: list[int] = []
    done = embed(job(place, tmp_path / "ray"), engine="ray", actors=3, say=seen.append)
    assert (done.rows, done.failed, done.made, sum(seen)) == (10, 1, 3, 11)
    assert (asked["batch_size"], asked["concurrency"]) == (1, 3)
    assert sums(tmp_path / "ray") == sums(whole)
    again: list[int] = []
    asked.clear()
    assert embed(job(place, tmp_path / "ray"), engine="ray", say=again.append).made == 0
    assert sum(again) == 11 and not asked  # nothing is left to do, and no actor is asked for


class Wrapped(Exception):  # noqa: N818
    """As Ray wraps what a worker met."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a page of a trace")
        self.cause = cause


def test_what_a_worker_of_ray_met_is_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise Wrapped(Wrapped(CheckpointError("the disk is full")))

    ray = types.ModuleType("ray")
    ray.data = types.SimpleNamespace(from_items=broken)  # type: ignore[attr-defined]
    ray.is_initialized = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"^the disk is full$"):
        embed(job(place, tmp_path / "ray"), engine="ray")


def test_ray_itself(place: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray (extra 'ray')")
    embed(job(place, tmp_path / "ray"), engine="ray", actors=2)
    assert sums(tmp_path / "ray") == sums(whole)
    assert embed(job(place, tmp_path / "ray"), engine="ray", actors=2).made == 0


def test_without_ray_it_is_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(UnifiedError, match=r"needs Ray, which is not installed: pip install 'unified-networks\[ray\]'"):
        embed(job(place, tmp_path / "out"), engine="ray")


# --- the command -----------------------------------------------------------------------------------------------------


def code_of(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_the_command_tells_what_became_of_it(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [place / "model", place / "photos", "--out", tmp_path / "out", "--format", "safetensors", "--device", "cpu"]
    assert code_of(*words, "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["rows"] == 10
    assert told.err == f"error: 1 pictures cannot be read; see {tmp_path / 'out' / 'failed.jsonl'}\n"
    good = [place / "model", place / "photos" / "deep", "--out", tmp_path / "good", "--device", "cpu"]
    assert code_of(*good, "--format", "safetensors") == 0
    assert "5 vectors of 5 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--level", "boxes"], "--level: unknown word 'boxes'; known: box, image (did you mean 'box'?)"),
        (["--precision", "int4"], "--precision: unknown word 'int4'"),
        (["--engine", "spark"], "--engine: unknown word 'spark'"),
        (["--format", "csv"], "unknown format 'csv'; known: auto, lance, parquet, safetensors"),
        (["--size", "70"], "size 70"),
        (["--truncate", "99"], "truncate_dim 99 does not fit vectors of width 16"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_the_command_refuses_a_wrong_word(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code = code_of(place / "model", place / "photos", "--out", tmp_path / "out", "--device", "cpu", *words)
    told = capsys.readouterr()
    assert code == 2
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_format_without_its_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.inference import shards

    monkeypatch.setattr(shards, "_is_there", lambda module: False)
    assert shards.pick_format("auto") == "safetensors"
    with pytest.raises(UnifiedError, match=r"--format parquet needs pyarrow.*unified-networks\[parquet\]"):
        shards.pick_format("parquet")
    with pytest.raises(UnifiedError, match=r"--format lance needs LanceDB.*unified-networks\[index\]"):
        shards.pick_format("lance")


def test_a_job_takes_the_format_that_is_there(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ShardEmbedder(Job(...))`` works without pyarrow; a format that was asked for is said to be missing."""
    from unified.inference import shards

    monkeypatch.setattr(shards, "_is_there", lambda module: False)
    plain = Job(str(place / "model"), (str(place / "photos"),), str(tmp_path / "out"), shard_size=4, device="cpu")
    assert bulk.ShardEmbedder(plain).make(0).rows == 4
    assert (tmp_path / "out" / "shard-00000.safetensors").is_file()
    with pytest.raises(UnifiedError, match=r"needs pyarrow.*unified-networks\[parquet\]"):
        bulk.ShardEmbedder(replace(plain, form="parquet"))


def test_rows_tell_tags_where_they_are_asked_for(place: Path, tmp_path: Path, model: UnifiedModel) -> None:
    embed(job(place, tmp_path / "out", tags=0.0, confidence=0.0))
    found = rows(tmp_path / "out")
    assert found[0]["tags"] == sorted({*model.predict(place / "photos" / "0.png").tags, *found[0]["tags"]})
    assert set(found[0]["tags"]) >= {"indoor", "night", "rain", "snow"}
    embed(job(place, tmp_path / "few", tags=1.0, confidence=1.0))
    assert rows(tmp_path / "few")[0]["tags"] == []
    with pytest.raises(UnifiedError, match="holds shards of another job: tags"):
        embed(job(place, tmp_path / "few", tags=0.5, confidence=1.0))
