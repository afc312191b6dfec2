# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at any moment of a save: the last good checkpoint stays, one line says why, nothing is left."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load, save
from specimen import same, specimen
from tally import Tally

from unified.cli.train import main as train
from unified.contracts.errors import CheckpointError
from unified.disk import NEW
from unified.training.folder import RunFolder

NUMBERS = 1 << 14  # in each of three parts: 200 kB a checkpoint
NEWEST = "a folder a step, of which the newest is taken"
OVER = "one file written over its older self"
WHOLE = 3 * 4 * NUMBERS + 60_000  # bytes, more than a checkpoint takes


@contextlib.contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A file system in memory at ``place``, which only root may make."""
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, left: int) -> None:
    """Takes all room of a disk but ``left`` bytes."""
    with contextlib.suppress(OSError), (place / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    size = (place / "ballast").stat().st_size
    with (place / "ballast").open("r+b") as file:
        file.truncate(max(0, size - left))


@contextlib.contextmanager
def with_room(place: Path, left: int) -> Iterator[None]:
    fill(place, left)
    try:
        yield
    finally:
        (place / "ballast").unlink()


@contextlib.contextmanager
def with_longest_file(place: Path, longest: int) -> Iterator[None]:
    """No file may be longer; the signal that would end the process is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def with_names(place: Path, names: int) -> Iterator[None]:
    """Room for so many further files and folders."""
    crowd = place / "crowd"
    crowd.mkdir()
    number = 0
    with contextlib.suppress(OSError):
        while True:
            (crowd / str(number)).touch()
            number += 1
    for last in range(number - names, number):
        (crowd / str(last)).unlink()
    try:
        yield
    finally:
        for each in crowd.iterdir():
            each.unlink()
        crowd.rmdir()


def wrong_with(place: Path, short: Callable[[], AbstractContextManager[None]]) -> tuple[str, bool]:
    """Saves step 1 with room and step 2 without: what is wrong, and whether step 2 was saved all the same."""
    lines: list[str] = []
    folder, saved = RunFolder(place / "run", say=lines.append), True
    folder.save(1, specimen(1, NUMBERS), best=True)
    folder.log({"step": 1})
    with short():
        try:
            folder.save(2, specimen(2, NUMBERS), best=False)
        except CheckpointError as error:
            saved, text = False, str(error)
            if len(text.splitlines()) != 1 or str(folder.path) not in text or "bytes free" not in text:
                return f"said: {text}", saved
        for step in range(2, 9):
            folder.log({"step": step, "more": "x" * 900})
        folder.write_metrics({f"det/{k}": k / 7 for k in range(400)})
        if [line for line in lines if "left out" not in line] or len(lines) > 2:
            return f"said {lines}", saved
        if not same(folder.load("last"), 2 if saved else 1, NUMBERS):
            return "the last good checkpoint is gone", saved
        left = [each.name for each in folder.checkpoints.iterdir() if each.name.startswith(NEW)]
        if left and not saved:
            return f"{left[0]} was left behind", saved
    folder.save(3, specimen(3, NUMBERS), best=False)
    folder.trim_log(99)  # which is whole, line by line
    return "" if same(folder.load("last"), 3, NUMBERS) else "no save succeeds any more", saved


def plainly(place: Path, short: Callable[[], AbstractContextManager[None]]) -> bool:
    """The control: whether the file written over its older self can still be read."""
    path = place / "last.safetensors"
    path.write_bytes(save(dict(specimen(1, 3 * NUMBERS).tensors["ema"])))
    data = save(dict(specimen(2, 3 * NUMBERS).tensors["ema"]))
    with short(), contextlib.suppress(OSError):
        path.write_bytes(data)
    try:
        return bool((load(path.read_bytes())["weight"] >= 1).all())
    except Exception:
        return False


def newest_of(place: Path, short: Callable[[], AbstractContextManager[None]]) -> bool:
    """Another control: whether the newest folder of those that hold a file each can be read."""
    for step, around in ((1, contextlib.nullcontext), (2, short)):
        with around(), contextlib.suppress(OSError):
            (place / f"plain-{step}").mkdir()
            (place / f"plain-{step}" / "model.safetensors").write_bytes(
                save(dict(specimen(step, 3 * NUMBERS).tensors["ema"]))
            )
    newest = max(place.glob("plain-*"))
    try:
        return bool((load((newest / "model.safetensors").read_bytes())["weight"] >= 1).all())
    except Exception:
        return False


SHORTAGES: dict[str, tuple[Any, str, int]] = {
    "bytes": (with_room, "size=4m", WHOLE),
    "the longest file": (with_longest_file, "", 4 * NUMBERS + 4096),
    "names": (with_names, "size=4m,nr_inodes=60", 14),
}


