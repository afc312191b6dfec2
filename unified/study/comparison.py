# SPDX-License-Identifier: Apache-2.0
"""The comparison of arms with a baseline; what does not match is refused, never averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from unified.contracts.errors import DataError, suggestion
from unified.study.result import Result
from unified.study.statistics import LEAST, Interval, over_seeds, relative_change

Run = tuple[Result, ...]  # one seed of an arm: a network for all tasks, or one for each


@dataclass(frozen=True)
class Row:
    """One arm over all seeds. Relative changes are in per cent of the baseline of the same seed."""

    arm: str
    scores: Mapping[str, Interval]  # by task
    relative: Mapping[str, Interval]  # by task, but where the baseline's score is 0; empty for the baseline itself
    delta: Interval | None  # delta m, the mean over tasks; None for the baseline, or where a task's is not known
    parameters: int  # of all its networks
    latents: int
    flops: int  # of all its networks on one image
    images: int  # that passed through its networks in training, together
    labelled: Mapping[str, int]  # by task, images with its labels
    seconds: float  # of training, all networks of one seed, mean
    networks: int
    rules: str
    differs: tuple[str, ...] = ()  # settings that are not the baseline's, by consent

    @property
    def worst(self) -> tuple[str, Interval] | None:
        """The task that lost most, or won least."""
        return min(self.relative.items(), key=lambda item: item[1].mean) if self.relative else None


@dataclass(frozen=True)
class Comparison:
    """A whole table."""

    baseline: str
    tasks: tuple[str, ...]
    primary: Mapping[str, str]  # by task, the score that is compared
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()  # one line for every arm that could not be compared

    def row(self, arm: str) -> Row:
        return next(row for row in self.rows if row.arm == arm)


def compare(
    results: Iterable[Result], baseline: str, allowed: Mapping[str, Collection[str]] | None = None
) -> Comparison:
    """Every arm against the baseline, seed by seed.

    Args:
        results: of all arms and seeds, in the order of the table.
        baseline: the arm that is the measure.
        allowed: by arm, dotted keys of settings that may differ from the baseline's: what the arm is about.

    Raises:
        DataError: a baseline that is not there, or anything that does not match: data, trunk, budget, seeds, settings.
    """
    arms = gathered(results)
    if baseline not in arms:
        raise DataError(f"no runs of the baseline '{baseline}'{suggestion(baseline, arms)}")
    measure = arms[baseline]
    learned = {task for result in next(iter(measure.values())) for task in result.tasks}
    order = max((result.tasks for runs in arms.values() for run in runs.values() for result in run), key=len)
    tasks = (*(task for task in order if task in learned), *sorted(learned - set(order)))
    arms = {baseline: measure, **arms}
    rows = []
    for name, by_seed in arms.items():
        differs = check_match(name, by_seed, baseline, measure, (allowed or {}).get(name, ()))
        rows.append(_row(name, by_seed, measure if name != baseline else None, tasks, differs))
    primary = {task: result.primary[task] for result in next(iter(measure.values())) for task in result.tasks}
    return Comparison(baseline, tasks, primary, tuple(sorted(measure)), tuple(rows))


def complete(
    results: Sequence[Result], expected: Mapping[str, Collection[tuple[int, str]]]
) -> tuple[list[Result], list[str]]:
    """The results of arms of which nothing is missing, and one line for each of the others.

    Args:
        expected: by arm, seeds and, of an arm with a network for each task, the task ('' otherwise).
    """
    found: dict[str, set[tuple[int, str]]] = {}
    for result in results:
        apart = any(part for _, part in expected.get(result.arm, ()))
        found.setdefault(result.arm, set()).add((result.seed, result.tasks[0] if apart else ""))
    lines = []
    for arm, jobs in expected.items():
        missing = sorted(set(jobs) - found.get(arm, set()))
        if missing:
            told = ", ".join(f"seed {seed}{f' of {part}' if part else ''}" for seed, part in missing)
            lines.append(f"arm '{arm}' lacks {told}")
            found.pop(arm, None)
    return [result for result in results if result.arm in found], lines


def gathered(results: Iterable[Result]) -> dict[str, dict[int, Run]]:
    """Results by arm and seed.

    Raises:
        DataError: a task of an arm was trained twice with one seed.
    """
    arms: dict[str, dict[int, Run]] = {}
    for result in results:
        runs = arms.setdefault(result.arm, {})
        runs[result.seed] = (*runs.get(result.seed, ()), result)
    for arm, by_seed in arms.items():
        for seed, run in by_seed.items():
            twice = [task for task, many in Counter(t for result in run for t in result.tasks).items() if many > 1]
            if twice:
                raise DataError(f"arm '{arm}' has two runs of task '{twice[0]}' with seed {seed}; leave one out")
    return arms


def check_match(
    arm: str, mine: Mapping[int, Run], baseline: str, theirs: Mapping[int, Run], allowed: Collection[str]
) -> tuple[str, ...]:
    """Whether an arm may be compared with the baseline; returns the settings that differ by consent.

    Raises:
        DataError: names the first thing that does not match.
    """
    who = f"'{arm}' cannot be compared with '{baseline}'"
    for there, here, name in ((theirs, mine, arm), (mine, theirs, baseline)):
        if missing := sorted(set(there) - set(here)):
            raise DataError(f"{who}: {name} has no run with seed {', '.join(map(str, missing))}")
    differs: list[str] = []
    for seed in mine:
        ours, base = _by_task(mine[seed]), _by_task(theirs[seed])
        if ours.keys() != base.keys():
            lost = sorted(ours.keys() ^ base.keys())
            raise DataError(f"{who}: only one of them learned {', '.join(lost)} with seed {seed}")
        for task in base:
            differs += _check_pair(who, task, (ours[task], base[task]), allowed)
    return tuple(dict.fromkeys(differs))


def _check_pair(who: str, task: str, pair: tuple[Result, Result], allowed: Collection[str]) -> list[str]:
    ours, base = pair
    mine, theirs = ours.data[task], base.data[task]
    if mine.keys() != theirs.keys():
        raise DataError(f"{who}: task '{task}' was learned from {_names(mine)} and from {_names(theirs)}")
    for name in theirs:
        if mine[name] != theirs[name]:
            raise DataError(f"{who}: dataset {name} is not the same: other images or other labels")
    if ours.trunk != base.trunk:
        raise DataError(f"{who}: they have not the same trunk (backbone, neck, norm, activation, input size)")
    if ours.primary[task] != base.primary[task]:
        raise DataError(f"{who}: task '{task}' is scored by {ours.primary[task]} and by {base.primary[task]}")
    many, few = ours.labelled[task], base.labelled[task]
    if abs(many - few) * max(base.steps, 1) > base.images:  # more than the images of one step
        raise DataError(f"{who}: budgets differ: {many:,} and {few:,} images with labels of '{task}'")
    keys = [key for key in ours.settings.keys() | base.settings.keys() if _concerns(key, task)]
    different = sorted(key for key in keys if ours.settings.get(key) != base.settings.get(key))
    for key in different:
        if not any(key == may or key.startswith(f"{may}.") or key.endswith(f".{may}") for may in allowed):
            got, expected = ours.settings.get(key), base.settings.get(key)
            raise DataError(f"{who}: {key} is {got} and {expected}; allow it with --differ {key} if that is the point")
    return different


def _concerns(key: str, task: str) -> bool:
    """Whether a setting is of all tasks or of this one. What weighs tasks against each other moves no task alone."""
    if key.startswith("tasks."):
        return key.startswith(f"tasks.{task}.") and not key.endswith(".weight")
    return not key.startswith("balance.")


def _names(data: Iterable[str]) -> str:
    return ", ".join(sorted(data)) or "nothing"


def _by_task(run: Run) -> dict[str, Result]:
    return {task: result for result in run for task in result.tasks}


def _row(
    name: str, mine: Mapping[int, Run], theirs: Mapping[int, Run] | None, tasks: Sequence[str], differs: tuple[str, ...]
) -> Row:
    seeds = sorted(mine)
    scores = {task: over_seeds([_by_task(mine[seed])[task].scores[task] for seed in seeds]) for task in tasks}
    relative: dict[str, Interval] = {}
    if theirs is not None:
        base = {task: [_by_task(theirs[seed])[task].scores[task] for seed in seeds] for task in tasks}
        lower = {task for result in next(iter(theirs.values())) for task in result.lower}
        relative = {
            task: over_seeds(
                [relative_change(m, b, task in lower) for m, b in zip(scores[task].values, base[task], strict=True)]
            )
            for task in tasks
            if min(map(abs, base[task])) >= LEAST
        }
    by_seed = zip(*(relative[task].values for task in relative), strict=True)
    delta = over_seeds([sum(changes) / len(changes) for changes in by_seed]) if len(relative) == len(tasks) else None
    first = mine[seeds[0]]
    return Row(
        arm=name,
        scores=scores,
        relative=relative,
        delta=delta,
        parameters=sum(result.parameters for result in first),
        latents=sum(result.latents for result in first),
        flops=sum(result.flops for result in first),
        images=sum(result.images for result in first),
        labelled={task: result.labelled[task] for task, result in _by_task(first).items()},
        seconds=sum(result.seconds for run in mine.values() for result in run) / len(mine),
        networks=len(first),
        rules=first[0].rules,
        differs=differs,
    )
