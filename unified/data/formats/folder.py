# SPDX-License-Identifier: Apache-2.0
"""A folder of class folders: a picture's folder is its class."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.recognition import Recognised, splits_named
from unified.data.formats.flaw import Faults, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.listing import SUFFIXES, pictures
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import Boxes, Table, field_tags, listed, numbered

_FIELD = "folder"


class FolderDataset(IndexedSource):
    """One split of pictures in class folders. The class is a tag, and the absence of all other classes' tags.

    It is the image's identity too where ``identity: {image: folder}`` says so. Folders within folders make classes
    such as ``birds/owl``; option ``depth`` says how many of them, from the top, name the class.
    """

    options: ClassVar[tuple[str, ...]] = ("depth",)
    needs_annotations: ClassVar[bool] = False

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        depth = self.config.options.get("depth")
        if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
            raise DataError(f"dataset '{self.name}': depth must be a number of folders, 1 or more; got {depth!r}")
        for field in (*self.config.tags.fields, self.config.identity.image):
            if field not in (_FIELD, "views", None):
                raise DataError(f"dataset '{self.name}': a picture has no field '{field}'{suggestion(field, [_FIELD])}")
        shown = pictures(images)
        identity = self.config.identity.image == _FIELD
        settings: dict[str, Any] = {"format": "folder", "pictures": shown, "depth": depth, "identity": identity}
        return Scan((), settings, lambda: _table(shown, images, depth, identity, self.faults))

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        if not path.is_dir():
            return None
        splits = splits_named(child.name for child in path.iterdir() if child.is_dir())
        parts = {split: {"images": name} for split, name in splits.items() if _has_class_folders(path / name)}
        if not parts and (splits or not _has_class_folders(path)):
            return None
        dataset = {"format": "folder", **(parts or {"train": {"images": "."}}), "identity": {"image": _FIELD}}
        return Recognised("a folder of class folders", path, dataset, ("tags", "identities"), 0)


def _has_class_folders(path: Path) -> bool:
    """Two or more folders with a picture somewhere below, and no picture beside them."""
    children = [child for child in path.iterdir() if not child.name.startswith(".")]
    if any(child.suffix.lower() in SUFFIXES for child in children if child.is_file()):
        return False
    return sum(_has_picture(child) for child in children if child.is_dir()) >= 2


def _has_picture(folder: Path) -> bool:
    return any(p.suffix.lower() in SUFFIXES for p in folder.rglob("*"))


def _table(shown: list[str], images: Path, depth: int | None, identity: bool, faults: Faults) -> Table:
    for name in shown:
        if "/" not in name:
            reason = "the picture lies in no class folder; put it in one, or elsewhere"
            faults.tell("picture-without-class", Place(str(images / name)), "", reason)
    shown = [name for name in shown if "/" in name]
    for name in shown:
        faults.placed(name, Place(str(images / name)), ())
    classes = ["/".join(PurePosixPath(name).parts[:-1][:depth]) for name in shown]
    names, number = numbered(classes if identity else [None] * len(shown))
    sizes = np.full((len(shown), 2), -1, dtype=np.int32)
    columns, _ = Boxes().columns(sizes)
    return Table(
        files=Strings.of(shown),
        image_ids=Strings.of(shown),
        sizes=sizes,
        image_identity=number,
        image_identities=names,
        fields=(_FIELD,),
        **columns,
        **field_tags([[listed((word,))] for word in classes], 1),
    )
