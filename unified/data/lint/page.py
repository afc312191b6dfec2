# SPDX-License-Identifier: Apache-2.0
"""``--html``: the whole report as one page that needs no network and no other file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from unified.contracts.errors import DataError
from unified.data.lint.charts import balance, heat, histogram, state_key, states
from unified.data.lint.counts import Count
from unified.data.lint.finding import Finding
from unified.data.lint.gallery import gallery, inline
from unified.data.lint.linter import Report
from unified.data.lint.part import Part
from unified.data.lint.style import STYLE

_LINES: Final = 30  # of one fault in one file
_CLASSES: Final = 24  # in the table of co-occurrence
_PAIRS: Final = 24
_SIZES: Final = tuple(float(2 ** (k / 2)) for k in range(21))  # 1 .. 1024 pixels
_ASPECTS: Final = tuple(float(2 ** (k / 2)) for k in range(-8, 9))  # 1:16 .. 16:1
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(report: Report, path: Path) -> None:
    """Writes the page.

    Raises:
        DataError: the file cannot be written.
    """
    body = "".join((_head(report), _findings(report), *_splits(report), *_states(report), _between(report)))
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.file)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"--html {path}: cannot be written: {error.strerror}") from error


def _head(report: Report) -> str:
    found = report.findings
    refused = "training would refuse this data" if found.refused else "training would take this data"
    images = sum(len(part.examined.images.names) for part in _distinct(report))
    boxes = sum(int(part.examined.boxes.usable.sum()) for part in _distinct(report))
    classes = len({name for part in report.parts for name in part.names})
    tiles = (
        ("data sets", len({part.dataset for part in report.parts}) + len(report.drawn)),
        ("images", images),
        ("boxes", boxes),
        ("classes", classes),
        ("errors", found.number("error")),
        ("warnings", found.number("warning")),
        ("notes", found.number("note")),
    )
    shown = "".join(f'<div class="tile {word}"><b>{count:,}</b><span>{word}</span></div>' for word, count in tiles)
    verdict = f'<span class="verdict {"bad" if found.refused else "good"}">{refused}</span>'
    return f"<header><h1>{escape(report.file)}</h1>{verdict}</header><section class='tiles'>{shown}</section>"


def _distinct(report: Report) -> list[Part]:
    """Parts, each file once."""
    return list({id(part.examined): part for part in report.parts}.values())


def _findings(report: Report) -> str:
    if not len(report.findings):
        return "<section><h2>Findings</h2><p>Nothing is wrong that can be seen from here.</p></section>"
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.file, finding.fault), []).append(finding)
    blocks: list[str] = []
    for (file, fault), lines in groups.items():
        count, first = report.findings.counts[file, fault], lines[0]
        rows = "".join(
            f"<tr><td>{escape(line.record)}</td><td>{escape(line.field)}</td><td>{escape(line.reason)}</td></tr>"
            for line in lines[:_LINES]
        )
        more = f'<p class="soft">and {count - _LINES:,} more</p>' if count > _LINES else ""
        opened = " open" if first.severity == "error" and len(blocks) < 6 else ""
        blocks.append(
            f'<details{opened}><summary><span class="badge {first.severity}">{first.severity}</span>'
            f"<b>{escape(fault)}</b> × {count:,} <code>{escape(file)}</code>"
            f'<span class="soft">{escape(first.action)}</span></summary>'
            f'<table class="lines">{rows}</table>{more}</details>'
        )
    return f"<section><h2>Findings</h2>{''.join(blocks)}</section>"


def _splits(report: Report) -> Iterator[str]:
    """A section for every data set: its samples, the shapes of its boxes, its classes."""
    for name in dict.fromkeys(part.dataset for part in report.parts):
        parts = [part for part in _distinct(report) if part.dataset == name]
        yield f"<section><h2>{escape(name)}</h2>"
        for part in parts:
            numbers = f"{len(part.examined.images.names):,} images, {int(part.examined.boxes.usable.sum()):,} boxes"
            yield f'<h3>{part.split} <span class="soft">{numbers}, {escape(part.file)}</span></h3>'
            yield gallery(part, report.findings)
            yield _shapes(part)
        yield _classes(parts) + "</section>"


def _shapes(part: Part) -> str:
    boxes = part.examined.boxes
    usable = boxes.usable & (boxes.xywh[:, 2:] > 0).all(axis=1)
    if not usable.any():
        return ""
    sides = boxes.xywh[usable, 2:]
    per_image = np.bincount(boxes.image[usable], minlength=len(part.examined.images.names)).astype(np.float64)
    most = 4 * math.ceil(min(max(per_image.max(), 4), 24) / 4)
    charts = (
        histogram(np.sqrt(sides.prod(axis=1)), _SIZES, "box size: square root of its area", "px"),
        histogram(sides[:, 0] / sides[:, 1], _ASPECTS, "box aspect, width over height", ""),
        histogram(per_image, [float(k) for k in range(most + 1)], "boxes of an image", ""),
    )
    return f'<div class="charts">{"".join(charts)}</div>'


def _classes(parts: list[Part]) -> str:
    """Class balance over the splits, and which classes are seen together."""
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    if not names:
        return ""
    sides = [(part.split, [part.box_counts.get(name, 0) for name in names]) for part in parts]
    together = sum((_together(part, names) for part in parts), np.zeros((len(names),) * 2, np.int64))
    shown = np.argsort(-together.diagonal(), kind="stable")[:_CLASSES]
    table = heat([names[k] for k in shown], together[np.ix_(shown, shown)]) if len(names) > 1 else ""
    rest = f'<p class="soft">the {_CLASSES} most frequent of {len(names)}</p>' if len(names) > _CLASSES else ""
    seen = f"<h3>Seen together <span class='soft'>images that show both</span></h3>{table}{rest}" if table else ""
    return f"<h3>Class balance <span class='soft'>boxes</span></h3>{balance(names, sides)}{seen}"


def _together(part: Part, names: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(K, K): images that show both classes; on the diagonal those that show the one."""
    boxes, place = part.examined.boxes, {name: k for k, name in enumerate(names)}
    own = np.array([place[name] for name in part.names], dtype=np.int64)
    rows = boxes.usable & boxes.sure
    shows = np.zeros((len(part.examined.images.names), len(names)), dtype=np.float32)
    shows[boxes.image[rows], own[boxes.label[rows]] if len(own) else []] = 1
    return (shows.T @ shows).astype(np.int64)


