# SPDX-License-Identifier: Apache-2.0
"""The page of a study: a template that raw numbers fill, so that no figure on it was typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unified.study.comparison import Comparison, Row
from unified.study.statistics import Interval
from unified.study.table import footnotes, markdown_table, percent

if TYPE_CHECKING:
    from unified.study.archive import Archive

GOAL = -2.0  # per cent: no task below this


def page(archive: Archive, found: Comparison, conflict: Sequence[str] = ()) -> str:
    """The page in Markdown; pictures and raw numbers stand beside it.

    Args:
        conflict: file names of conflict maps.
    """
    blocks = [
        "<!-- Written by unified-ablate from the raw numbers beside it; change those, not this. -->",
        f"# {archive.title or archive.name}",
        archive.question,
        "## What came out",
        "\n".join(f"- {line}" for line in findings(found)),
        f"![Change of every arm with its interval]({archive.name}.png)",
        markdown_table(found),
        "\n".join(f"{line}  " for line in footnotes(found)),
        *_latency(archive, found),
        *_conflict(conflict),
        "## How it was done",
        _method(archive, found),
        f"Raw numbers: [{archive.name}.json]({archive.name}.json), [{archive.name}.csv]({archive.name}.csv). "
        f"The same again:\n\n```\n{archive.command}\n```",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def findings(found: Comparison) -> list[str]:
    """What may be said, in sentences: only what an interval bears out is called a gain or a loss."""
    lines = []
    for row in found.rows:
        if row.arm != found.baseline and row.delta is None:
            lines.append(f"**{row.arm}**: no Δm, for want of a baseline above 0 in every task.")
        elif row.delta is not None and row.worst is not None:
            task, change = row.worst
            line = f"**{row.arm}**: Δm {percent(row.delta)} % ({verdict(row.delta)}); worst task {task}, "
            lines.append(f"{line}{percent(change)} %{'' if change.mean >= GOAL else f', below {GOAL:g} %'}.")
    return lines


def verdict(change: Interval) -> str:
    """In a word or two, what an interval says of a change."""
    if change.half is None:
        return "one seed: no verdict"
    if change.low > 0:
        return "a gain"
    return "a loss" if change.high < 0 else "no difference that these seeds can tell"


def _latency(archive: Archive, found: Comparison) -> list[str]:
    """One network beside many: parameters, FLOPs and time."""
    told = archive.latency
    if not told:
        return []
    base = found.row(found.baseline)
    lines = ["| | networks | parameters, M | GFLOPs | ms an image | |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in found.rows:
        if (milliseconds := told["milliseconds"].get(row.arm)) is None:
            continue
        share = milliseconds / told["milliseconds"][found.baseline]
        lines.append(
            f"| **{row.arm}** | {row.networks} | {row.parameters / 1e6:.3f} | {row.flops / 1e9:.3f} | "
            f"{milliseconds:.2f} | {share:.0%} of the time, {row.flops / base.flops:.0%} of the FLOPs |"
        )
    how = (
        f"Median of {told['repeats']} interleaved forward passes of one {told['size']} px image, latents folded, "
        f"{told['device']}, {told['threads']} thread{'' if told['threads'] == 1 else 's'}."
    )
    return ["## One network beside several", "\n".join(lines), how]


def _conflict(pictures: Sequence[str]) -> list[str]:
    if not pictures:
        return []
    shown = "\n\n".join(f"![Cosines of the tasks' gradients by stage and step]({name})" for name in pictures)
    return ["## Do the tasks disagree?", shown]


def _method(archive: Archive, found: Comparison) -> str:
    study, base = archive.study, found.row(found.baseline)
    told = {
        "data": study.get("data"),
        "model": study.get("model"),
        "recipe": study.get("recipe") or "the data's own",
        "steps": f"{study.get('steps')} of a network for all tasks",
        "settings": " ".join(study.get("settings", ())) or "none beside",
        "baseline": f"{found.baseline} ({base.networks} network{'s' if base.networks > 1 else ''})",
        "time": f"{sum(result.seconds for result in archive.results) / 60:.0f} minutes of training in all",
    }
    designs = study.get("arms") or {}
    arms = "\n".join(f"- `{row.arm}`: {_what(row, designs.get(row.arm, {}))}" for row in found.rows)
    return "\n".join(f"- {key}: {value}" for key, value in told.items()) + f"\n\nArms:\n\n{arms}"


def _what(row: Row, design: Mapping[str, Any]) -> str:
    networks = "a network for each task" if row.networks > 1 else "one network"
    block = design.get("latents")
    named = f"`{block}`: " if isinstance(block, str) and block not in (row.rules, "none") else ""
    rules = "no latents" if row.rules == "none" else f"latents {named}`{row.rules}`, {row.latents:,} numbers"
    own = " ".join(design.get("settings", ()))
    return f"{networks}, {rules}" + (f", `{own}`" if own else "")
