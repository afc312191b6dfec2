# SPDX-License-Identifier: Apache-2.0
"""Balancers: by hand, on a toy whose optimum is known, with one task, under accumulation, bf16 and two ranks."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from balance_toy import Points, Toy, Track, batches
from torch import Tensor, nn

from unified.contracts.config import DataConfig, ModelConfig, PartConfig, RunConfig, TaskConfig, TrainConfig
from unified.contracts.errors import ConfigError, UnifiedError
from unified.contracts.protocols import GradientBalancer, ObservingBalancer, Remembering
from unified.contracts.structures import LossTerm
from unified.training.balance import FixedWeights
from unified.training.balancers.gradients import CAGrad, NashMTL, PCGrad, UPGrad, bargained
from unified.training.balancers.losses import DynamicWeightAverage, Famo, UncertaintyWeights
from unified.training.run import make_balancer

ROOT = Path(__file__).resolve().parent.parent.parent
LOSSES = ("fixed", "uncertainty", "dwa", "famo")
GRADIENTS = ("upgrad", "pcgrad", "cagrad", "nash_mtl", "mgda", "imtl_g", "aligned_mtl")
ABSENT = importlib.util.find_spec("torchjd") is None
needs_torchjd = pytest.mark.skipif(ABSENT, reason="TorchJD is not installed (extra: balance)")
ALL = [*LOSSES, *(pytest.param(name, marks=needs_torchjd) for name in GRADIENTS)]
CHOOSERS = [pytest.param(name, marks=needs_torchjd) for name in GRADIENTS]


def configured(name: str, tasks: tuple[str, ...] = ("a", "b", "c"), train: Any = None, **options: Any) -> RunConfig:
    given: dict[str, Any] = {} if train is None else {"train": train}
    return RunConfig(
        model=ModelConfig(),
        tasks={task: TaskConfig(task="cls") for task in tasks},
        data=DataConfig(datasets={}),
        balance=PartConfig(name=name, options=options),
        **given,
    )


def balancer(name: str, tasks: tuple[str, ...] = ("a", "b", "c"), **options: Any) -> Any:
    return make_balancer(configured(name, tasks, **options))


@pytest.mark.parametrize("name", ALL)
def test_with_one_task_it_is_plain_training_bit_for_bit(name: str) -> None:
    plain, other = Track(FixedWeights({}), Toy(("a",))), Track(balancer(name, ("a",)), Toy(("a",)))
    for parts in batches(("a",)):
        served = [Points(part.x, ("a",)) for part in parts]
        plain.step(*served)
        other.step(*served)
    assert torch.equal(plain.weights(), other.weights())


@pytest.mark.parametrize("name", CHOOSERS)
def test_steps_that_serve_one_task_are_plain_ones_in_a_run_of_several(name: str) -> None:
    plain, other = Track(FixedWeights({}), Toy()), Track(balancer(name), Toy())
    for step, (part, *_) in enumerate(batches()):
        served = Points(part.x, (("a", "b", "c")[step % 3],))
        for track in (plain, other):
            track.gradients(served, served)
            for p in track.toy.parameters_of("abc"[(step + 1) % 3]):
                assert p.grad is None
            track.optimizer.step()
            track.optimizer.zero_grad()
    assert torch.equal(plain.weights(), other.weights())


class Valley(nn.Module):
    """Two numbers that both tasks share; they want the same point, along different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([4.0, -3.0]))
        self.tasks = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity()})
        self.network = SimpleNamespace(tasks=tuple(self.tasks))

    def forward(self, batch: Points) -> dict[str, dict[str, LossTerm]]:
        x, y = self.x
        losses = {"a": 3 * (x - 1).square() + 0.5 * (y - 2).square(), "b": (y - 2).square() + (x - y + 1).square()}
        return {task: {"hill": LossTerm(losses[task], torch.tensor(1.0))} for task in batch.tasks}

    def parameters_of(self, task: str) -> list[nn.Parameter]:
        return []

    own_parameters = parameters_of

    def shared_parameters(self) -> list[nn.Parameter]:
        return [self.x]


@pytest.mark.parametrize("name", ALL)
def test_the_known_optimum_of_two_tasks_is_reached(name: str) -> None:
    """Both losses are zero at (1, 2), and only there."""
    options = {"scale": "rmse"} if name == "aligned_mtl" else {}  # min shortens every gradient to the weakest part
    track = Track(balancer(name, ("a", "b"), **options), Valley(), momentum=0.0)
    for step in range(150):
        for group in track.optimizer.param_groups:
            group["lr"] = 0.12 * 0.975**step
        track.step(Points(torch.zeros(1, 4), ("a", "b")))
    assert track.weights().tolist() == pytest.approx([1.0, 2.0], abs=0.02)


