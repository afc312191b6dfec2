# SPDX-License-Identifier: Apache-2.0
"""``--fix``: repaired copies of the annotation files, and a data file that names them. The source is never touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unified.contracts.config import DataConfig, DatasetConfig, SplitConfig
from unified.contracts.errors import DataError
from unified.contracts.source import dump_yaml
from unified.data.lint.categories import alike_names, undecided
from unified.data.lint.linter import Report
from unified.data.lint.mend import Mender
from unified.data.lint.part import Examined, Part
from unified.data.lint.transcript import transcribe
from unified.data.lint.words import box_aliases
from unified.data.location import locate

_BY_WRITING: Final = {
    "byte-order-mark": "written without a byte order mark",
    "key-twice": "repeated keys written once",
    "record-type": "records that are no objects left out",
}


def write_repaired(report: Report, config: DataConfig, base: Path, out: Path) -> list[str]:
    """Writes ``OUT/data.yaml`` and an annotation file for every split that could be read.

    Returns:
        Every change, a line each.

    Raises:
        DataError: the folder holds something, or lies inside a data set.
    """
    roots = {name: locate(dataset.path, base, name) for name, dataset in config.datasets.items()}
    _check_folder(out, [root for name, root in roots.items() if name not in report.drawn])
    out.mkdir(parents=True, exist_ok=True)
    rename = _renamed(report.parts)
    changes: list[str] = []
    written: dict[int, Path] = {}
    datasets: dict[str, DatasetConfig] = {}
    for name, dataset in config.datasets.items():
        parts, dataset = _as_coco(name, dataset, [part for part in report.parts if part.dataset == name], changes)
        splits: dict[str, Path] = {
            part.split: _split(part, parts, rename, out, written, report, changes) for part in parts
        }
        datasets[name] = _moved(dataset, roots[name], splits, rename, changes)
    mended = config.model_copy(update={"datasets": datasets})
    (out / "data.yaml").write_text(dump_yaml(mended.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return changes


def _check_folder(out: Path, roots: Sequence[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--fix {out}: already holds something; name a new folder")
    for root in roots:
        if out.resolve().is_relative_to(root.resolve()):
            raise DataError(f"--fix {out}: lies inside the data set {root}, which is not to be changed; name another")


def _renamed(parts: Sequence[Part]) -> dict[str, str]:
    """For every class written in several ways, the way that most boxes have."""
    boxes: Counter[str] = Counter()
    for part in parts:
        names = set(undecided(part.examined.classes.names, box_aliases(part.config.aliases)))
        boxes.update({name: count for name, count in part.box_counts.items() if name in names})
    group = {name: {name} for name in boxes}
    for one, other, _ in alike_names(boxes):
        joined = group[one] | group[other]
        group |= dict.fromkeys(joined, joined)
    best = {name: max(sorted(names), key=lambda n: boxes[n]) for name, names in group.items()}
    return {name: chosen for name, chosen in best.items() if chosen != name}


def _split(
    part: Part,
    parts: Sequence[Part],
    rename: Mapping[str, str],
    out: Path,
    written: dict[int, Path],
    report: Report,
    changes: list[str],
) -> Path:
    """The path of the split's repaired annotation file; one file on both sides is written once."""
    examined = part.examined
    if id(examined) in written:
        return written[id(examined)]
    path = out / f"{part.dataset}-{part.split}.json"
    mender = Mender(examined, _of(part, rename), _allowed(part, parts, rename))
    document = mender.document()
    for fault, what in _BY_WRITING.items():
        if report.findings.counts[part.file, fault]:
            changes.append(f"{part.file}: {what}")
    changes += mender.changes
    path.write_text(json.dumps(document, ensure_ascii=True), encoding="utf-8")
    written[id(examined)] = path.resolve()
    return written[id(examined)]


def _allowed(part: Part, parts: Sequence[Part], rename: Mapping[str, str]) -> set[str] | None:
    """The classes of train, to which val must keep."""
    train = next((p for p in parts if p.split == "train"), None)
    if part.split == "train" or train is None:
        return None
    new = _of(train, rename)
    return {new.get(name, name) for name in _kept_names(train.examined)}


def _of(part: Part, rename: Mapping[str, str]) -> dict[str, str]:
    """New names of a file's own classes. Those with an alias keep theirs: the alias changes."""
    aliased = box_aliases(part.config.aliases)
    return {name: new for name, new in rename.items() if name not in aliased}


def _kept_names(examined: Examined) -> set[str]:
    """Names of the classes whose ids can be told apart."""
    return {examined.classes.names[k] for k in examined.classes.index.values()}


def _moved(
    dataset: DatasetConfig,
    root: Path,
    splits: Mapping[str, Path],
    rename: Mapping[str, str],
    changes: list[str],
) -> DatasetConfig:
    """The data set's settings with its files where they now are and its classes by their new names."""
    update: dict[str, Any] = {"path": str(root)}
    for split, path in splits.items():
        given: SplitConfig = getattr(dataset, split)
        update[split] = given.model_copy(update={"annotations": str(path)})
    labelled = {}
    for task, said in dataset.labelled.items():
        named = said if isinstance(said, str) else tuple(dict.fromkeys(rename.get(word, word) for word in said))
        if named != said:
            changes.append(f"labelled.{task}: classes by their new names")
        labelled[task] = named
    aliases = dataset.aliases.model_copy(
        update={
            table: {word: rename.get(name, name) if word != name else name for word, name in given.items()}
            for table in ("both", "boxes")
            if (given := getattr(dataset.aliases, table))
        }
    )
    update |= {"aliases": aliases} if "aliases" in dataset.model_fields_set else {}
    return dataset.model_copy(update={**update, "labelled": labelled})


def _as_coco(
    name: str, dataset: DatasetConfig, parts: list[Part], changes: list[str]
) -> tuple[list[Part], DatasetConfig]:
    """A data set of another format as COCO's records; as it is, and no parts, where that would mean guessing."""
    if not parts or parts[0].examined.sheet.native:
        return parts, dataset
    try:
        found = [transcribe(part) for part in parts]
    except DataError as error:
        changes.append(f"dataset '{name}': left as it is: {error}")
        return [], dataset
    changes.append(f"dataset '{name}': its copy is COCO, with the pictures where they are")
    changes += [line for each in found for line in each.lost]
    splits: dict[str, Any] = {each.part.split: getattr(each.config, each.part.split) for each in found}
    return [each.part for each in found], found[0].config.model_copy(update=splits)
