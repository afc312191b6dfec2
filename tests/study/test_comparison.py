# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from unified.contracts.errors import DataError
from unified.study.archive import Archive, leave
from unified.study.collection import told_apart
from unified.study.comparison import Comparison, compare, complete
from unified.study.page import verdict
from unified.study.result import Result
from unified.study.statistics import Interval, delta_m, over_seeds, relative_change
from unified.study.table import csv_text, footnotes, markdown_table, rich_tables

TASKS = ("det", "cls")
DATA = {"photos (train)": "aa", "photos (val)": "bb"}


def result(arm: str, seed: int, scores: dict[str, float], **given: Any) -> Result:
    whole: dict[str, Any] = {
        "arm": arm,
        "tasks": tuple(scores),
        "seed": seed,
        "scores": scores,
        "primary": {task: {"det": "AP", "cls": "mAP"}[task] for task in scores},
        "metrics": {},
        "steps": 100,
        "images": 1600,
        "labelled": dict.fromkeys(scores, 1600),
        "parameters": 1000 + 100 * len(scores),
        "latents": 0,
        "flops": 2_000_000 + 1000 * len(scores),
        "seconds": 10.0,
        "data": dict.fromkeys(scores, DATA),
        "trunk": "t",
        "settings": {"train.lr": 0.1, "tasks.det.options": {}},
        "rules": "none",
    }
    return Result(**{**whole, **given})


def whole(seeds: tuple[int, ...] = (0, 1)) -> list[Result]:
    """Two single-task networks and a joint one for each seed."""
    found = []
    for seed in seeds:
        found += [result("single", seed, {"det": 0.5 + 0.1 * seed}), result("single", seed, {"cls": 0.4})]
        found.append(result("joint", seed, {"det": 0.55 + 0.11 * seed, "cls": 0.38 + 0.04 * seed}, latents=7))
    return found


@pytest.mark.parametrize(
    ("segmentation", "depth", "published"),
    [(44.4, 0.587, 0.41), (44.2, 0.570, 1.61), (44.2, 0.573, 1.38), (45.0, 0.584, 1.32)],
)
def test_delta_m_is_the_published_one(segmentation: float, depth: float, published: float) -> None:
    """NYUD-v2, ResNet-50, against 43.9 mIoU and 0.585 RMSE (Vandenhende et al. 2021, table 5a).

    Scores are printed with one and three digits, which leaves delta m uncertain by 0.1.
    """
    baseline = {"seg": 43.9, "depth": 0.585}
    mine = delta_m({"seg": segmentation, "depth": depth}, baseline, lower=("depth",))
    assert mine == pytest.approx(published, abs=0.02)
    assert delta_m(baseline, baseline, lower=("depth",)) == 0


def test_a_baseline_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="a baseline of 0 has no relative change"):
        relative_change(0.3, 0.0)