def test_learned_uncertainty_settles_where_every_task_pulls_like_a_loss_of_one() -> None:
    weights = UncertaintyWeights({"a": 1.0, "b": 1.0}, lr=0.02)
    assert weights.factors({"a": 4.0, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    for step in range(2000):
        weights.observe({"a": 4.0, "b": 0.5} if step % 2 else {"a": 4.0}, {})
    assert weights.factors({"a": 4.0, "b": 0.5}) == pytest.approx({"a": 0.25, "b": 2.0}, rel=0.02)


def test_dynamic_weight_average_by_hand() -> None:
    weights = DynamicWeightAverage({"a": 1.0, "b": 1.0}, temperature=2.0, every=2)
    for a, b in ((4.0, 2.0), (2.0, 2.0), (1.0, 3.0), (2.0, 1.0)):  # means 3, 1.5 and 2, 2
        assert weights.factors({"a": a, "b": b}) == {"a": 1.0, "b": 1.0}
        weights.observe({"a": a, "b": b}, {})
    high, low = math.exp(1.0 / 2), math.exp(0.5 / 2)
    assert weights.factors({"a": 1.0}) == pytest.approx({"a": 2 * low / (low + high)})
    assert sum(weights.factors({"a": 1.0, "b": 1.0}).values()) == pytest.approx(2.0)


def test_famo_by_hand() -> None:
    """z = 1/2 each: factors (1/L) scaled to a mean of 1; then the task that fell less gets more."""
    weights = Famo({"a": 1.0, "b": 1.0})
    assert weights.factors({"a": 4.0, "b": 1.0, "c": 0.0}) == pytest.approx({"a": 0.4, "b": 1.6, "c": 0.0})
    weights.observe({"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 0.9})
    z = weights.shares(["a", "b"])
    assert z["b"] > 0.5 > z["a"]
    assert z["b"] / z["a"] == pytest.approx(math.exp(2 * 0.025), rel=1e-4)  # Adam's first step is its rate


@needs_torchjd
def test_famo_and_dwa_agree_with_torchjd() -> None:
    from torchjd.scalarization import FAMO

    theirs, ours = FAMO(2, lr=0.025, weight_decay=1e-3), Famo({"a": 1.0, "b": 1.0})
    dice = torch.Generator().manual_seed(3)
    for _ in range(30):
        before, after = (torch.rand(2, generator=dice) + 0.1 for _ in range(2))
        values = before.clone().requires_grad_()
        theirs(values).backward()
        told = dict(zip("ab", before.tolist(), strict=True))
        assert list(ours.factors(told).values()) == pytest.approx((2 * values.grad).tolist(), rel=1e-4)
        theirs.update(after)
        ours.observe(told, dict(zip("ab", after.tolist(), strict=True)))


def weighed(name: str, rows: list[list[float]], **options: Any) -> tuple[Tensor, Tensor]:
    """The weights that a balancer gives to gradients, and the direction that follows."""
    gradients = torch.tensor(rows, dtype=torch.float64)
    gramian = gradients @ gradients.T
    tasks = tuple("abcdef"[: len(rows)])
    weights = balancer(name, tasks, **options).weigh(gramian / gramian.diagonal().mean(), tasks)
    return weights, weights @ gradients


CONFLICT = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]


@needs_torchjd
def test_upgrad_of_a_published_example() -> None:
    """Each gradient plus 22 / 38 or 22 / 18 of the other; TorchJD's documentation says (0.2929, 1.9004, 1.9004)."""
    _, direction = weighed("upgrad", CONFLICT)
    first, second = (-4 + 6 * 22 / 38, 1 + 22 / 38), (6 - 4 * 22 / 18, 1 + 22 / 18)
    exact = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert (direction / 2).tolist() == pytest.approx([*exact, exact[1]], abs=1e-9)
    assert (direction / 2).tolist() == pytest.approx([0.2929, 1.9004, 1.9004], abs=1e-3)  # its solver has a ridge


@pytest.mark.parametrize("name", [c for c in CHOOSERS if c.values[0] not in ("nash_mtl", "mgda", "imtl_g")])
def test_gradients_without_a_conflict_give_the_plain_sum(name: str) -> None:
    if name == "cagrad":  # it looks for more than that even then, within its radius
        weights, _ = weighed(name, [[2.0, 0.0], [0.0, 2.0]], c=1e-9)
    else:
        weights, _ = weighed(name, [[2.0, 0.0], [0.0, 2.0]])
    assert weights.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize("name", [c for c in CHOOSERS if c.values[0] != "aligned_mtl"])
def test_no_task_is_harmed_by_the_direction(name: str) -> None:
    rows = torch.tensor(CONFLICT, dtype=torch.float64)
    _, direction = weighed(name, CONFLICT, **({"c": 1.0} if name == "cagrad" else {}))
    assert (rows @ direction).min() > -1e-3


@needs_torchjd
def test_each_direction_keeps_what_its_paper_promises() -> None:
    rows = torch.tensor([[3.0, 0.5, 0.0], [-1.0, 1.0, 0.2], [0.1, 0.3, 2.0]], dtype=torch.float64)
    _, impartial = weighed("imtl_g", rows.tolist())
    along = rows @ impartial / rows.norm(dim=1)
    assert along.tolist() == pytest.approx([along[0].item()] * 3, rel=1e-6)
    weights, short = weighed("mgda", rows.tolist())
    assert weights.sum() == pytest.approx(3.0)
    assert (rows @ short / 3 >= (short / 3).square().sum() * (1 - 0.02)).all()  # the shortest of their hull
    weights, _ = weighed("nash_mtl", rows.tolist())
    gains = weights * (rows @ rows.T @ weights)
    assert gains.tolist() == pytest.approx([gains.mean().item()] * 3, rel=1e-4)
    assert weights.mean() == pytest.approx(1.0)
    _, aligned = weighed("aligned_mtl", [[3.0, 0.0], [0.0, 1.0]])
    assert aligned.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_bargains_are_found_for_every_kind_of_gradients() -> None:
    dice = np.random.default_rng(0)
    for many in (2, 3, 6):
        for spread in (1.0, 1e3):
            rows = dice.normal(size=(many, 8)) * spread ** dice.uniform(-1, 1, (many, 1))
            gramian = rows @ rows.T
            gramian /= np.trace(gramian) / many
            found = bargained(gramian)
            assert (found > 0).all()
            assert found * (gramian @ found) == pytest.approx(np.ones(many), rel=0.02)
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert np.isfinite(bargained(opposite)).all()


@needs_torchjd
def test_random_orders_are_the_same_after_a_restart_and_leave_the_dice_alone() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [-0.2, -1.0]], dtype=torch.float64)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = PCGrad({})
    found = [first.weigh(rows @ rows.T, ("a", "b", "c")).tolist() for _ in range(6)]
    assert len({tuple(each) for each in found}) > 1
    assert torch.equal(before, torch.get_rng_state())
    second = PCGrad({})
    second.restore({"draws": 3})
    assert [second.weigh(rows @ rows.T, ("a", "b", "c")).tolist() for _ in range(3)] == found[3:]


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_task_without_gradients_has_no_say(name: str) -> None:
    """A batch without labels for a task gives a gradient of zero, which must not stop the others."""

    class Silent(Toy):
        def forward(self, batch: Points) -> dict[str, dict[str, LossTerm]]:
            terms = super().forward(batch)
            return {t: {n: LossTerm(x.sum * (t != "c"), x.count) for n, x in v.items()} for t, v in terms.items()}

    x = batches()[0][0].x
    one, two = Track(balancer(name), Silent()), Track(balancer(name), Toy())
    one.gradients(Points(x, ("a", "b", "c")))
    two.gradients(Points(x, ("a", "b")))
    for p, q in zip(one.toy.trunk.parameters(), two.toy.trunk.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-7)
        assert p.grad.abs().sum() > 0


@needs_torchjd
def test_own_parameters_follow_their_own_gradient_and_shared_ones_the_choice() -> None:
    """Under accumulation too: of two forward passes, as of one with all images."""
    x = batches()[0][0].x
    plain, chosen, halves = (
        Track(FixedWeights({}), Toy()),
        Track(balancer("upgrad"), Toy()),
        Track(balancer("upgrad"), Toy()),
    )
    plain.gradients(Points(x, ("a", "b", "c")))
    chosen.gradients(Points(x, ("a", "b", "c")))
    halves.gradients(Points(x[:4], ("a", "b", "c")), Points(x[4:], ("a", "b", "c")))
    own = [[p.grad for t in "abc" for p in track.toy.parameters_of(t)] for track in (plain, chosen, halves)]
    assert all(torch.equal(a, b) for a, b in zip(own[0], own[1], strict=True))
    shared = [torch.cat([p.grad.flatten() for p in track.toy.shared_parameters()]) for track in (plain, chosen, halves)]
    assert torch.allclose(shared[1], shared[2], atol=1e-6)
    rows = []
    for task in "abc":
        track = Track(FixedWeights({}), Toy())
        track.gradients(Points(x, (task,)))
        rows.append(torch.cat([p.grad.flatten() for p in track.toy.shared_parameters()]))
    gradients = torch.stack(rows).double()
    gramian = gradients @ gradients.T
    weights = UPGrad({}).weigh(gramian / gramian.diagonal().mean(), ("a", "b", "c"))
    assert torch.allclose(shared[1].double(), weights @ gradients, atol=1e-5)


@needs_torchjd
def test_a_gradient_that_is_no_number_is_left_for_the_guard_to_see() -> None:
    track = Track(balancer("cagrad"), Toy())
    x = batches()[0][0].x.clone()
    x[0, 0] = float("nan")
    track.gradients(Points(x, ("a", "b")))
    assert any(not p.grad.isfinite().all() for p in track.toy.shared_parameters())


@pytest.mark.parametrize("name", ["famo", "uncertainty", pytest.param("upgrad", marks=needs_torchjd)])
def test_under_bf16_it_does_the_same_within_the_precision(name: str) -> None:
    found = []
    for precision in ("no", "bf16"):
        track = Track(balancer(name), Toy(), precision)
        for parts in batches(many=2):
            track.gradients(*parts)
        found.append(torch.cat([p.grad.flatten() for p in track.toy.parameters() if p.grad is not None]))
        assert found[-1].dtype == torch.float32
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.999
    assert found[1].norm() == pytest.approx(found[0].norm().item(), rel=0.02)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "famo", pytest.param("pcgrad", marks=needs_torchjd)])
