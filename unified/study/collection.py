# SPDX-License-Identifier: Apache-2.0
"""Runs that exist, gathered into arms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from unified.contracts.errors import DataError
from unified.study.comparison import Comparison, compare
from unified.study.job import JobFolder
from unified.study.result import Result, result_of

SINGLE = "single"
SHOWN = 3  # settings that tell arms of one name apart


def collect(runs: Sequence[Path], baseline: str | None, differ: Sequence[str]) -> tuple[Comparison, list[Result]]:
    """The comparison of runs, and what each of them says.

    Args:
        runs: folders of runs, of jobs, or of whole studies.
        baseline: an arm's name, or the folder of one of its runs; None: the single-task runs.
        differ: dotted keys of settings that may differ.

    Raises:
        UnifiedError: no runs, unfinished ones, or some that do not match.
    """
    found = [(path, _read(path)) for folder in runs for path in spread(folder)]
    named = told_apart([result for _, result in found])
    folders = {path.resolve(): result.arm for (path, _), result in zip(found, named, strict=True)}
    arm = _baseline(named, baseline, folders)
    return compare(named, arm, dict.fromkeys((result.arm for result in named), tuple(differ))), named


def spread(folder: Path) -> list[Path]:
    """The runs at a folder: itself, a job's, or those of all finished jobs of a study.

    Raises:
        DataError: there is none.
    """
    if (folder / "jobs").is_dir():
        found = [path.parent for path in sorted(folder.glob("jobs/*/result.json"))]
        if not found:
            raise DataError(f"study '{folder}' has no finished job yet")
        return found
    if (folder / "job.json").is_file() or (folder / "config.yaml").is_file():
        return [folder]
    raise DataError(f"'{folder}' {'holds no run' if folder.is_dir() else 'does not exist'}; give folders of runs")


def _read(path: Path) -> Result:
    job = JobFolder(path)
    if told := job.result():
        return Result.from_json(told)
    who = job.told()
    return result_of(job.run if who else path, arm=who.get("arm", ""))


def told_apart(results: Sequence[Result]) -> list[Result]:
    """Every result with the name of its arm: what it is, and the settings in which it differs from others of it."""
    named = [replace(result, arm=result.arm or _name(result)) for result in results]
    by_name: dict[tuple[str, str], list[Result]] = {}
    for result in named:
        by_name.setdefault((result.arm, " ".join(result.tasks)), []).append(result)
    return [replace(result, arm=_full(result, by_name[result.arm, " ".join(result.tasks)])) for result in named]


def _name(result: Result) -> str:
    return SINGLE if len(result.tasks) == 1 else "joint" if result.rules == "none" else f"joint, {result.rules}"


def _full(result: Result, others: Iterable[Result]) -> str:
    same = list(others)
    keys = [key for key in result.settings if any(each.settings.get(key) != result.settings[key] for each in same)]
    told = ", ".join(f"{key.rpartition('.')[2]}={result.settings[key]}" for key in keys[:SHOWN])
    return f"{result.arm} ({told})" if told else result.arm


def _baseline(results: Sequence[Result], asked: str | None, folders: dict[Path, str]) -> str:
    arms = list(dict.fromkeys(result.arm for result in results))
    if asked is not None:
        return asked if asked in arms else folders.get(Path(asked).resolve(), asked)
    if SINGLE in arms:
        return SINGLE
    raise DataError(f"no single-task runs to compare with; say what is the measure by --baseline: {'; '.join(arms)}")
