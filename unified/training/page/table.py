# SPDX-License-Identifier: Apache-2.0
"""A table that a person can sort."""

from __future__ import annotations

from html import escape

from unified.contracts.section import Column, Table
from unified.training.page.scale import number

TALL = 16  # rows, from which a table scrolls in a frame of its own


def table(part: Table) -> str:
    """A figure: title, table, bars."""
    if not part.rows:
        return ""
    title = f"<figcaption>{escape(part.title)}</figcaption>" if part.title else ""
    note = f'<p class="soft">{escape(part.note)}</p>' if part.note else ""
    head = "".join(_head(column) for column in part.columns)
    body = "".join(_row(part, row) for row in part.rows)
    tall = " tall" if len(part.rows) > TALL else ""
    return (
        f'<figure class="table">{title}{note}<div class="scroll{tall}" tabindex="0" role="region" aria-label="table">'
        f'<table class="sorts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def _head(column: Column) -> str:
    kind = "text" if column.kind == "text" else "num"
    told = f' title="{escape(column.meaning)}"' if column.meaning else ""
    return f'<th scope="col" class="{kind}"{told}><button type="button">{escape(column.name)}</button></th>'


def _row(part: Table, row: tuple[str | float | None, ...]) -> str:
    cells = "".join(
        _cell(column, value, k == 0) for k, (column, value) in enumerate(zip(part.columns, row, strict=False))
    )
    return f'<tr data-name="{escape(str(row[0]))}">{cells}</tr>' if row else ""


def _cell(column: Column, value: str | float | None, first: bool) -> str:
    if isinstance(value, str) or column.kind == "text":
        tag = 'th scope="row"' if first else "td"
        return f'<{tag} class="text">{escape(str("" if value is None else value))}</{tag.split()[0]}>'
    if value is None:
        return '<td class="num" data-v="">–</td>'
    told = f"{value:.3f}" if column.kind == "share" else f"{value:.2f}" if column.kind == "number" else number(value)
    bar = f'<i class="bar" style="--w:{100 * min(max(value, 0.0), 1.0):.1f}%"></i>' if column.bar else ""
    kind = "num barred" if column.bar else "num"
    return f'<td class="{kind}" data-v="{value:.6g}">{bar}<span>{told}</span></td>'
