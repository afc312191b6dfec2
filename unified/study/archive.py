# SPDX-License-Identifier: Apache-2.0
"""What a comparison leaves behind: raw numbers, table, picture and page, all from the same results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from unified.checkpoint import write_bytes
from unified.contracts.errors import DataError
from unified.study.comparison import Comparison
from unified.study.forest import draw_forest
from unified.study.page import page
from unified.study.result import Result
from unified.study.table import csv_text, footnotes, rich_tables

WIDTH = 160  # columns of the table as a text file


@dataclass(frozen=True)
class Archive:
    """A study in full: what was asked, what every training said, and what it cost."""

    name: str
    title: str
    question: str
    command: str
    results: tuple[Result, ...]
    study: Mapping[str, Any] = field(default_factory=dict)  # the design, as it was run
    latency: Mapping[str, Any] = field(default_factory=dict)  # see ``unified-ablate``

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "results": [result.as_json() for result in self.results]}

    @classmethod
    def read(cls, path: Path) -> Archive:
        """An archive that was written before.

        Raises:
            DataError: the file is no archive.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**told, "results": tuple(Result.from_json(result) for result in told["results"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"'{path}' is not the archive of a study ({error})") from error


def leave(archive: Archive, found: Comparison, folder: Path, conflict: Sequence[Path] = ()) -> list[Path]:
    """Writes ``NAME.json`` (raw numbers), ``.csv``, ``.txt``, ``.png`` and ``.md`` into a folder; returns the files.

    Args:
        conflict: pictures of conflict maps that stand in the folder already, for the page.
    """
    stem = folder / archive.name
    text = StringIO()
    console = Console(file=text, width=WIDTH, color_system=None)
    console.print(*rich_tables(found, archive.title))
    for line in footnotes(found):
        console.print(line, soft_wrap=True, highlight=False)
    files = {
        ".json": json.dumps(archive.as_json(), indent=1, sort_keys=True) + "\n",
        ".csv": csv_text(found),
        ".txt": "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n",
        ".md": page(archive, found, [path.name for path in conflict]),
    }
    for suffix, content in files.items():
        write_bytes(stem.with_name(stem.name + suffix), content.encode())
    picture = draw_forest(found, stem.with_name(f"{stem.name}.png"), archive.title)
    return [*(stem.with_name(stem.name + suffix) for suffix in files), picture]
