# SPDX-License-Identifier: Apache-2.0
"""One split of one data set under the linter: its records, examined, and the split as training opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import DatasetConfig, SplitConfig
from unified.contracts.errors import DataError, UnifiedError
from unified.contracts.protocols import datasets
from unified.contracts.source import shown_path
from unified.data.formats.flaw import Collector, Flaw, Place
from unified.data.lint.annotations import check_annotations
from unified.data.lint.boxes import Boxes
from unified.data.lint.categories import Classes, check_categories, told_unused
from unified.data.lint.faults import ELSEWHERE
from unified.data.lint.finding import Elsewhere, Findings
from unified.data.lint.images import Images, check_images
from unified.data.lint.pictures import Depth, check_pictures
from unified.data.lint.sheet import Sheet, lay_out, parse
from unified.data.lint.table import sheet_of
from unified.data.lint.words import box_aliases
from unified.data.location import locate
from unified.data.source import Source, Split, open_source

_OF_WORDS: Final = ("classes-malformed", "column-missing")  # faults that leave nothing to count
SPLITS: Final[tuple[Split, ...]] = ("train", "val")


@dataclass(frozen=True, eq=False)
class Examined:
    """The records of one file, read as far as they go."""

    sheet: Sheet
    images: Images
    classes: Classes
    boxes: Boxes
    sizes: NDArray[np.float64]  # (N, 2) width, height of the pictures themselves; NaN where they were not read


@dataclass(frozen=True, eq=False)
class Part:
    """One split of one data set."""

    dataset: str
    split: Split
    config: DatasetConfig
    examined: Examined
    source: Source | None = None  # None: it was not opened, or is refused
    path: Path | None = None  # of a COCO file
    flaws: tuple[Flaw, ...] = ()  # that the reader of another format found

    @property
    def file(self) -> str:
        return self.examined.sheet.file

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as the run names them; two may be one there."""
        aliases = box_aliases(self.config.aliases)
        return tuple(aliases.get(name, name) for name in self.examined.classes.names)

    @property
    def box_counts(self) -> dict[str, int]:
        """Boxes of every class by its name in the run, crowds left out."""
        boxes, names = self.examined.boxes, self.names
        found = np.bincount(boxes.label[boxes.usable & boxes.sure], minlength=len(names))
        return {name: sum(int(n) for n, other in zip(found, names, strict=True) if other == name) for name in names}

    @property
    def paths(self) -> list[Path | None]:
        """Where each image's picture is; None where its name is no good."""
        folder = self.examined.sheet.folder
        return [folder / name if name and folder else None for name in self.examined.images.names]


def lint_bytes(data: bytes, file: str, folder: Path | None = None, depth: Depth = "headers") -> Findings:
    """Faults of one COCO file on its own, whatever bytes it holds. Never raises."""
    findings = Findings()
    document = parse(data, file, findings)
    if document is not None:
        examine_document(document, file, folder, depth, findings)
    return findings


def examine_document(
    document: Mapping[str, Any],
    file: str,
    folder: Path | None,
    depth: Depth,
    findings: Findings,
    aliases: Mapping[str, str] | None = None,
) -> Examined | None:
    """One COCO object, examined; None where a list is missing. ``aliases``: the run's names for its classes."""
    sheet = lay_out(document, file, folder, findings)
    return None if sheet is None else examine(sheet, depth, findings, aliases or {})


def examine(sheet: Sheet, depth: Depth, findings: Findings, aliases: Mapping[str, str]) -> Examined:
    """Files every fault of a sheet."""
    images = check_images(sheet, findings)
    classes = check_categories(sheet, aliases, findings)
    boxes = check_annotations(sheet, images, classes, findings)
    told_unused(sheet, classes, boxes.label[boxes.usable].tolist(), findings)
    return Examined(sheet, images, classes, boxes, check_pictures(sheet, images, depth, findings))


