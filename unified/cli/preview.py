# SPDX-License-Identifier: Apache-2.0
"""The screen of a dry run: phases, groups, named steps, data, and a picture of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unified.contracts.config import AugmentConfig
from unified.training.preview import Preview

WIDTH, HEIGHT = 64, 8  # characters of the picture
COLUMNS = 4  # of learning rates that differ by group, at most
EIGHTHS = " ▁▂▃▄▅▆▇█"
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")  # of phases, in turn

_SOFT, _STRONG = "dim", "bold cyan"


def show(preview: Preview, console: Console | None = None) -> None:
    """Prints the whole preview."""
    console = console or Console()
    fine = console.encoding.lower().startswith("utf")
    parts: list[RenderableType] = [_head(preview), _data(preview), *_schedule(preview), _phases(preview)]
    parts += [_moments(preview), _groups(preview), picture(preview, fine)]
    console.print(Group(*(Padding(part, (1, 0, 0, 0)) for part in parts)))
    for note in preview.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    console.print(Text("\ndry run: nothing was trained, no run folder was written", style="bold"))


def as_json(preview: Preview) -> dict[str, Any]:
    """The preview as plain data."""
    phases = [{**asdict(phase), "augment": phase.augment.model_dump()} for phase in preview.phases]
    moments = [
        {
            "name": moment.name,
            "step": moment.step,
            "epoch": moment.setting.epoch,
            "phase": moment.setting.phase,
            "lr": dict(moment.rates),
            "momentum": moment.momentum,
            "ema": moment.ema,
            "passes": moment.setting.passes,
            "images": moment.images,
        }
        for moment in preview.moments
    ]
    return {**asdict(preview), "phases": phases, "moments": moments}


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """A table without walls; the columns past the first ``left`` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style=_SOFT)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < left else "right", no_wrap=True)
    return table


def _head(preview: Preview) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=_SOFT)
    table.add_row("network", Text(f"{preview.model}: {preview.parameters:,} parameters, {preview.size} px"))
    passes = preview.step_images // preview.pass_images
    how = "" if passes == 1 else f" ({passes} forward passes of {preview.pass_images})"
    table.add_row("steps", f"{preview.steps:,} of {preview.step_images} images{how}: {preview.epochs:g} epochs")
    if preview.max_minutes:
        table.add_row("clock", f"{preview.max_minutes:g} minutes; a run that needs longer goes through all this faster")
    table.add_row("device", f"{preview.device}, {preview.precision}")
    return table


def _data(preview: Preview) -> RenderableType:
    whole = any(abs(part.weight - part.share) > 5e-4 for part in preview.datasets.values())
    titles = ("images", "share", *(["of gradients"] if whole else []), "each seen")
    data = _table("data", "dataset", "tasks", *titles, left=2)
    for name, part in preview.datasets.items():
        weight = [f"{part.weight:.1%}"] if whole else []
        seen = f"{part.visits:.1f} x"
        data.add_row(Text(name), ", ".join(part.tasks), f"{part.images:,}", f"{part.share:.1%}", *weight, seen)
    tasks = Text("batches that serve a task: ", style=_SOFT)
    tasks.append(", ".join(f"{name} {share:.1%}" for name, share in preview.tasks.items()), style="default")
    return Group(data, tasks)


def _schedule(preview: Preview) -> list[RenderableType]:
    """The first turns as a strip of letters, and what a schedule that changes gives; nothing with one dataset."""
    parts: list[RenderableType] = [strip(preview)] if len(preview.datasets) > 1 else []
    if preview.shifts:
        table = _table("shares from a step on", "", "step", *preview.datasets, "no turn", left=1)
        for shift in preview.shifts:
            shares = (f"{shift.shares[name]:.1%}" for name in preview.datasets)
            table.add_row("", f"{shift.step:,}", *shares, ", ".join(shift.resting) or "-")
        parts.append(table)
    return parts


def strip(preview: Preview) -> Text:
    """The datasets of the first forward passes, a letter each."""
    letters = _letters(list(preview.datasets))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(preview.datasets)}
    text = Text(f"the first {len(preview.order)} forward passes, {preview.schedule}\n", style="bold")
    for first in range(0, len(preview.order), WIDTH):
        text.append(f"{first:>8} ", style=_SOFT)
        for name in preview.order[first : first + WIDTH]:
            text.append(letters[name], style=colours[name])
        text.append("\n")
    text.append("         ")
    for name, letter in letters.items():
        text.append(f"{letter} {name}  ", style=colours[name])
    return text


def _letters(names: Sequence[str]) -> dict[str, str]:
    """A letter for each name: one of its own where that is free, any other where it is not."""
    found: dict[str, str] = {}
    for name in names:
        wanted = (*name.lower(), *"abcdefghijklmnopqrstuvwxyz0123456789")
        found[name] = next((c for c in wanted if c.isalnum() and c not in found.values()), "?")
    return found


