# SPDX-License-Identifier: Apache-2.0
"""Where every z began and where training took it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from unified.contracts.section import Column, Table
from unified.training.page.histogram import outline
from unified.training.page.record import LatentNote
from unified.training.page.scale import Scale, number
from unified.training.page.table import table

WIDTH, HEIGHT = 220, 92
BINS = (8, 36)  # fewest and most, a quarter of the width in between
DRAWN = 48  # latents with a picture of their own


@dataclass(frozen=True)
class Drift:
    """One z. All tensors are (width,)."""

    note: LatentNote
    after: Tensor
    identity: Tensor
    before: Tensor | None

    @property
    def away(self) -> float:
        """Root mean square distance from the z that changes nothing."""
        return _rms(self.after - self.identity)

    @property
    def moved(self) -> float | None:
        """Root mean square distance from where it began."""
        return None if self.before is None else _rms(self.after - self.before)


def drifts(notes: Sequence[LatentNote], values: Mapping[str, Tensor]) -> list[Drift]:
    """Every z that has numbers."""
    found = []
    for note in notes:
        after, identity = values.get(f"after/{note.key}"), values.get(f"identity/{note.key}")
        before = values.get(f"before/{note.key}")
        if after is None or identity is None or after.shape != identity.shape or not len(after):
            continue
        found.append(
            Drift(note, after, identity, before if before is not None and before.shape == after.shape else None)
        )
    return found


def section(found: Sequence[Drift]) -> str:
    """Pictures of every z, task by task, and a table of how far each went."""
    if not found:
        return ""
    blocks = []
    shown = found[:DRAWN]
    for task in dict.fromkeys(drift.note.task for drift in shown):
        cells = "".join(_picture(drift) for drift in shown if drift.note.task == task)
        blocks.append(f'<h3>{escape(task)}</h3><div class="latents">{cells}</div>')
    more = f'<p class="soft">the first {DRAWN} of {len(found)}; the table has all</p>' if len(found) > DRAWN else ""
    key = (
        '<p class="legend"><span class="chip before"><i></i>at the start</span>'
        '<span class="chip c0"><i></i>now</span><span class="chip identity"><i></i>changes nothing</span></p>'
    )
    return f"{key}{''.join(blocks)}{more}{table(_table(found))}"


def _picture(drift: Drift) -> str:
    """Both spreads over one axis, the broken line where z changes nothing."""
    both = torch.cat([drift.after] if drift.before is None else [drift.before, drift.after])
    low, high = (float(torch.quantile(both, q)) for q in (0.005, 0.995))
    rest = float(drift.identity.median())
    low, high = min(low, rest), max(high, rest)
    margin = 0.06 * (high - low) or 0.05
    x = Scale(low - margin, high + margin, 4, WIDTH - 4)
    bins = min(max(len(drift.after) // 4, BINS[0]), BINS[1])
    edges = torch.linspace(x.low, x.high, bins + 1).tolist()
    rows = {"c0": _counts(drift.after, x, bins)}
    if drift.before is not None:
        rows = {"before": _counts(drift.before, x, bins), **rows}
    y = Scale(0.0, max(max(row) for row in rows.values()), HEIGHT - 18, 4)
    spreads = "".join(f'<path class="spread {k}" d="{outline(edges, row, x, y)}"/>' for k, row in rows.items())
    line = f'<line class="identity" x1="{x.at(rest):.1f}" x2="{x.at(rest):.1f}" y1="2" y2="{HEIGHT - 18}"/>'
    ends = (
        f'<text class="tick" x="4" y="{HEIGHT - 5}">{number(round(x.low, 3))}</text>'
        f'<text class="tick" x="{WIDTH - 4}" y="{HEIGHT - 5}" text-anchor="end">{number(round(x.high, 3))}</text>'
    )
    note = drift.note
    told = f"{note.latent}, {note.operator}, {len(drift.after)} wide"
    moved = "" if drift.moved is None else f"moved {drift.moved:.3f}, "
    return (
        f'<figure class="latent"><figcaption>{escape(note.site)} <span class="soft">{escape(told)}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(note.key)}">'
        f'<line class="rule" x1="4" x2="{WIDTH - 4}" y1="{HEIGHT - 18}" y2="{HEIGHT - 18}"/>{spreads}{line}{ends}</svg>'
        f'<p class="soft">{moved}{drift.away:.3f} from changing nothing</p></figure>'
    )


def _counts(values: Tensor, x: Scale, bins: int) -> list[float]:
    counts: list[float] = torch.histc(values.clamp(x.low, x.high), bins, x.low, x.high).tolist()
    return counts


def _table(found: Sequence[Drift]) -> Table:
    rows = []
    for drift in found:
        note, before = drift.note, drift.before
        rows.append(
            (
                f"{note.task}: {note.site}",
                f"{note.latent}, {note.operator}",
                len(drift.after),
                None if before is None else float(before.norm()),
                float(drift.after.norm()),
                None if before is None else _rms(before - drift.identity),
                drift.away,
                drift.moved,
            )
        )
    columns = (
        Column(name="z"),
        Column(name="kind"),
        Column(name="width", kind="count"),
        Column(name="norm before", kind="share", meaning="Euclidean length at the start"),
        Column(name="norm now", kind="share", meaning="Euclidean length now"),
        Column(name="from identity before", kind="share", meaning="root mean square distance from changing nothing"),
        Column(name="from identity now", kind="share", meaning="root mean square distance from changing nothing"),
        Column(name="moved", kind="share", meaning="root mean square distance between then and now"),
    )
    return Table(columns=columns, rows=tuple(rows))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
