# SPDX-License-Identifier: Apache-2.0
"""``unified-bench``: what a shared trunk saves, what latents cost and how fast pictures come, on this machine."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.bench_index import index
from unified.cli.command import Debug, Json, make_app, run, split_names

if TYPE_CHECKING:
    from pathlib import Path

    import torch

TASKS = ("det", "cls", "emb")
TARGETS = {"three tasks / detection only": 1.15, "three tasks / three networks": 0.45}
PLAIN, UNFOLDED, FOLDED = "no latents", "latents", "latents, folded"

app = make_app()
app.command()(index)


@app.callback()
def bench() -> None:
    """Measure speed."""


@app.command()
def joint(
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model file (YAML).")] = "unified-n",
    size: Annotated[int, typer.Option(metavar="N", min=32, help="Input side in pixels.")] = 640,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images a pass.")] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed passes of each network.")] = 20,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time three tasks in one network against detection alone and against three networks.

    The passes of all networks are interleaved, so that a busy moment of the machine hits all alike; medians are shown.
    """
    result = measure(model, size, batch, repeats, device)
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)


@app.command()
def fold(
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model file (YAML).")] = "unified-n",
    latents: Annotated[
        str | None, typer.Option(metavar="NAME|RULES", help="Such as yolor; the model's own if not given.")
    ] = None,
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Kinds of task.")] = ",".join(TASKS),
    size: Annotated[int, typer.Option(metavar="N", min=32, help="Input side in pixels.")] = 640,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images a pass.")] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed passes of each network.")] = 100,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a network with its latents and with its latents folded against the same network without any.

    The passes are interleaved; ratios of medians are shown. Folded latents cost nothing: 1.00.
    """
    result = measure_fold(model, latents, split_names(tasks) or (), size, batch, repeats, device)
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)
        for line in result["kept"]:
            print(f"kept as a constant: {line}")


@app.command()
def data(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Any setting of training, such as mosaic=1 or cache_gb=2."),
    ] = None,
    data: Annotated[str, typer.Option(metavar="NAME|FILE", help="Data file (YAML) or dataset.")] = "shapes",
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Recipe (YAML) that says how pictures are changed.")
    ] = None,
    size: Annotated[int, typer.Option(metavar="N", min=32, help="Input side in pixels.")] = 640,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images a batch.")] = 16,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Loader processes.")] = 2,
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Images timed at each stage.")] = 256,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Times that each stage is measured.")] = 3,
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model file (YAML) of the steps.")] = "unified-s",
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Kinds of task of the steps.")] = ",".join(TASKS),
    steps: Annotated[int, typer.Option(metavar="N", min=0, help="Training steps timed; 0: none.")] = 0,
    step_size: Annotated[int, typer.Option(metavar="N", min=32, help="Input side of the steps.")] = 320,
    step_workers: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Loader processes of the steps; training's own choice.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time how pictures are decoded, transformed and delivered, and how long training steps wait for them.

    The floor is what torchvision alone needs to decode and resize one picture an image; a mosaic decodes four.
    Processor time an image is shown beside the pace, for machines that are busy with other things.
    """
    import dataclasses

    from unified.contracts.config import RunConfig
    from unified.contracts.document import load_run_config
    from unified.training.pace import measure_stages, measure_wait

    def configured(side: int) -> tuple[RunConfig, Path]:
        options = {"train.size": side, "train.batch": batch, "train.device": device}
        names = split_names(tasks) or ()
        return load_run_config(
            model=model, data=data, tasks=names, recipe=recipe, overrides=settings or [], options=options
        )

    stages = measure_stages(*configured(size), images, workers, repeats)
    wait = measure_wait(*configured(step_size), steps, step_workers) if steps else None
    result = {
        "data": data,
        "size": size,
        "batch": batch,
        "workers": workers,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "steps": dataclasses.asdict(wait) if wait else None,
    }
    if as_json:
        print(json.dumps(result))
    else:
        _print_pace(result, f"{model}, {step_size} px, batch {batch}")