def _phases(preview: Preview) -> Table:
    table = _table("phases", "", "epochs", "steps", "pictures", left=4)
    table.columns[3].no_wrap = False
    for number, phase in enumerate(preview.phases):
        epochs = f"{phase.epochs[0]:g} .. {phase.epochs[1]:g}"
        steps = f"{phase.first:,} .. {phase.end:,}"
        gains = "".join(f"; {name} x {gain:g}" for name, gain in phase.gains.items())
        colour = COLOURS[number % len(COLOURS)]
        table.add_row(Text(f"phase {number + 1}", style=colour), epochs, steps, pictures(phase.augment) + gains)
    return table


def pictures(augment: AugmentConfig) -> str:
    """Settings of augmentation in words; what is off is left out."""
    words = []
    if augment.mosaic:
        chance = "" if augment.mosaic == 1 else f" {augment.mosaic:g}"
        close = f" but the last {augment.close:.0%} of the run" if augment.close else ""
        words += [f"mosaic of {augment.mosaic_images}{chance}{close}"]
        words += [f"mixup {augment.mixup:g}"] if augment.mixup else []
    if augment.copy_paste:
        words += [f"copy_paste {augment.copy_paste:g} by {augment.copy_paste_by}"]
    if augment.cutout:
        words += [f"cutout {augment.cutout:g} of {augment.cutout_side:g}"]
    plain = ("scale", "translate", "rotate", "shear", "fliplr", "flipud", "multi_scale")
    words += [f"{name} {value:g}" for name in plain if (value := getattr(augment, name))]
    colours = (augment.hue, augment.saturation, augment.value)
    words += ["hsv " + "/".join(f"{value:g}" for value in colours)] if any(colours) else []
    return ", ".join(words) or "as they are"


def _moments(preview: Preview) -> Table:
    alike = _alike(preview)
    titles = ["lr" if "plain" in names else f"lr {', '.join(names)}" for names in alike]  # most groups share one rate
    table = _table("what holds when", "", "step", "epoch", *titles, "momentum", "ema", "images")
    for moment in preview.moments:
        table.add_row(
            Text(moment.name, style=COLOURS[moment.setting.phase % len(COLOURS)]),
            f"{moment.step:,}",
            f"{moment.setting.epoch:.2f}",
            *(f"{moment.rates[names[0]]:.5f}" for names in alike),
            f"{moment.momentum:.3f}",
            "off" if moment.ema is None else f"{moment.ema:.5f}",
            str(moment.images),
        )
    return table


def _alike(preview: Preview) -> list[list[str]]:
    """The optimizer's groups, those together whose rates are the same at all named steps."""
    by_rates: dict[tuple[float, ...], list[str]] = {}
    for group in preview.groups:
        rates = tuple(moment.rates[group.name] for moment in preview.moments)
        by_rates.setdefault(rates, []).append(group.name)
    columns = list(by_rates.values())
    if len(columns) <= COLUMNS:
        return columns
    whole = {group.name for group in preview.groups if group.scale == 1}  # the others' factors stand in their own table
    return [names for names in columns if whole & set(names)] or columns[:1]


def _groups(preview: Preview) -> Table:
    table = _table(f"groups of {preview.optimizer}", "group", "tensors", "numbers", "decay", "lr x")
    for group in preview.groups:
        numbers = f"{group.numbers:,}"
        table.add_row(group.name, str(group.tensors), numbers, f"{group.decay:g}", f"{group.scale:g}")
    return table


def picture(preview: Preview, fine: bool = True) -> Text:
    """The learning rate over the run, in the colours of its phases; without ``fine`` in plain ASCII."""
    heights = _columns(preview.curve, WIDTH)
    top = max(heights) or 1.0
    text = Text(f"learning rate, {preview.course}\n", style="bold")
    for row in range(HEIGHT - 1, -1, -1):
        label = f"{top * (row + 1) / HEIGHT:.2g}" if row in (HEIGHT - 1, HEIGHT // 2 - 1) else ""
        text.append(f"{label:>8} {'│' if fine else '|'}", style=_SOFT)
        for column, height in enumerate(heights):
            text.append(_cell(height / top * HEIGHT - row, fine), style=_colour(preview, column))
        text.append("\n")
    text.append(f"{'0':>8} {'└' if fine else '+'}{('─' if fine else '-') * WIDTH}\n{_ticks(preview)}", style=_SOFT)
    return text


def _columns(curve: Sequence[float], width: int) -> list[float]:
    """The curve at so many even places."""
    return [curve[(2 * k + 1) * len(curve) // (2 * width)] for k in range(width)]


def _cell(filled: float, fine: bool) -> str:
    eighths = min(8, max(0, round(8 * filled)))
    return EIGHTHS[eighths] if fine else "#" if eighths >= 4 else " "


def _colour(preview: Preview, column: int) -> str:
    step = (2 * column + 1) * preview.steps // (2 * WIDTH)
    phase = max((k for k, stretch in enumerate(preview.phases) if stretch.first <= step), default=0)
    return COLOURS[phase % len(COLOURS)]


def _ticks(preview: Preview) -> str:
    """Epochs at the phases' borders, below the picture."""
    line = "   epoch"
    for epoch in (0.0, *(phase.epochs[1] for phase in preview.phases)):
        place, word = 10 + round(WIDTH * epoch / preview.epochs), f"{epoch:g}"
        start = max(place - len(word) // 2, len(line) + 1)
        line = f"{line:<{start}}{word}"
    return line
