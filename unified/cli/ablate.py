# SPDX-License-Identifier: Apache-2.0
"""``unified-ablate``: a grid of short trainings over seeds, and the table that a paper would print."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import ConfigError, DataError

if TYPE_CHECKING:
    from unified.study.comparison import Comparison
    from unified.study.design import StudyConfig
    from unified.study.expansion import Expansion
    from unified.study.runner import Outcome

PASSES = 40  # timed forward passes of each arm

app = make_app()


@app.command()
def ablate(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study file (YAML) or its name, such as fod-joint.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any setting of training, for every job.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where jobs live; runs/studies/NAME if not given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Trainings side by side; one a core, or one a GPU, if not given.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A,B", help="Seeds; the study's own if not given.")] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of a network for all tasks; the study's if not given.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda.")] = "auto",
    page: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Leave page, picture and raw numbers here too.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and the budget; train nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show the table and errors only.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train every arm of a study with every seed, and compare.

    What is finished is kept: the same command again goes on where it stopped.
    """
    from unified.study.design import load_study
    from unified.study.expansion import expand
    from unified.study.runner import make_slots, run_jobs

    asked = _narrowed(load_study(study), seeds, steps)
    slots = make_slots(device, jobs)
    options = {"train.device": device, "train.workers": 0 if "OMP_NUM_THREADS" in slots[0].environment else None}
    plan = expand(asked, settings or [], options)
    folder = out or Path("runs") / "studies" / asked.name
    if dry_run:
        _show(asked, plan, folder, len(slots), as_json)
        return
    outcome = run_jobs(plan.jobs, folder, slots, _silent if quiet or as_json else _say)
    if outcome.interrupted:
        done, whole = len(outcome.results), len(plan.jobs)
        print(f"interrupted: {done} of {whole} jobs are finished; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    found = _compared(asked, plan, outcome)
    _leave(asked, plan, found, outcome, folder, page, device, as_json)
    for name, reason in outcome.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if outcome.failed:
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _narrowed(study: StudyConfig, seeds: str | None, steps: int | None) -> StudyConfig:
    """The study with what the command line says instead."""
    from unified.study.design import StudyConfig

    given: dict[str, Any] = {}
    if seeds is not None:
        words = split_names(seeds) or ()
        if not words or not all(word.isdecimal() for word in words):
            raise ConfigError(f"--seeds: expected whole numbers such as 0,1,2, got '{seeds}'")
        given["seeds"] = tuple(int(word) for word in words)
        if len(set(words)) < len(words):
            raise ConfigError(f"--seeds: {seeds} has one twice")
    if steps is not None:
        if steps < 1:
            raise ConfigError(f"--steps must be 1 or more, got {steps}")
        given["steps"] = steps
    return StudyConfig.model_validate({**study.model_dump(), **given})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    pass


def _show(study: StudyConfig, plan: Expansion, folder: Path, side_by_side: int, as_json: bool) -> None:
    if as_json:
        rows = [{"job": j.name, "tasks": list(j.config.tasks), "steps": j.config.train.max_steps} for j in plan.jobs]
        print(
            json.dumps({"study": study.name, "out": str(folder), "jobs": rows, "labelled": dict(plan.budget.labelled)})
        )
        return
    from rich.console import Console
    from rich.table import Table

    many = len(plan.jobs)
    table = Table("job", "tasks", "steps", title=f"{study.title or study.name}: {many} jobs", title_justify="left")
    for job in plan.jobs:
        table.add_row(job.name, ", ".join(job.config.tasks), str(job.config.train.max_steps))
    console = Console()
    console.print(table)
    labelled = ", ".join(f"{task} {many:,}" for task, many in plan.budget.labelled.items())
    console.print(
        f"Images with labels, the same for every arm: {labelled}. {side_by_side} jobs side by side in {folder}."
    )


def _compared(study: StudyConfig, plan: Expansion, outcome: Outcome) -> Comparison:
    """The table of all arms of which nothing is missing."""
    import dataclasses

    from unified.study.comparison import compare, complete

    expected: dict[str, set[tuple[int, str]]] = {}
    for job in plan.jobs:
        expected.setdefault(job.arm, set()).add((job.seed, job.part))
    results, lines = complete(outcome.results, expected)
    kept = {result.arm for result in results}
    if study.baseline not in kept or len(kept) < 2:
        failed = "; ".join(f"{name}: {reason}" for name, reason in outcome.failed.items())
        raise DataError(f"nothing can be compared: {'; '.join(lines)} ({failed})")
    order = list(study.all_arms)
    results.sort(key=lambda result: order.index(result.arm))
    allowed = {name: [word.partition("=")[0].strip() for word in arm.settings] for name, arm in study.all_arms.items()}
    measure = allowed[study.baseline]
    found = compare(results, study.baseline, {name: [*keys, *measure] for name, keys in allowed.items()})
    return dataclasses.replace(found, left_out=tuple(lines))


def _leave(
    study: StudyConfig,
    plan: Expansion,
    found: Comparison,
    outcome: Outcome,
    folder: Path,
    page: Path | None,
    device: str,
    as_json: bool,
) -> None:
    from unified.study.archive import Archive, leave
    from unified.study.table import as_json_rows

    archive = Archive(
        name=study.name,
        title=study.title,
        question=study.question,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        results=tuple(outcome.results),
        study=study.model_dump(mode="json"),
        latency=_latency(study, plan, found, folder, device),
    )
    files = leave(archive, found, folder)
    for place in [page] if page else []:
        place.mkdir(parents=True, exist_ok=True)
        files += leave(archive, found, place, _conflicts(study, plan, folder, place))
    if as_json:
        print(json.dumps({"study": study.name, "files": [str(path) for path in files], **as_json_rows(found)}))
        return
    from unified.cli.report import show

    show(found, study.title)
    print("\n".join(str(path) for path in files))


def _latency(study: StudyConfig, plan: Expansion, found: Comparison, folder: Path, device: str) -> dict[str, Any]:
    """Milliseconds an image by arm, where arms differ in how many networks they are."""
    if len({row.networks for row in found.rows}) < 2:
        return {}
    import torch

    from unified.cli.bench import interleaved
    from unified.hardware import leave_a_core, pick_device
    from unified.model.latents.fold import fold
    from unified.study.runner import job_folder
    from unified.trained import load_trained

    leave_a_core()  # as training does: threads that wait for a busy core measure the neighbours
    place, first = pick_device(device), study.seeds[0]
    networks: dict[str, list[Any]] = {}
    for job in plan.jobs:
        if job.seed == first and job.arm in {row.arm for row in found.rows}:
            network = fold(load_trained(job_folder(folder, job).run).network).network
            networks.setdefault(job.arm, []).append(network.to(place))
    size = plan.jobs[0].config.train.size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(place)
    calls = {arm: (lambda nets=nets: [network(images) for network in nets]) for arm, nets in networks.items()}
    times = interleaved(calls, PASSES, place)
    return {
        "size": size,
        "repeats": PASSES,
        "device": str(place),
        "threads": torch.get_num_threads(),
        "milliseconds": {arm: round(statistics.median(taken) * 1e3, 3) for arm, taken in times.items()},
    }


def _conflicts(study: StudyConfig, plan: Expansion, folder: Path, place: Path) -> list[Path]:
    """Conflict maps of the first seed, where they were measured, beside the page."""
    from unified.study.design import slug
    from unified.study.runner import job_folder
    from unified.training.conflictmap import conflict_plot

    found = []
    for job in plan.jobs:
        if job.seed == study.seeds[0] and (drawn := conflict_plot(job_folder(folder, job).run)):
            found.append(place / f"{study.name}-conflict-{slug(job.arm)}.png")
            shutil.copyfile(drawn, found[-1])
    return found