def test_what_a_balancer_remembers_goes_through_json(name: str) -> None:
    steps = batches(many=10)
    whole = Track(balancer(name, **({"every": 2} if name == "dwa" else {})), Toy())
    for parts in steps:
        whole.step(*parts)
    first = Track(balancer(name, **({"every": 2} if name == "dwa" else {})), Toy())
    for parts in steps[:5]:
        first.step(*parts)
    assert isinstance(first.balancer, Remembering)
    second = balancer(name, **({"every": 2} if name == "dwa" else {}))
    second.restore(json.loads(json.dumps(first.balancer.state())))
    first.descent.balancer = first.balancer = second
    first.descent.observer = second if isinstance(second, ObservingBalancer) else None
    first.descent.chooser = second if isinstance(second, GradientBalancer) else None
    for parts in steps[5:]:
        first.step(*parts)
    assert torch.equal(whole.weights(), first.weights())


def test_looking_again_changes_nothing_that_is_trained() -> None:
    class Normed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))  # type: ignore[assignment]

    track = Track(balancer("famo"), Normed())
    x = batches()[0][0].x
    track.step(Points(x, ("a", "b")))
    assert track.toy.trunk[1].num_batches_tracked == 1
    assert track.toy.trunk[1].track_running_stats
    assert track.balancer.adam.values


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (configured("upgard"), "did you mean 'upgrad'"),
        (configured("famo", lr=0), "lr must be a number above 0, got 0"),
        (configured("dwa", evry=3), "did you mean 'every'"),
        (configured("fixed").model_copy(update={"tasks": {"a": TaskConfig(task="cls", weight=0)}}), "nothing would be"),
        (configured("nash_mtl", train=TrainConfig(compile=True)), "set compile=false, or balance=fixed"),
    ],
)
def test_bad_words_are_refused_in_one_line(config: RunConfig, words: str) -> None:
    if config.balance.name == "nash_mtl" and ABSENT:
        pytest.skip("TorchJD is not installed (extra: balance)")
    with pytest.raises(UnifiedError) as caught:
        make_balancer(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_torchjd_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    for cls in (CAGrad, NashMTL):
        with pytest.raises(ConfigError, match=r"pip install 'unified-networks\[balance\]', or take balance=fixed$"):
            cls({})


RANK = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from types import SimpleNamespace
from balance_toy import Toy, Track, batches
from test_balancers import balancer
for name in json.loads(sys.argv[2]):
    track = Track(balancer(name), Toy())
    rank = track.accelerator.process_index
    for parts in batches():
        track.step(*(part.half(rank) for part in parts))
    torch.save(track.weights(), Path(sys.argv[3], f"{name}-{rank}.pt"))
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.slow
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    """Each rank has half the images; partial labels, accumulation and steps of one task among them."""
    names = [*LOSSES, *(() if ABSENT else GRADIENTS)]
    (tmp_path / "rank.py").write_text(RANK)
    paths = [str(ROOT), str(Path(__file__).parent)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command += [str(tmp_path / "rank.py"), json.dumps(paths), json.dumps(names), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        track = Track(balancer(name), Toy())
        for parts in batches():
            track.step(*parts)
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert torch.equal(*ranks), name
        assert (ranks[0] - track.weights()).abs().max() < 1e-5, name