def read_parts(name: str, config: DatasetConfig, base: Path, file: str, depth: Depth, findings: Findings) -> list[Part]:
    """Both splits of a data set as far as they can be read; what cannot is filed."""
    if config.format != "coco":
        return _read_opened(name, config, base, file, depth, findings)
    parts = _read_coco(name, config, base, depth, file, findings)
    refused = findings.refused_in(part.file for part in parts)
    if depth == "records" and (refused or not parts):
        return parts
    told = Findings() if refused else findings  # else the reader's is one more
    documents = {part.path: part.examined.sheet.document for part in parts if part.path}
    opened = {
        split: _open(name, config, split, base, file, told, Collector(documents))
        for split in SPLITS
        if offers(config, split)
    }
    return [replace(part, source=opened.get(part.split)) for part in parts]


def _shown_file(place: Place) -> str:
    return shown_path(Path(place.file)) if place.file else ""


def _open(
    name: str,
    config: DatasetConfig,
    split: Split,
    base: Path,
    file: str,
    findings: Findings,
    collector: Collector,
) -> Source | None:
    """The split as training opens it, but for what is at fault; None, and a finding, where nothing is left of it."""
    try:
        return open_source(name, config, split, base, faults=collector)
    except UnifiedError as error:
        findings.add("reader", file, f"datasets.{name}", split, " ".join(str(error).split()))
        return None


def _read_opened(
    name: str, config: DatasetConfig, base: Path, file: str, depth: Depth, findings: Findings
) -> list[Part]:
    """Data sets of other formats, from the tables that their readers make of them."""
    parts: list[Part] = []
    collector = Collector()
    for split in SPLITS:
        before = len(collector.found)
        source = _open(name, config, split, base, file, findings, collector) if offers(config, split) else None
        flaws = tuple(collector.found)[before:]
        for flaw in flaws:
            action = ELSEWHERE.get(flaw.fault, "")
            findings.add(flaw.fault, _shown_file(flaw.place), flaw.place.record, flaw.field, flaw.reason, action)
        if source is None:
            continue
        for remark in source.warnings if depth != "records" else ():  # training tells them itself
            findings.add("remark", file, f"datasets.{name}", split, remark.removeprefix(f"dataset '{name}': "))
        sheet = sheet_of(source, f"{name}/{split}", depth != "records", collector.places)
        if sheet is not None:
            told = [each for rows in (sheet.images, sheet.annotations) for each in rows.places if each is not None]
            places = {str(each): Place(_shown_file(each), each.record) for each in told}
            examined = examine(sheet, depth, Elsewhere(findings, places), box_aliases(config.aliases))
            vague = any(flaw.fault in _OF_WORDS for flaw in collector.found)
            parts.append(Part(name, split, config, examined, None if vague else source, flaws=flaws))
    return parts


def offers(config: DatasetConfig, split: Split) -> bool:
    """Whether the data set has the split; an unknown format is told when it is opened."""
    try:
        cls = datasets.get(config.format)
    except UnifiedError:
        return True
    return not issubclass(cls, Source) or cls.offers(config, split)


def _read_coco(name: str, config: DatasetConfig, base: Path, depth: Depth, file: str, findings: Findings) -> list[Part]:
    try:
        root = locate(config.path, base, name)
    except DataError as error:
        findings.add("reader", file, f"datasets.{name}", "path", str(error))
        return []
    parts: list[Part] = []
    for split in SPLITS:
        given: SplitConfig | None = getattr(config, split)
        if given is None or given.annotations is None:
            continue
        if parts and given == getattr(config, parts[0].split):
            parts.append(replace(parts[0], split=split))
            continue
        path, aliases = root / given.annotations, box_aliases(config.aliases)
        document = _read_file(path, findings)
        if document is None:
            continue
        examined = examine_document(document, shown_path(path), root / given.images, depth, findings, aliases)
        if examined is not None:
            parts.append(Part(name, split, config, examined, path=path))
    return parts


def _read_file(path: Path, findings: Findings) -> Mapping[str, Any] | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        findings.add("file-missing", shown_path(path), "", "", reason)
        return None
    return parse(data, shown_path(path), findings)
