# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison: for a terminal, for a spreadsheet, for a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from unified.study.comparison import Comparison, Row
from unified.study.statistics import LEAST, Interval

GOOD, BAD, SOFT = "green", "red", "bright_black"
DASH = "–"
WIDE = 118  # columns of one table for all
COSTS = ("params\nM", "in z\n ", "forward\nGFLOPs", "images\nseen")


def rich_tables(found: Comparison, title: str = "", width: int = WIDE) -> list[Table]:
    """For a terminal: scores in per cent with the relative change below each, and costs.

    A narrow one gets two tables, and intervals of delta m alone.
    """
    if width >= WIDE:
        return [_table(found, title, [*_score_columns(found), *COSTS], lambda row: [*_scores(row), *_costs(row)])]
    return [
        _table(found, title, _score_columns(found), lambda row: _scores(row, brief=True)),
        _table(found, "", list(COSTS), _costs),
    ]


def _table(found: Comparison, title: str, columns: Sequence[str], cells: Callable[[Row], list[Text]]) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    table.add_column("", min_width=min(22, max(len(row.arm) for row in found.rows)))
    for name in columns:
        table.add_column(name, justify="right", vertical="top")
    for row in found.rows:
        table.add_row(_who(row, found.baseline), *cells(row), end_section=row.arm == found.baseline)
    return table


def _who(row: Row, baseline: str) -> Text:
    name = Text(row.arm, style="bold")
    if row.networks > 1:
        name.append(f"\n{row.networks} networks", style=SOFT)
    elif row.arm == baseline:
        name.append("\nthe baseline", style=SOFT)
    return name


def _score_columns(found: Comparison) -> list[str]:
    return [*(f"{task}\n{found.primary[task]}" for task in found.tasks), "Δm\n%", "worst\n%"]


def _scores(row: Row, brief: bool = False) -> list[Text]:
    worst = Text(DASH, style=SOFT)
    if row.worst:
        worst = _coloured(row.worst[1], brief)
        worst.append(f"\n{row.worst[0]}", style=SOFT)
    delta = _coloured(row.delta) if row.delta else Text(DASH, style=SOFT)
    return [*(_score(row.scores[task], row.relative.get(task), brief) for task in row.scores), delta, worst]


def _costs(row: Row) -> list[Text]:
    counts = f"{row.parameters / 1e6:.3f}", f"{row.latents:,}", f"{row.flops / 1e9:.3f}", f"{row.images:,}"
    return [Text(count) for count in counts]


def _score(score: Interval, change: Interval | None, brief: bool) -> Text:
    text = Text(f"{100 * score.mean:.2f}")
    if score.half is not None and not brief:
        text.append(f" ±{100 * score.half:.2f}", style=SOFT)
    if change is not None:
        text.append("\n")
        text.append_text(_coloured(change, brief))
    return text


def _coloured(change: Interval, brief: bool = False) -> Text:
    """Green or red only where the interval does not hold zero."""
    sure = change.half is not None and (change.low > 0 or change.high < 0)
    style = (GOOD if change.mean > 0 else BAD) if sure else ""
    return Text(f"{change.mean:+.2f}" if brief else percent(change), style=style)


def percent(change: Interval) -> str:
    """``+0.41 ±0.20``, in per cent."""
    half = "" if change.half is None else f" ±{change.half:.2f}"
    return f"{change.mean:+.2f}{half}"


def footnotes(found: Comparison) -> list[str]:
    """What the table does not say itself."""
    many = len(found.seeds)
    seeds = f"{many} seeds ({', '.join(map(str, found.seeds))})" if many > 1 else f"one seed ({found.seeds[0]})"
    how = "± is the half of a 95 % t-interval over seeds" if many > 1 else "no interval: nothing is known of its spread"
    lines = [f"Scores in per cent, {seeds}; {how}. Changes are relative to '{found.baseline}', seed by seed."]
    row = found.row(found.baseline)
    lines.append(f"Images with labels seen by every arm: {', '.join(f'{t} {n:,}' for t, n in row.labelled.items())}.")
    nothing = [task for task in found.tasks if min(map(abs, row.scores[task].values)) < LEAST]
    if nothing:
        lines.append(f"The baseline scores 0 in {', '.join(nothing)}: no relative change, no delta m; train longer.")
    lines += [f"'{row.arm}' differs in {', '.join(row.differs)}." for row in found.rows if row.differs]
    lines += [f"Left out: {line}" for line in found.left_out]
    return lines


HEAD: tuple[str, ...] = (
    "arm",
    "seed",
    "task",
    "score",
    "value",
    "change_percent",
    "delta_m_percent",
    "parameters",
    "latents",
)
HEAD += ("flops", "images", "images_with_labels", "seconds", "rules")


def csv_text(found: Comparison) -> str:
    """One line for every arm, seed and task."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    for row in found.rows:
        for k, seed in enumerate(found.seeds):
            for task in found.tasks:
                change = f"{row.relative[task].values[k]:.4f}" if task in row.relative else ""
                delta = f"{row.delta.values[k]:.4f}" if row.delta else ""
                value = f"{row.scores[task].values[k]:.6f}"
                costs = (row.parameters, row.latents, row.flops, row.images, row.labelled[task], f"{row.seconds:.1f}")
                writer.writerow((row.arm, seed, task, found.primary[task], value, change, delta, *costs, row.rules))
    return stream.getvalue()


def as_json_rows(found: Comparison) -> dict[str, Any]:
    """For another program: every arm's scores and delta m, seed by seed."""
    rows = {
        row.arm: {
            "scores": {task: list(score.values) for task, score in row.scores.items()},
            "delta_m": list(row.delta.values) if row.delta else None,
            "parameters": row.parameters,
            "flops": row.flops,
        }
        for row in found.rows
    }
    return {"baseline": found.baseline, "seeds": list(found.seeds), "arms": rows}


def markdown_table(found: Comparison) -> str:
    """For a page."""
    head = ["", *(f"{task} ({found.primary[task]})" for task in found.tasks), "Δm, %", "worst task, %"]
    head += ["parameters, M", "in z", "GFLOPs", "images seen"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in found.rows:
        scores = [_plain(row.scores[task], row.relative.get(task)) for task in found.tasks]
        worst = f"{row.worst[0]} {percent(row.worst[1])}" if row.worst else DASH
        name = f"**{row.arm}**" + (f" ({row.networks} networks)" if row.networks > 1 else "")
        costs = [f"{row.parameters / 1e6:.3f}", f"{row.latents:,}", f"{row.flops / 1e9:.3f}", f"{row.images:,}"]
        lines.append(_line([name, *scores, percent(row.delta) if row.delta else DASH, worst, *costs]))
    return "\n".join(lines)


def _plain(score: Interval, change: Interval | None) -> str:
    half = "" if score.half is None else f" ±{100 * score.half:.2f}"
    more = f"<br>{percent(change)}" if change else ""
    return f"{100 * score.mean:.2f}{half}{more}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace(" ±", "\u00a0±") for cell in cells) + " |"  # one line, however narrow
