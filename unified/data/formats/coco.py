# SPDX-License-Identifier: Apache-2.0
"""COCO's files: boxes, crowds, tags from image fields or categories, identities from any field, and more beside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Final

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError
from unified.contracts.recognition import Recognised, partners, splits_named
from unified.data.formats.coco_beside import Beside
from unified.data.formats.coco_table import load_table
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.store import Scan

_BESIDE: Final = ("captions", "keypoints", "panoptic", "stuff", "image_info")  # in names of files without instances
_HEAD: Final = 1 << 20  # bytes that are looked at
_NAME: Final = re.compile(rb'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')


class CocoDataset(IndexedSource):
    """One split of a dataset in COCO's format. All images of the file are kept, also those without annotations.

    Image records may say which classes were looked for, in the LVIS convention: ``neg_category_ids`` (verified to be
    absent) and ``not_exhaustive_category_ids``. Where any record has these, a class that an image neither has nor
    names there is unlabelled in it.

    Option ``masks: true``: objects keep their outlines, so that they can be pasted into other pictures.
    """

    options: ClassVar[tuple[str, ...]] = ("masks",)

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        path = self.root / str(part.annotations)
        named = {"keypoints": part.keypoints, "captions": part.captions, "panoptic": part.panoptic}
        beside = Beside(**{kind: self.root / file for kind, file in named.items() if file})
        for file in (path, *beside.files):
            if not file.is_file():
                raise DataError(
                    f"annotation file {file} is missing; check the split's 'annotations' and the dataset's path"
                )
        tags, identity = self.config.tags, self.config.identity
        self.masks = bool(self.config.options.get("masks"))
        settings: dict[str, Any] = {
            "format": "coco",
            "fields": tags.fields,
            "identity": [identity.boxes, identity.image],
            "strict": strict,
            "beside": [kind for kind, file in named.items() if file],
            "masks": self.masks,
        }
        return Scan(
            files=(path, *beside.files),
            settings=settings,
            build=lambda: load_table(
                path,
                tags,
                identity,
                strict=strict,
                beside=beside,
                masks=self.masks,
                document=self.faults.documents.get(path),
            ),
        )

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        files = _instances(path) if path.is_dir() else [path] if _is_coco(path) else []
        if not files:
            return None
        if path.is_file():
            named = {split: path.parent / name for split, name in partners(path).items()}
        else:
            named = _by_split(files)
        root = path if path.is_dir() else _common(path)
        found = {split: _split(file, root) for split, file in named.items()}
        parts: dict[str, Any] = {split: part for split, part in found.items() if part is not None}
        if not parts or (path.is_file() and _split(path, root) is None):
            return None
        dataset = {"format": "coco", **parts, "tags": {"categories": True}}
        exactly = _split(path, root) if path.is_file() else None
        return Recognised("a COCO dataset", root, dataset, ("boxes", "tags"), 2, exactly)


def _is_coco(file: Path) -> bool:
    """Whether a file's first bytes look like a COCO file's."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"{") and any(f'"{k}"'.encode() in head for k in ("images", "annotations", "categories"))


def _instances(folder: Path) -> list[Path]:
    """COCO files in a folder, its annotations folder, or the folders of its splits."""
    found = [p for pattern in ("annotations/*.json", "*.json", "*/*.json") for p in sorted(folder.glob(pattern))]
    fitting = [p for p in dict.fromkeys(found) if not any(word in p.stem for word in _BESIDE) and _is_coco(p)]
    return [p for p in fitting if "instances" in p.stem] or fitting


def _by_split(files: list[Path]) -> dict[str, Path]:
    """The files by the split's word in their name or, else, in their folder's."""
    words = {word: file for file in reversed(files) for word in re.split(r"[^a-z0-9]+", file.stem.lower())}
    named = splits_named(words) or splits_named(words := {file.parent.name: file for file in files})
    return {split: words[word] for split, word in named.items()} or ({"train": files[0]} if len(files) == 1 else {})


def _common(file: Path) -> Path:
    """The dataset's folder: that of the file, or the one above where the file is in its annotations folder."""
    return file.parent.parent if file.parent.name.lower() in ("annotations", "labels") else file.parent


def _split(file: Path, root: Path) -> dict[str, str] | None:
    """The split of a file and the folder in which its first picture is; None where that is nowhere near."""
    with file.open("rb") as opened:
        match = _NAME.search(opened.read(_HEAD))
    if match is None:
        return None
    name = match.group(1).decode("utf-8", "replace").replace("\\/", "/")
    near = [p for p in sorted(root.iterdir()) if p.is_dir()]
    below = [p for folder in near for p in sorted(folder.iterdir()) if p.is_dir()]
    folders = [file.parent, root, *near, *below]
    words = {w for w in re.split(r"[^a-z0-9]+", file.stem.lower()) if w}
    folders.sort(key=lambda p: p.name.lower() not in words)  # train2017 for instances_train2017 first
    images = next((p for p in folders if (p / name).is_file()), None)
    if images is None:
        return None
    return {"images": images.relative_to(root).as_posix(), "annotations": file.relative_to(root).as_posix()}
