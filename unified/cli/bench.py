# SPDX-License-Identifier: Apache-2.0
"""``unified-bench``: what one shared trunk costs against separate networks, measured on this machine."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run

if TYPE_CHECKING:
    import torch

TASKS = ("det", "cls", "emb")
TARGETS = {"three tasks / detection only": 1.15, "three tasks / three networks": 0.45}

app = make_app()


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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def measure(model: str, size: int, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """Median milliseconds of a forward pass by network, and the two ratios."""
    import torch

    from unified.model.build import create_model

    sets = {"three tasks": TASKS, **{f"{task} only": (task,) for task in TASKS}}
    networks = {name: create_model(model, tasks=tasks).to(device).eval() for name, tasks in sets.items()}
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
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


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call, one of each in turn; the first two rounds warm up and are not counted."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for turn in range(-2, repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
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
        table.add_row(name, f"target {result['targets'][name]:.2f}", f"{value:.2f}")
    Console().print(table)