def test_intervals_are_scipys() -> None:
    values = [0.31, 0.35, 0.29, 0.4]
    found = over_seeds(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(stats.tstd(values))
    assert found.spread == pytest.approx(0.11)


def test_an_interval_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t(2) at 97.5 % is 4.3027, over the root of 3."""
    assert over_seeds([1.0, 2.0, 3.0]).half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert over_seeds([1.0]).half is None


def test_a_baseline_of_nothing_leaves_scores_and_says_so(tmp_path: Path) -> None:
    zero = [replace(r, scores={"cls": 0.0}) if r.tasks == ("cls",) and r.seed == 1 else r for r in whole()]
    found = compare(zero, "single")
    joint = found.row("joint")
    assert set(joint.relative) == {"det"} and joint.delta is None
    assert joint.scores["cls"].values == pytest.approx((0.38, 0.42))
    assert "The baseline scores 0 in cls" in "\n".join(footnotes(found))
    leave(Archive("zero", "", "", "", tuple(zero)), found, tmp_path)


def test_a_table_by_hand() -> None:
    found = compare(whole(), "single")
    joint = found.row("joint")
    assert joint.relative["det"].values == pytest.approx([10.0, 10.0])
    assert joint.relative["cls"].values == pytest.approx([-5.0, 5.0])
    assert joint.delta is not None and joint.delta.values == pytest.approx([2.5, 7.5])
    assert joint.worst is not None and joint.worst[0] == "cls"
    single = found.row("single")
    assert single.delta is None and single.worst is None
    assert (single.networks, single.parameters, single.flops, single.images) == (2, 2200, 4_002_000, 3200)
    assert (joint.networks, joint.parameters, joint.images) == (1, 1200, 1600)
    assert single.labelled == joint.labelled == {"det": 1600, "cls": 1600}


def changed(name: str, **given: Any) -> list[Result]:
    return [replace(r, **given) if r.arm == "joint" and r.seed == 1 else r for r in whole()]


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        (changed("data", data={t: {**DATA, "photos (val)": "cc"} for t in TASKS}), "photos .val. is not the same"),
        (changed("data", data={task: {"other (train)": "aa"} for task in TASKS}), "was learned from other"),
        (changed("trunk", trunk="u"), "not the same trunk"),
        (changed("budget", labelled={"det": 1600, "cls": 3200}), "3,200 and 1,600 images with labels of 'cls'"),
        (changed("lr", settings={"train.lr": 0.2, "tasks.det.options": {}}), "train.lr is 0.2 and 0.1"),
        (changed("score", primary={"det": "AP50", "cls": "mAP"}), "scored by AP50 and by AP"),
        ([r for r in whole() if r.arm == "single" or r.seed == 0], "joint has no run with seed 1"),
        ([r for r in whole() if r.arm == "joint" or r.seed == 0], "single has no run with seed 1"),
        ([r for r in whole() if r.tasks != ("cls",)], "only one of them learned cls with seed 0"),
        ([*whole(), result("joint", 0, {"det": 0.5})], "two runs of task 'det' with seed 0"),
        ([r for r in whole() if r.arm == "joint"], "no runs of the baseline 'single'"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused(results: list[Result], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        compare(results, "single")


def test_a_budget_may_differ_by_the_images_of_one_step() -> None:
    compare(changed("rounding", labelled={"det": 1616, "cls": 1600}), "single")
    with pytest.raises(DataError, match="budgets differ"):
        compare(changed("more", labelled={"det": 1617, "cls": 1600}), "single")


def test_what_an_arm_is_about_may_differ_and_is_told() -> None:
    results = [replace(r, settings={**r.settings, "train.lr": 0.2}) if r.arm == "joint" else r for r in whole()]
    for key in ("train.lr", "lr"):
        assert compare(results, "single", {"joint": [key]}).row("joint").differs == ("train.lr",)


def test_an_arm_that_is_not_complete_is_left_out() -> None:
    expected = {"single": {(0, "det"), (0, "cls"), (1, "det"), (1, "cls")}, "joint": {(0, ""), (1, "")}}
    kept, lines = complete(whole(), expected)
    assert (len(kept), lines) == (6, [])
    kept, lines = complete([r for r in whole() if r.tasks != ("cls",) or r.seed == 0], expected)
    assert {r.arm for r in kept} == {"joint"}
    assert lines == ["arm 'single' lacks seed 1 of cls"]


def shown(found: Comparison) -> str:
    text = io.StringIO()
    Console(file=text, width=160, color_system=None).print(*rich_tables(found))
    return text.getvalue()


def test_the_printed_numbers_are_the_tables() -> None:
    found = compare(whole((0, 1, 2)), "single")
    told = shown(found)
    delta = found.row("joint").delta
    assert delta is not None and delta.half is not None
    assert f"{delta.mean:+.2f} ±{delta.half:.2f}" in told
    assert "2 networks" in told
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len(rows) == 2 * 3 * 2
    joint = [row for row in rows if row["arm"] == "joint" and row["task"] == "det"]
    assert [float(row["value"]) for row in joint] == pytest.approx([0.55, 0.66, 0.77])
    assert [float(row["delta_m_percent"]) for row in joint] == pytest.approx(delta.values, abs=1e-4)
    assert markdown_table(found).count("\n") == 3


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((1.0, 1.1, 1.2), "a gain"),
        ((-1.0, -1.1, -1.2), "a loss"),
        ((-1.0, 1.0, 1.1), "no difference"),
        ((3.0,), "no verdict"),
    ],
)
def test_only_what_an_interval_bears_out_is_called_a_gain(values: tuple[float, ...], word: str) -> None:
    assert word in verdict(Interval(values))


def test_an_archive_reads_back_and_makes_the_same_table(tmp_path: Path) -> None:
    with_z = [replace(r, arm="z", rules="pre.*=add", latents=7) for r in whole((0, 1, 2)) if r.arm == "joint"]
    results = (*whole((0, 1, 2)), *with_z)
    study = {
        "data": "photos",
        "steps": 100,
        "arms": {"joint": {"settings": ["tasks.det.weight=4"]}, "z": {"latents": "bias"}},
    }
    archive = Archive("study", "A title", "Why?", "unified-ablate study", results, study)
    files = leave(archive, compare(results, "single"), tmp_path)
    assert sorted(path.suffix for path in files) == [".csv", ".json", ".md", ".png", ".txt"]
    assert all(path.stat().st_size > 200 for path in files)
    again = Archive.read(tmp_path / "study.json")
    assert csv_text(compare(again.results, "single")) == (tmp_path / "study.csv").read_text()
    page = (tmp_path / "study.md").read_text()
    assert "# A title" in page and "Why?" in page and "(study.png)" in page and "unified-ablate study" in page
    assert "`single`: a network for each task, no latents\n" in page
    assert "`joint`: one network, no latents, `tasks.det.weight=4`\n" in page
    assert "`z`: one network, latents `bias`: `pre.*=add`, 7 numbers\n" in page
    (tmp_path / "broken.json").write_text(json.dumps({"results": []}))
    with pytest.raises(DataError, match="not the archive of a study"):
        Archive.read(tmp_path / "broken.json")


def test_runs_are_named_by_what_they_are_and_by_what_tells_them_apart() -> None:
    plain = [result("", s, {"det": 0.5, "cls": 0.4}, rules="align.*=mul") for s in (0, 1)]
    other = [replace(r, settings={**r.settings, "train.lr": 0.5}) for r in plain]
    single = [result("", s, {task: 0.5}) for s in (0, 1) for task in ("det", "cls")]
    names = [r.arm for r in told_apart([*single, *plain, *other])]
    assert set(names[:4]) == {"single"}
    assert set(names[4:]) == {"joint, align.*=mul (lr=0.1)", "joint, align.*=mul (lr=0.5)"}
