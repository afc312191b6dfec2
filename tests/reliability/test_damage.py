# SPDX-License-Identifier: Apache-2.0
"""Checkpoints damaged in every way a disk, a copy or a careless hand can: none is taken for what it was."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load
from specimen import PARTS, same, specimen
from tally import Tally

from unified.contracts.errors import CheckpointError
from unified.shelf import Shelf

NEWEST, OLDER, OLDEST = 30, 20, 10
FILES = (*(f"{part}.safetensors" for part in PARTS), "state.json", "manifest.json")
Dice = random.Random
Damage = Callable[[Path, Dice], object]  # done to the folder of checkpoints


def newest(place: Path) -> Path:
    return place / f"step-{NEWEST:08d}"


def older(place: Path) -> Path:
    return place / f"step-{OLDER:08d}"


def one_of(place: Path, dice: Dice) -> Path:
    """A file of the newest checkpoint, or now and then a pointer."""
    return place / dice.choice(("last", "best")) if dice.random() < 0.1 else newest(place) / dice.choice(FILES)


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def bit(place: Path, dice: Dice) -> None:
    def change(data: bytearray) -> None:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)

    rewrite(one_of(place, dice), change)


def a_byte(place: Path, dice: Dice) -> None:
    def change(data: bytearray) -> None:
        k = dice.randrange(len(data))
        data[k] = (data[k] + dice.randrange(1, 256)) % 256

    rewrite(one_of(place, dice), change)


def many_bits(place: Path, dice: Dice) -> None:
    def change(data: bytearray) -> None:
        for k in dice.sample(range(len(data)), min(len(data), dice.randrange(2, 20))):
            data[k] ^= 1 << dice.randrange(8)

    rewrite(one_of(place, dice), change)


def cut_short(place: Path, dice: Dice) -> None:
    path = one_of(place, dice)
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def longer(place: Path, dice: Dice) -> None:
    path = one_of(place, dice)
    path.write_bytes(path.read_bytes() + dice.randbytes(dice.randrange(1, 600)))


def zeroed(place: Path, dice: Dice) -> None:
    """A block that never reached the disk."""
    block = dice.choice((64, 512, 4096))

    def change(data: bytearray) -> None:
        start = dice.randrange(len(data)) // block * block
        data[start : start + block] = bytes(len(data[start : start + block]))

    rewrite(one_of(place, dice), change)


def moved_block(place: Path, dice: Dice) -> None:
    def change(data: bytearray) -> None:
        size = min(len(data) // 2, dice.choice((16, 512)))
        a, b = dice.randrange(len(data) - size), dice.randrange(len(data) - size)
        data[a : a + size] = data[b : b + size]

    rewrite(newest(place) / dice.choice(FILES), change)


def missing(place: Path, dice: Dice) -> None:
    one_of(place, dice).unlink()


def a_folder(place: Path, dice: Dice) -> None:
    path = one_of(place, dice)
    path.unlink()
    path.mkdir()


def other_file(place: Path, dice: Dice) -> None:
    """Two files of the checkpoint in each other's place."""
    one, other = dice.sample(FILES, 2)
    a, b = (newest(place) / name for name in (one, other))
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


def older_file(place: Path, dice: Dice) -> None:
    """A file of the checkpoint before, as an incomplete copy leaves it."""
    name = dice.choice(FILES)
    shutil.copy(older(place) / name, newest(place) / name)


def older_folder(place: Path, dice: Dice) -> None:
    """The whole checkpoint before, under the newest one's name."""
    shutil.rmtree(newest(place))
    shutil.copytree(older(place), newest(place))


def edited_state(place: Path, dice: Dice) -> None:
    """Good JSON that says something else."""
    path = newest(place) / "state.json"
    state = json.loads(path.read_text())
    dice.choice(
        [lambda: state.update(step=31), lambda: state["progress"].update(best=99.0), lambda: state.pop("words")]
    )()
    path.write_text(json.dumps(state, indent=1))