@app.command()
def save(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Any setting of training, such as save_minutes=1."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME|FILE", help="Model file (YAML).")] = "unified-n",
    data: Annotated[str, typer.Option(metavar="NAME|FILE", help="Data file (YAML) or dataset.")] = "shapes",
    tasks: Annotated[str, typer.Option(metavar="A,B", help="Kinds of task.")] = ",".join(TASKS),
    size: Annotated[int, typer.Option(metavar="N", min=32, help="Input side in pixels.")] = 320,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images a step.")] = 16,
    saves: Annotated[int, typer.Option(metavar="N", min=1, help="Saves timed.")] = 5,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps timed between them.")] = 5,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps.")] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time what saving checkpoints beside the training costs it, at the interval of the settings."""
    import dataclasses

    from unified.contracts.document import load_run_config
    from unified.training.toll import measure_toll

    names, options = split_names(tasks) or (), {"train.size": size, "train.batch": batch, "train.device": device}
    given = load_run_config(model=model, data=data, tasks=names, overrides=settings or [], options=options)
    toll = measure_toll(*given, saves, steps)
    if as_json:
        print(json.dumps({**dataclasses.asdict(toll), "share": toll.share}))
        return
    of = f"a checkpoint has {toll.bytes / 1e6:.1f} MB, a step takes {toll.step:.2f} s"
    print(f"{model}, {size} px, batch {batch}, {device}: {of}")
    print(f"a save: {1e3 * toll.copied:.0f} ms copied in the step, {1e3 * toll.written:.0f} ms written beside")
    print(f"it adds {1e3 * toll.added:.0f} ms to the training (steps run beside it: {toll.steps_slowed})")
    print(f"waiting for the disk instead would take {1e3 * toll.in_turn:.0f} ms")
    print(f"one every {toll.interval / 60:.1f} minutes: {toll.share:.2%} of the time")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def measure(model: str, size: int, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """Median milliseconds of a forward pass by network, and the two ratios."""
    import torch

    from unified.hardware import pick
    from unified.model.build import create_model

    sets = {"three tasks": TASKS, **{f"{task} only": (task,) for task in TASKS}}
    place = pick(device, "fp32").place
    networks = {name: place(create_model(model, tasks=tasks)).eval() for name, tasks in sets.items()}
    images = _pictures(batch, size, device)
    calls = {name: (lambda network=network: network(images)) for name, network in networks.items()}
    times = interleaved(calls, repeats, images.device)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    return {
        "model": model,
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "device": device,
        "threads": torch.get_num_threads(),
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "parameters": parameters,
        "ratios": {name: round(value, 3) for name, value in ratios(times).items()},
        "targets": TARGETS,
    }


def measure_fold(
    model: str, latents: str | None, tasks: Sequence[str], size: int, batch: int, repeats: int, device: str
) -> dict[str, Any]:
    """Median milliseconds of a forward pass without latents, with them and with them folded, and their ratios."""
    import torch

    from unified.contracts.errors import ConfigError
    from unified.hardware import pick
    from unified.model.build import create_model
    from unified.model.latents.fold import fold

    place = pick(device, "fp32").place
    plain, bent = (place(create_model(model, tasks, latents=words)).eval() for words in ("none", latents))
    if not any(bent.bank.entries()):
        raise ConfigError(f"model '{model}' has no latents to fold; name some, such as --latents yolor")
    plain.load_state_dict(bent.state_dict(), strict=False)
    folded = fold(bent)
    networks = {PLAIN: plain, UNFOLDED: bent, FOLDED: place(folded.network)}
    images = _pictures(batch, size, device)
    calls = {name: (lambda network=network: network(images)) for name, network in networks.items()}
    medians = {n: statistics.median(v) * 1e3 for n, v in interleaved(calls, repeats, images.device).items()}
    return {
        "model": model,
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "device": device,
        "threads": torch.get_num_threads(),
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()},
        "ratios": {f"{name} / {PLAIN}": round(medians[name] / medians[PLAIN], 4) for name in (UNFOLDED, FOLDED)},
        "targets": {f"{FOLDED} / {PLAIN}": 1.0},
        "kept": [f"{k.task} {k.site} {k.operator}: {k.reason}" for k in folded.kept],
    }


def _pictures(batch: int, size: int, device: str) -> torch.Tensor:
    """Noise (batch, 3, size, size) in the layout that training and prediction use."""
    import torch

    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(device, memory_format=torch.channels_last)


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call, one of each in turn; the first two rounds warm up and are not counted.

    Every round has an order of its own, so that none always runs in the wake of the same neighbour.
    """
    import torch

    times: dict[str, list[float]] = {name: [] for name in calls}
    order, dice = list(calls), random.Random(0)
    with torch.inference_mode():
        for turn in range(-2, repeats):
            dice.shuffle(order)
            for name in order:
                start = time.perf_counter()
                calls[name]()
                _finish(device)
                if turn >= 0:
                    times[name].append(time.perf_counter() - start)
    return times


def ratios(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians of the ratios within a round; a round's passes stand side by side in time."""
    joint_times, alone = times["three tasks"], [times[f"{task} only"] for task in TASKS]
    to_detection = [a / b for a, b in zip(joint_times, alone[0], strict=True)]
    to_three = [a / sum(three) for a, three in zip(joint_times, zip(*alone, strict=True), strict=True)]
    return dict(zip(TARGETS, (statistics.median(to_detection), statistics.median(to_three)), strict=True))


def _finish(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _print(result: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{result['model']}, {result['size']} px, batch {result['batch']}, {result['device']}"
    table = Table("network", "parameters", "forward pass", title=f"{title}, {result['threads']} threads")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in result["milliseconds"].items():
        table.add_row(name, f"{result['parameters'][name]:,}", f"{value:.1f} ms")
    table.add_section()
    for name, value in result["ratios"].items():
        target = result["targets"].get(name)
        table.add_row(name, "" if target is None else f"target {target:.2f}", f"{value:.3f}")
    Console().print(table)


def _print_pace(result: Mapping[str, Any], steps: str) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{result['data']}, {result['size']} px, batch {result['batch']}"
    table = Table("stage", "processes", "images/s", "per process", "processor", "range", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in result["stages"]:
        rate, many = stage["images_per_second"], stage["processes"]
        between = f"{stage['slowest']:.0f} - {stage['fastest']:.0f}"
        table.add_row(
            stage["name"], str(many), f"{rate:.0f}", f"{rate / many:.0f}", f"{stage['milliseconds']:.1f} ms", between
        )
    Console().print(table)
    if wait := result["steps"]:
        print(
            f"{wait['steps']} training steps of {steps}: {wait['seconds']:.2f} s a step, "
            f"{wait['share']:.1%} of it waiting for data (the longest wait {wait['longest']:.3f} s)"
        )
