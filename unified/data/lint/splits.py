# SPDX-License-Identifier: Apache-2.0
"""What only shows between splits and data sets: classes in common, names that clash, pictures on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.data.lint.categories import alike_names, told_alike, undecided
from unified.data.lint.finding import Findings, shown
from unified.data.lint.likeness import Prints, fingerprints, twins
from unified.data.lint.part import Part
from unified.data.lint.pictures import told_unlisted
from unified.data.lint.sheet import listed
from unified.data.lint.words import box_aliases


@dataclass(frozen=True)
class Shared:
    """A class that several data sets have: boxes in each, and whether it claims to have looked for it."""

    word: str
    boxes: dict[str, int]
    labelled: dict[str, bool]


@dataclass(frozen=True)
class Pair:
    """A picture of train and one of val that look the same."""

    train: Path
    val: Path
    bits: int  # that differ, of 64; 0 with ``same`` for one file on both sides
    same: bool

    def as_json(self) -> dict[str, Any]:
        """For the command line's ``--json``."""
        return {"train": str(self.train), "val": str(self.val), "bits": self.bits, "same_file": self.same}


def check_between(
    parts: Sequence[Part], file: str, compare: int | None, unlisted: bool, findings: Findings
) -> tuple[tuple[Shared, ...], tuple[Pair, ...], str]:
    """Files what parts disagree on. Returns classes in common, pictures in common, and how many were compared."""
    _check_names(parts, findings)
    for name in dict.fromkeys(part.dataset for part in parts):
        _check_classes([part for part in parts if part.dataset == name], findings)
    if unlisted:
        _check_folders(parts, findings)
    pairs, looked = _check_pictures(parts, file, compare, findings)
    return _shared(parts), pairs, looked


def _check_names(parts: Sequence[Part], findings: Findings) -> None:
    """Names of one class across data sets. Those within one file were told with the file: the same line again."""
    first: dict[str, str] = {}
    for part in parts:
        for name in undecided(part.examined.classes.names, box_aliases(part.config.aliases)):
            first.setdefault(name, part.file)
    told_alike(first, findings)


def _check_classes(parts: Sequence[Part], findings: Findings) -> None:
    """Classes of a data set that one of its splits lacks."""
    by_split = {part.split: part for part in parts}
    train, val = by_split.get("train"), by_split.get("val")
    if train is None or val is None or train.examined is val.examined:
        return
    there = train.box_counts
    in_val = {word: n for word, n in val.box_counts.items() if n}
    alike = {name for pair in alike_names({**there, **in_val}) for name in pair[:2]}  # told as such
    lost = [word for word in in_val if word not in there and word not in alike]
    if lost:
        reason = f"classes with boxes in val that train does not name: {listed(lost)}"
        findings.add("class-only-in-val", val.file, "", "categories", reason)
    idle = [word for word in in_val if there.get(word) == 0]
    if idle and sum(there.values()):
        reason = f"classes with boxes in val and none in train: {listed(idle)}"
        findings.add("class-without-train-box", val.file, "", "categories", reason)


def _check_folders(parts: Sequence[Part], findings: Findings) -> None:
    """Pictures that lie in a folder of images and are in no split."""
    names: dict[Path, set[str]] = {}
    first: dict[Path, str] = {}
    for part in parts:
        folder = part.examined.sheet.folder
        if folder is not None and folder.is_dir():
            names.setdefault(folder, set()).update(part.examined.images.names)
            first.setdefault(folder, part.file)
    for folder, known in names.items():
        inner = {str(other.relative_to(folder)) for other in names if other != folder and other.is_relative_to(folder)}
        if not inner:  # a folder of folders of other splits would list their pictures
            told_unlisted(folder, first[folder], known, findings)


def _shared(parts: Sequence[Part]) -> tuple[Shared, ...]:
    boxes: dict[str, dict[str, int]] = {}
    labelled: dict[str, dict[str, bool]] = {}
    for part in parts:
        for word, count in part.box_counts.items():
            of = boxes.setdefault(word, {})
            of[part.dataset] = of.get(part.dataset, 0) + count
            labelled.setdefault(word, {})[part.dataset] = _claims(part, word)
    return tuple(Shared(word, of, labelled[word]) for word, of in boxes.items() if len(of) > 1)


def _claims(part: Part, word: str) -> bool:
    said = part.config.labelled.values()
    return any(what not in ("none", ()) if isinstance(what, str) else word in what for what in said)


def _check_pictures(
    parts: Sequence[Part], file: str, compare: int | None, findings: Findings
) -> tuple[tuple[Pair, ...], str]:
    """Pictures that are, or look as if they were, on both sides."""
    for part in parts:
        if part.split == "val" and any(p.split == "train" and p.examined is part.examined for p in parts):
            findings.add("same-file", part.file, "", "", "is both the train and the val split")
    sides = {split: _pictures(parts, split) for split in ("train", "val")}
    both = [path for path in sides["val"] if path in sides["train"]]
    told_same = {part.file for part in parts if any(p is not part and p.examined is part.examined for p in parts)}
    pairs = [Pair(path, path, 0, True) for path in both]
    if not told_same:
        for pair in pairs:
            findings.add("same-picture", file, "", "", f"{shown(str(pair.val), 200)} is in train and in val")
    if compare == 0:
        return tuple(pairs), ""
    train = list(sides["train"])
    val = [path for path in sides["val"] if path not in sides["train"]]
    if not train or not val:
        return tuple(pairs), ""
    most = _share(len(train), len(val), compare)
    prints = fingerprints(train, most[0]), fingerprints(val, most[1])
    for twin in twins(*prints):
        pair = Pair(train[twin.train], val[twin.val], twin.bits, False)
        pairs.append(pair)
        reason = f"{shown(str(pair.val), 200)} of val looks like {shown(str(pair.train), 200)} of train"
        findings.add("near-duplicate", file, "", "", f"{reason} ({twin.bits} of 64 bits differ)")
    return tuple(pairs), _looked(*prints)


def _share(train: int, val: int, most: int | None) -> tuple[int | None, int | None]:
    """How many of each side: half each, and what one side does not need goes to the other."""
    if most is None or train + val <= most:
        return None, None
    few = min(train, val, most // 2)
    return (few, most - few) if train < val else (most - few, few)


def _looked(train: Prints, val: Prints) -> str:
    sampled = train.asked < train.total or val.asked < val.total
    more = "; a sample: a copy is found where both its sides were drawn" if sampled else ""
    return f"{val.asked} of {val.total} val against {train.asked} of {train.total} train pictures{more}"


def _pictures(parts: Sequence[Part], split: str) -> dict[Path, None]:
    """Pictures of one side that are there, each once."""
    paths = (path for part in parts if part.split == split for path in part.paths)
    return {path: None for path in paths if path is not None and path.is_file()}
