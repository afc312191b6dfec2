# SPDX-License-Identifier: Apache-2.0
"""A matrix of counts, each cell as dark as its share of its row."""

from __future__ import annotations

from html import escape

from unified.contracts.section import Matrix

CROWDED = 20  # columns, from which cells are small


def matrix(part: Matrix) -> str:
    """A figure: a table whose cells are coloured, the diagonal in another colour."""
    if not part.rows:
        return ""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in part.columns)
    rows = "".join(_row(part, k) for k in range(len(part.rows)))
    kind = "cross many" if len(part.columns) > CROWDED else "cross"
    note = f"; {escape(part.note)}" if part.note else ""
    said = f"rows: {escape(part.row_name)}, columns: {escape(part.column_name)}; shares of a row{note}"
    return (
        f'<figure class="table"><figcaption>{escape(part.title)}</figcaption><p class="soft">{said}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(part.title)}"><table class="{kind}">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div></figure>"
    )


def _row(part: Matrix, k: int) -> str:
    counts = part.counts[k]
    total = max(sum(counts), 1)
    cells = "".join(_cell(part, k, j, count, count / total) for j, count in enumerate(counts))
    return f'<tr><th scope="row">{escape(part.rows[k])}</th>{cells}</tr>'


def _cell(part: Matrix, k: int, j: int, count: int, share: float) -> str:
    true, said = part.rows[k], part.columns[j] if j < len(part.columns) else ""
    if not count:
        return "<td></td>"
    kind = "own" if true == said else "off"
    dark = " dark" if share > 0.55 else ""
    told = f"{part.row_name} {true}, {part.column_name} {said}: {count:,} ({share:.0%})"
    return f'<td class="{kind}{dark}" style="--s:{share:.3f}" title="{escape(told)}">{count:,}</td>'
