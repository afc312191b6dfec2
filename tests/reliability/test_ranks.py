# SPDX-License-Identifier: Apache-2.0
"""Two ranks on CPUs: the network of one process with the same batches, and runs that survive a rank's death."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sitting import ends_with, sit, small_config
from tally import Tally

from unified.contracts.document import dump_run_config, read_run_config
from unified.data.loader import TrainLoader
from unified.training.folder import RunFolder
from unified.training.trainer import Trainer

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
# at a rate where rounding is not made visible by which points an object is assigned to
SAME = ("optimizer=sgd", "warmup=0", "lr=0.0002", "model.norm.kind=group", "max_steps=20", "save_every=4")

RANK = """
import os, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
import unified
from pathlib import Path
from sitting import bare
from unified.contracts.document import read_run_config
from unified.training import run
from unified.training.ranks import Ranks, restarts
from unified.data.loader import TrainLoader
place, dies, outs = Path(sys.argv[1]), int(sys.argv[2]), [Path(word) for word in sys.argv[3:]]
os.environ["UNIFIED_CACHE"] = str(place / "unified-cache")
def own(self, terms):
    return {{(t, n): x.count.detach().float() * self.count for t, i in terms.items() for n, x in i.items()}}
order, counts = TrainLoader._order, Ranks.counts
def told(self, turn, nth, augment, step):
    found = order(self, turn, nth, augment, step)
    with open(f"{{out}}-order-{{os.environ['RANK']}}", "a") as file:
        file.write(f"{{step}} {{found.items}}\\n")
    return found
TrainLoader._order = told
def die(trainer, step):
    if step == dies and restarts() == 0 and os.environ["RANK"] == "1":
        Path(f"{{out}}-died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
for out in outs:
    Ranks.counts = own if out.name == "blind" else counts
    with bare(meddle=die):
        run.train(read_run_config(place / "config.yaml"), place, out=out)
"""


def ranks(place: Path, *outs: Path, dies: int = 0, restarts: int = 0) -> str:
    """Runs two ranks under torchrun, one training after the other; what they said, if they failed."""
    (place / "rank.py").write_text(RANK.format(root=str(ROOT), here=str(HERE)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), str(place / "rank.py"), str(place), str(dies), *map(str, outs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=place)
    return "" if done.returncode == 0 else done.stderr[-2000:]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(RunFolder.open(out).load("last").tensors["model"])


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nobody disturbs, and ``blind`` beside it, whose ranks know of their own items only."""
    place = tmp_path_factory.mktemp("ranks")
    config, _ = small_config(place, *SAME)
    (place / "config.yaml").write_text(dump_run_config(config))
    fault = ranks(place, place / "two", place / "blind")
    assert not fault, fault
    return place / "two"


def test_two_ranks_are_one_process(tally: Tally, two: Path, tmp_path: Path) -> None:
    tally.begin("two ranks against one process", "20 steps, fp32, group norms: weights within 1e-6")
    config, base = read_run_config(two.parent / "config.yaml"), two.parent
    alone: list[tuple[int, tuple[tuple[int, int], ...]]] = []
    begun: dict[str, torch.Tensor] = {}

    def watch(trainer: Trainer, step: int) -> None:
        begun.update({n: t.clone() for n, t in trainer.model.state_dict().items()} if step == 1 else {})

    with pytest.MonkeyPatch.context() as patch:
        order = TrainLoader._order

        def told(loader: TrainLoader, turn: object, nth: int, augment: object, step: int) -> object:
            found = order(loader, turn, nth, augment, step)  # type: ignore[arg-type]
            alone.append((step, found.items))
            return found

        patch.setattr(TrainLoader, "_order", told)
        sit(config, base, tmp_path / "one", meddle=watch)
    one = weights(tmp_path / "one")
    apart, moved = farthest(one, weights(two)), farthest(one, begun)
    tally.add(apart <= 1e-6 < moved, f"weights differ by {apart:.2g}, and moved by {moved:.2g}")
    tally.note(f"farthest {apart:.1g} apart; weights moved by up to {moved:.1g}")
    rows = [Path(f"{two}-order-{k}").read_text().splitlines() for k in (0, 1)]
    halves = [(f"{step} {items[:2]}", f"{step} {items[2:]}") for step, items in alone]
    tally.add([*zip(*rows, strict=True)] == halves, "the images of the steps are others, or in another order")
    blind = farthest(one, weights(two.with_name("blind")))
    tally.control(1, int(blind > 1e-6), "normalised by each rank's own items")
    tally.verdict()


def test_a_lost_rank(tally: Tally, two: Path) -> None:
    tally.begin("one of two ranks killed", "torchrun --max-restarts=1 goes on; every tensor of the end, to the bit")
    place, digest, rng = two.parent, ends_with(two), random.Random(2)
    for trial in range(tally.count(10, share=1)):
        out, step = place / f"lost-{tally.full}-{trial}", rng.randint(2, 19)
        fault = ranks(place, out, dies=step, restarts=1)
        good = not fault and Path(f"{out}-died").is_file() and ends_with(out) == digest
        tally.add(good, f"trial {trial}, killed at step {step}: {fault or 'the end differs'}")
    if tally.full:
        fault = ranks(place, place / "given-up", dies=2)
        tally.control(1, int(bool(fault)), "without restarts")
    else:
        tally.control(1, int(ends_with(two.with_name("blind")) != digest), "ranks that normalise by their own items")
    tally.verdict()