def _states(report: Report) -> Iterator[str]:
    """What every task is told of every class."""
    if not any(counts.rows for counts in report.counts):
        return
    yield f"<section><h2>Label states</h2><p class='soft'>{state_key()}</p>"
    for counts in report.counts:
        for task in dict.fromkeys(row.task for row in counts.rows):
            rows = [row for row in counts.rows if row.task == task]
            over = f"{counts.images:,} images" + (f" of {counts.total:,}" if counts.images < counts.total else "")
            yield (
                f"<details{' open' if len(rows) <= 12 else ''}><summary><b>{escape(task)}</b> in "
                f'{escape(rows[0].dataset)}, {rows[0].split} <span class="soft">{over}</span>'
                f"{states(np.sum([row.images for row in rows], axis=0).tolist())}</summary>"
                f'<div class="scroll"><table class="states">{"".join(map(_state_row, rows))}</table></div></details>'
            )
    yield "</section>"


def _state_row(row: Count) -> str:
    told = f"{row.boxes:,} boxes" if row.boxes else ""
    return f'<tr><th>{escape(row.word)}</th><td>{states(row.images)}</td><td class="num">{told}</td></tr>'


def _between(report: Report) -> str:
    """Classes and pictures that several data sets or both splits have."""
    text = ""
    if report.shared:
        rows = "".join(
            f"<tr><th>{escape(shared.word)}</th>"
            + "".join(
                f"<td>{escape(name)}: {count:,}{'' if shared.labelled[name] else ' (not labelled)'}</td>"
                for name, count in shared.boxes.items()
            )
            + "</tr>"
            for shared in report.shared
        )
        text += f'<section><h2>Classes in common</h2><table class="lines">{rows}</table></section>'
    pairs = [pair for pair in report.pairs if not pair.same]
    if report.looked:
        shown = "".join(_pair(pair.train, pair.val, pair.bits) for pair in pairs[:_PAIRS])
        more = f", the first {_PAIRS}" if len(pairs) > _PAIRS else ""
        text += (
            f"<section><h2>Near-duplicates between train and val</h2><p class='soft'>{len(pairs)} found{more}; "
            f"compared {escape(report.looked)}</p><div class='pairs'>{shown}</div></section>"
        )
    return text


def _pair(train: Path, val: Path, bits: int) -> str:
    figures = []
    for side, path in (("train", train), ("val", val)):
        if (picture := inline(path, 160)) is not None:
            figures.append(f'<div><img src="{picture[0]}" alt=""><span>{side}: {escape(path.name)}</span></div>')
    return f"<figure>{''.join(figures)}<figcaption>{bits} of 64 bits differ</figcaption></figure>"