def edited_sum(place: Path, dice: Dice) -> None:
    """A file changed and its sum in the manifest with it, but not the manifest's own."""
    import hashlib

    name = dice.choice(FILES[:-1])
    bit_at = dice.randrange(newest(place).joinpath(name).stat().st_size)
    rewrite(newest(place) / name, lambda data: data.__setitem__(bit_at, data[bit_at] ^ 1))
    path = newest(place) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256((newest(place) / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def edited_manifest(place: Path, dice: Dice) -> None:
    path = newest(place) / "manifest.json"
    manifest = json.loads(path.read_text())
    name = dice.choice(FILES[:-1])
    changes: list[Callable[[], object]] = [
        lambda: manifest["files"].pop(name),
        lambda: manifest["files"].update({"more.safetensors": manifest["files"][name]}),
        lambda: manifest["files"][name].update(bytes=manifest["files"][name]["bytes"] + 1),
        lambda: manifest.update(format=dice.choice((0, 1, 3, "2", None, 2.5))),
        lambda: manifest.update(name=f"step-{OLDER:08d}"),
        lambda: manifest.pop("sha256"),
        lambda: manifest.update(sha256="0" * 64),
        lambda: manifest.update(more=1),
    ]
    dice.choice(changes)()
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def edited_pointer(place: Path, dice: Dice) -> None:
    """A pointer to somewhere else: to another step, out of the folder, to nothing."""
    pointer = dice.choice(("last", "best"))
    content = json.loads((place / pointer).read_text())
    names = (f"step-{OLDER:08d}", f"step-{OLDEST:08d}", "step-00000099", "../../run", "/etc", "", "step-1", "best")
    content[pointer] = dice.choice(names)
    (place / pointer).write_text(json.dumps(content) + "\n")


def swapped_pointers(place: Path, dice: Dice) -> None:
    last, best = (place / "last").read_bytes(), (place / "best").read_bytes()
    (place / "last").write_bytes(best)
    (place / "best").write_bytes(last)


DAMAGES: tuple[Damage, ...] = (bit, a_byte, many_bits, cut_short, longer, zeroed, moved_block, missing, a_folder)
DAMAGES += (other_file, older_file, older_folder, edited_state, edited_sum, edited_manifest, edited_pointer)
DAMAGES += (swapped_pointers,)


class Bench:
    """A folder with three checkpoints, the best the middle one, that is whole again after each damage."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for step in (OLDEST, OLDER, NEWEST):
            Shelf(place).save(step, specimen(step), best=step == OLDER, keep_last=3)
        self.kept = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}

    def whole(self) -> bool:
        found = {path: path.read_bytes() for path in sorted(self.place.rglob("*")) if path.is_file()}
        return found == self.kept

    def mend(self) -> None:
        for path, data in self.kept.items():
            if path.is_dir():
                path.rmdir()
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)


def judged(bench: Bench) -> tuple[str, str]:
    """What became of a damaged folder: ``fell back`` or ``harmless`` for ``last``, and what is wrong, if anything."""
    lines: list[str] = []
    try:
        last = Shelf(bench.place).load("last", say=lines.append)
    except CheckpointError as error:
        return "refused", f"nothing loads though two are whole: {error}"
    step = int(last.checkpoint.state["step"])
    if not same(last.checkpoint, step) or last.folder.name != f"step-{step:08d}":
        return "taken", f"damage was taken for {last.folder.name}"
    if len(lines) > 1 or any(len(line.splitlines()) != 1 for line in lines):
        return "said", f"said {lines}"
    if step == NEWEST:
        return ("harmless" if not lines else "by name"), ""
    told = len(lines) == 1 and lines[0].endswith(f"going on from {last.folder.name}")
    return "fell back", "" if told and step == OLDER else f"step {step}, said {lines}"


def best_is_good(bench: Bench) -> str:
    lines: list[str] = []
    try:
        best = Shelf(bench.place).load("best", parts=("ema",), say=lines.append)
    except CheckpointError as error:
        return f"best: {error}"
    step = int(best.checkpoint.state["step"])
    good = same(best.checkpoint, step, parts=("ema",)) and (step == OLDER or len(lines) == 1)
    return "" if good else f"best: step {step}, said {lines}"


def test_no_damage_goes_unnoticed(tally: Tally, memory: Path) -> None:
    tally.begin("damaged checkpoints", f"{len(DAMAGES)} kinds of damage to every file, the manifest and the pointers")
    bench, dice = Bench(memory / "checkpoints"), random.Random(1)
    met: dict[str, int] = {}
    for trial in range(tally.count(6000, share=170)):
        damage = DAMAGES[trial % len(DAMAGES)]
        damage(bench.place, dice)
        unchanged = bench.whole()  # a block of zeros over zeros, say
        how, wrong = judged(bench)
        wrong = wrong or best_is_good(bench)
        if not unchanged:
            met[how] = met.get(how, 0) + 1
        tally.add(not wrong, f"{damage.__name__}, trial {trial}: {wrong}")
        if damage in (bit, a_byte, many_bits, zeroed) and not unchanged:
            tally.control(1, blind(newest(bench.place)), "a loader without sums")
        bench.mend()
    said = {"fell back": "fell back to the checkpoint before", "by name": "a pointer, found out and done without"}
    said["harmless"] = "to what that load does not read"
    tally.note("; ".join(f"{met[how]} {text}" for how, text in said.items() if how in met))
    tally.verdict()


def blind(folder: Path) -> bool:
    """The control: whether a loader that only parses takes the damaged folder for a good one."""
    try:
        json.loads((folder / "state.json").read_text())
        for part in PARTS:
            load((folder / f"{part}.safetensors").read_bytes())
    except Exception:
        return False
    return True


def test_all_of_them_damaged_is_one_line(memory: Path) -> None:
    bench = Bench(memory / "run" / "checkpoints")
    for folder in Shelf(bench.place).steps():
        (folder / "model.safetensors").write_bytes(b"")
    try:
        Shelf(bench.place).load("last")
    except CheckpointError as error:
        assert "has no checkpoint that is whole" in str(error) and "(and 2 more)" in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError("an empty file was taken for a model")


def test_a_run_goes_on_before_a_damaged_checkpoint_and_clears_it_away(memory: Path) -> None:
    bench = Bench(memory / "checkpoints")
    (newest(bench.place) / "model.safetensors").write_bytes(b"")
    shelf, lines = Shelf(bench.place), list[str]()
    assert shelf.load("last", say=lines.append).folder == older(bench.place)
    assert lines == [
        f"checkpoint '{newest(bench.place)}' is damaged: model.safetensors does not match its SHA-256; "
        f"going on from step-{OLDER:08d}"
    ]
    shelf.save(25, specimen(25), best=False, keep_last=2)
    assert [path.name for path in shelf.steps()] == ["step-00000025", "step-00000020"]
    assert same(shelf.load("last", say=lines.append).checkpoint, 25) and len(lines) == 1
