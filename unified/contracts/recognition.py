# SPDX-License-Identifier: Apache-2.0
"""A dataset's format told from its path: ``--data FOLDER_OR_FILE`` without a data file.

Every registered format is asked by ``cls.recognise(path)``; it looks at names and first lines, never at all the data.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from unified.contracts.errors import ConfigError

HOLDOUT: Final = 0.1
"""Share of the images kept for validation where a dataset comes without that split."""

DATA_SUFFIXES: Final = (".json", ".csv", ".parquet", ".yaml", ".yml")
"""Of files that may be a dataset, or speak of one."""

Purpose = Literal["learn", "score", "find"]

Tell = Callable[[str], None]
"""Hears one line that a person should read."""

_SPLITS: Final = {
    "train": ("train", "train2017", "train2014", "training", "trainval"),
    "val": ("val", "val2017", "val2014", "valid", "validation", "dev", "test"),
}


@dataclass(frozen=True)
class Recognised:
    """What a format makes of a path.

    ``what`` says it in words (``a Pascal VOC folder``); ``dataset`` is a dataset as a data file would hold it, without
    its path; ``tables`` are those of the annotations that it has labels for. Of two formats that recognise one path,
    the larger ``certainty`` counts.
    """

    what: str
    path: Path  # the folder that the dataset's own paths are relative to
    dataset: Mapping[str, Any]
    tables: tuple[str, ...]
    certainty: int = 1
    exactly: Mapping[str, Any] | None = None  # the split that the path itself is, where it is a split's file

    @property
    def name(self) -> str:
        """The dataset's name in a run: the folder's."""
        return re.sub(r"\W+", "_", self.path.resolve().name).strip("_") or "data"

    def for_tasks(self, tables: Mapping[str, Any], *, views: bool) -> dict[str, Any]:
        """The dataset as a data file would hold it, labelling everything it has for tasks that learn from ``tables``.

        With ``views``, where a task learns identities and there are none, two views of a picture are its identity.
        """
        lent = ("identities",) if views and "identities" not in self.tables else ()
        asked = {name: table for name, table in tables.items() if table in (*self.tables, *lent)}
        more = {"identity": {"image": "views"}} if {*lent} & {*asked.values()} else {}
        labelled = dict.fromkeys(asked, "all")
        return {"path": str(self.path.resolve()), **self.dataset, **more, "labelled": labelled}

    def described(self) -> str:
        """The one line that tells a person what was recognised."""
        splits = {split: self.dataset[split] for split in ("train", "val") if split in self.dataset}
        parts = [f"{split} {part.get('annotations') or part['images']}" for split, part in splits.items()]
        held = self.dataset.get("options", {}).get("holdout")
        parts += [f"{held:.0%} of it held out for val"] if held else []
        return f"{self.path} is {self.what}: {', '.join(parts)}; taken to label all its {' and '.join(self.tables)}"


def tell_on_stderr(line: str) -> None:
    """Prints the line beside a command's own answer."""
    print(line, file=sys.stderr)


def recognise(path: Path, formats: Iterable[Any], purpose: Purpose) -> Recognised | None:
    """The format of what stands at ``path``.

    Args:
        path: a folder or a file.
        formats: classes of dataset formats; one without ``recognise`` recognises nothing.
        purpose: what a dataset of one split is for: to ``learn`` from it, a part is held out; to ``score`` it, all of
            it is the val split too; to ``find`` what it has, it is left as it is.

    None for a YAML file that no format knows: it is a data file then, or told to be none by its own reader.

    Raises:
        ConfigError: nothing is there, no format knows it, or several do.
    """
    whose_own = path.suffix in (".yaml", ".yml")
    if not path.exists() and whose_own:
        return None
    if not path.exists():
        raise ConfigError(f"--data {path}: does not exist (looked from {Path.cwd()})")
    asked = [cls.recognise for cls in formats if hasattr(cls, "recognise")]
    answers = [found for ask in asked if (found := ask(path)) is not None]
    best = [found for found in answers if found.certainty == max(each.certainty for each in answers)]
    if not best and whose_own:
        return None
    if not best:
        raise ConfigError(_unknown(path))
    if len(best) > 1:
        both = " and ".join(found.what for found in best)
        raise ConfigError(
            f"--data {path}: could be {both}; write a data file that names its format, such as\n{example(path)}"
        )
    return {"learn": _to_learn, "score": _to_score, "find": _as_found}[purpose](best[0])


def _as_found(found: Recognised) -> Recognised:
    """A file that was named is one split; a folder has those that it has."""
    exactly = {"train": dict(found.exactly)} if found.exactly is not None else {}
    others = {key: value for key, value in found.dataset.items() if not (exactly and key in ("train", "val"))}
    return replace(found, dataset={**others, **exactly})


def _to_learn(found: Recognised) -> Recognised:
    """One split alone is the training split, and a part of it is held out."""
    dataset = dict(found.dataset)
    if "train" not in dataset and "val" in dataset:
        dataset["train"] = dataset.pop("val")
    if "val" not in dataset:
        dataset["options"] = {**dataset.get("options", {}), "holdout": HOLDOUT}
    return replace(found, dataset=dataset)


def _to_score(found: Recognised) -> Recognised:
    """A file that was named is the split to score, and so is a split alone."""
    dataset = dict(found.dataset)
    if found.exactly is not None:
        dataset |= {"train": dict(found.exactly), "val": dict(found.exactly)}
    dataset.setdefault("val", dataset.get("train"))
    dataset.setdefault("train", dataset["val"])
    return replace(found, dataset=dataset)


def splits_named(names: Iterable[str]) -> dict[str, str]:
    """Which of the names are those of the training and of the validation split; of several, the most usual one."""
    given = {name.lower(): name for name in names}
    return {
        split: given[next(word for word in words if word in given)]
        for split, words in _SPLITS.items()
        if any(word in given for word in words)
    }


def partners(file: Path) -> dict[str, str]:
    """A split's file and that of the other split beside it, told by the split's word in their names."""
    beside = {p.name for p in file.parent.iterdir() if p.suffix == file.suffix}
    every = [word for words in _SPLITS.values() for word in words]
    stem = file.stem.lower()
    word = next((w for w in sorted(every, key=len, reverse=True) if w in stem), None)
    if word is not None:
        head, tail = file.stem[: stem.index(word)], file.stem[stem.index(word) + len(word) :]
        named = {w: f"{head}{w}{tail}{file.suffix}" for w in every}
        there = {w: name for w, name in named.items() if name in beside} | {word: file.name}
        return {split: there[w] for split, w in splits_named(there).items()}
    return {"train": file.name}


def example(path: Path) -> str:
    """A data file for what could not be recognised."""
    folder, annotations = (path, "train.json") if path.is_dir() else (path.parent, path.name)
    return (
        f"datasets:\n"
        f"  mine:\n"
        f"    path: {folder}\n"
        f"    format: coco\n"
        f"    train: {{images: images, annotations: {annotations}}}\n"
        f"    val: {{images: images, annotations: val.json}}\n"
        f"    labelled: {{det: all}}"
    )


def _unknown(path: Path) -> str:
    what = "a folder" if path.is_dir() else "a file"
    return (
        f"--data {path}: is {what} of no format known (COCO json, VOC folder, YOLO data.yaml, folder of class folders, "
        f"CSV, Parquet, Open Images); write a data file that says what it is, such as\n{example(path)}"
    )