@pytest.mark.parametrize("of", SHORTAGES)
def test_a_save_without_room(tally: Tally, tmp_path: Path, of: str) -> None:
    tally.begin(f"disk full: {of} short", "the last good one loads, nothing is left behind, one line with free bytes")
    short, options, most = SHORTAGES[of]
    count, failed = tally.count(50, share=4), 0
    lefts = [round(number * most / (count - 1)) for number in range(count)]
    for number, left in enumerate(sorted({*lefts, 1})):  # 1: the folder's name fits and its files' do not
        place = tmp_path / f"disk{number}"
        with small_disk(place, options) if options else contextlib.nullcontext():
            place.mkdir(exist_ok=True)
            wrong, saved = wrong_with(place, lambda place=place, left=left: short(place, left))
            failed += not saved
            tally.add(not wrong, f"{left} {of} left: {wrong}")
            blind, what = (plainly, OVER) if of == "the longest file" else (newest_of, NEWEST)
            tally.control(1, not blind(place, lambda place=place, left=left: short(place, left)), what)
    tally.note(f"{failed} of the saves failed for want of room, the others had enough")
    assert 0 < failed < tally.trials
    tally.verdict()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "last"])
def test_each_file_on_a_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder, open_ = RunFolder(tmp_path), os.open
    folder.save(1, specimen(1), best=True)
    full = [0]

    def opened(path: Any, flags: int, *given: Any, **named: Any) -> int:
        if name in Path(str(path)).name and flags & os.O_CREAT:
            full[0] += 1
            return open_("/dev/full", os.O_WRONLY)
        return open_(path, flags, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(CheckpointError, match=r"No space left on device \(\d+ bytes free\); step-00000001 is"):
            folder.save(2, specimen(2), best=False)
    assert full[0] == 1
    assert same(folder.load("last"), 1)
    assert not [each for each in folder.checkpoints.iterdir() if each.name.startswith(NEW)]


def training(place: Path) -> list[str]:
    """Words of a run of two steps that saves at each."""
    words = ["--model", tiny.write_model(place), "--data", tiny.write_data(place), "--no-lint", "--quiet"]
    words += ["--recipe", tiny.write_recipe(place), "--tasks", "det", "--workers", "0", "--max-steps", "2"]
    return [*words, "--set", "save_every=1", "--set", "keep_last=1", "--set", "evaluate_every=1"]


def test_a_whole_training_on_a_disk_that_fills_up(
    tally: Tally, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tally.begin("a training on a disk that fills up", "it goes to its end or ends in one line; what was saved loads")
    monkeypatch.chdir(tmp_path)
    tiny.cache_at(tmp_path)
    words, ended = training(tmp_path), {0: 0, 2: 0}
    log_to_a_full_device(tally, words, tmp_path, monkeypatch)
    capsys.readouterr()
    sizes = (16, 64, 128, 160, 224, 288, 400, 560, 800, 1200, 1600, 2400, 3600, 5000, 8000, 20000)  # kB
    for kilobytes in sizes[:: 1 if tally.full else len(sizes) - 1]:
        place = tmp_path / f"disk{kilobytes}"
        with small_disk(place, f"size={kilobytes}k"):
            code = call(train, *words, "--out", str(place / "run"))
            err = capsys.readouterr().err
            good = code in (0, 2) and "Traceback" not in err and "internal error" not in err
            good &= code == 0 or "bytes free" in err.splitlines()[-1] or "cannot be written" in err.splitlines()[-1]
            run = RunFolder(place / "run", say=lambda line: None)
            if run.pointed("last"):
                run.load("last")
            ended[code] = ended.get(code, 0) + 1
            tally.add(good, f"{kilobytes} kB: exit {code}, {err[-300:]}")
    tally.note(f"{ended[0]} of {len(sizes)} disks were large enough" if tally.full else f"{ended[2]} in one line")
    tally.verdict()


def log_to_a_full_device(tally: Tally, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose log has no room goes on; the control, which writes it as any file, does not."""
    make = RunFolder.check_free

    def check_free(path: Path) -> None:
        make(path)
        path.mkdir()
        (path / "log.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "check_free", staticmethod(check_free))
        tally.add(call(train, *words, "--out", str(place / "guarded")) == 0, "a full log ended the run")
        patch.setattr(RunFolder, "_record", lambda folder, write: write())
        code = call(train, *words, "--out", str(place / "plain"))
        tally.control(1, code != 0, "a log without room, written as any file")


def call(main: Callable[[list[str]], None], *words: str) -> Any:
    try:
        main(list(words))
    except SystemExit as end:
        return end.code
    return 0
