# SPDX-License-Identifier: Apache-2.0
"""The whole page, made of what lies in a run's folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from unified.contracts.errors import CheckpointError
from unified.contracts.section import Chart, Gallery, Histogram, Matrix, Part, Scatter, Section, Table
from unified.disk import write_bytes
from unified.training.page.chart import chart
from unified.training.page.circumstances import data, faults, sittings
from unified.training.page.conflicts import conflicts
from unified.training.page.drift import drifts, section
from unified.training.page.gallery import gallery
from unified.training.page.histogram import histogram
from unified.training.page.latents import read_values
from unified.training.page.log import RunLog, read_log
from unified.training.page.matrix import matrix
from unified.training.page.progress import loss_charts, pace_charts, score_charts
from unified.training.page.record import Record, read_record
from unified.training.page.scatter import scatter
from unified.training.page.script import SCRIPT
from unified.training.page.style import STYLE
from unified.training.page.summary import header, headline
from unified.training.page.table import table

NAME = "report.html"

_DRAWERS: dict[type[Any], Callable[[Any], str]] = {
    Table: table,
    Chart: chart,
    Histogram: histogram,
    Matrix: matrix,
    Scatter: scatter,
    Gallery: gallery,
}

_PREDICTIONS = (
    '<div class="tools"><span><span class="swatch"></span>said</span>'
    '<label><input type="checkbox" checked><span class="swatch truth"></span>true</label>'
    '<label>least score <input type="range" min="0.1" max="0.95" step="0.05" value="0.3"><output>0.30</output></label>'
    "</div>"
)
_MISTAKES = (
    '<p class="soft"><span class="swatch"></span>said <span class="swatch truth"></span>true '
    '<span class="swatch wrong"></span>wrong <span class="swatch missed"></span>missed</p>'
)


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into a run's folder, of what lies there; returns its path.

    Raises:
        CheckpointError: there is no run, its record is damaged, or the folder cannot be written.
    """
    if not (run / "config.yaml").is_file() and not (run / "log.jsonl").is_file():
        raise CheckpointError(f"no run at '{run}': it holds neither config.yaml nor log.jsonl")
    write_bytes(run / NAME, page(run).encode("utf-8", errors="backslashreplace"))
    return run / NAME


def page(run: Path) -> str:
    """The page as text."""
    record, log = read_record(run), read_log(run)
    chapters = [chapter for chapter in _chapters(run, record, log) if chapter[2]]
    links = "".join(f'<a href="#{ident}">{escape(title)}</a>' for ident, title, _ in chapters)
    body = "".join(f'<section id="{ident}"><h2>{escape(title)}</h2>{text}</section>' for ident, title, text in chapters)
    title, secret = run.resolve().name, base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{secret}'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><nav><div>{links}</div></nav>"
        f"<main>{header(title, _model(run), record, log)}{body}<footer>Made from this folder's files; it needs no "
        f"network.</footer></main><dialog></dialog><script>{SCRIPT}</script></body></html>\n"
    )


def _chapters(run: Path, record: Record, log: RunLog) -> Iterator[tuple[str, str, str]]:
    """(id, title, HTML) in the order of reading; those without HTML are left out."""
    yield "scores", "Scores", headline(record, log)
    yield "progress", "Progress", _parts([*score_charts(log), *loss_charts(log)])
    look = record.look
    if look and look.predictions:
        shown = gallery(look.predictions)
        yield "predictions", "Predictions", f'{_PREDICTIONS}<div class="wide">{shown}</div>' if shown else ""
    for number, (task, sections) in enumerate((look.sections if look else {}).items()):
        yield f"task-{number}", task, "".join(map(_section, sections))
    yield "latents", "Implicit knowledge", _latents(run, record)
    yield "conflicts", "Conflict", conflicts(run)
    yield "pace", "Pace", _parts(pace_charts(log))
    yield "data", "Data", data(record.data)
    yield "run", "Run", sittings(record)
    yield "notes", "Faults and notes", faults(record, log.events)


def _section(given: Section) -> str:
    text = f'<p class="soft">{escape(given.text)}</p>' if given.text else ""
    boxes = any(view.marks for part in given.parts if isinstance(part, Gallery) for row in part.rows for view in row)
    return f"<h3>{escape(given.title)}</h3>{text}{_MISTAKES if boxes else ''}{_parts(given.parts)}"


def _parts(parts: Sequence[Part] | Iterable[Chart]) -> str:
    drawn = "".join(_DRAWERS[type(part)](part) for part in parts)
    return f'<div class="parts">{drawn}</div>' if drawn else ""


def _latents(run: Path, record: Record) -> str:
    drawn = section(drifts(record.latents, read_values(run)))
    if not drawn:
        return ""
    said = (
        "Each task bends the shared features by vectors z of its own. Here is how the numbers of every z are spread, "
        "as training began and now, of the averaged network that is scored."
    )
    return f'<p class="soft">{said}</p>{drawn}'


def _model(run: Path) -> str:
    """The model's name in the run's configuration; nothing where that cannot be read."""
    path = run / "config.yaml"
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["name"] if path.is_file() else ""
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError):
        return ""
    return told if isinstance(told, str) else ""
