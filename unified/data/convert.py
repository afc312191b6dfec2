# SPDX-License-Identifier: Apache-2.0
"""Any dataset written as COCO's files, with a data file to train on them. The source is only ever read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import numpy as np
from PIL import Image

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.source import dump_yaml
from unified.contracts.structures import Annotations, LabelState
from unified.data.formats.indexed import IndexedSource
from unified.data.lint.pictures import header
from unified.data.picture import contained
from unified.data.source import Source, Split, open_source

Pictures = Literal["reference", "copy"]
"""What becomes of the pictures: they stay where they are, or come along."""

_FIELD = "tags"


@dataclass
class Converted:
    """What was written: images and boxes by split, the data file, and one-line remarks."""

    file: Path
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def convert(name: str, config: DatasetConfig, base: Path, out: Path, pictures: Pictures = "reference") -> Converted:
    """Writes every split of a dataset to ``out``: annotations/instances_SPLIT.json and data.yaml.

    A format that draws its pictures has them written, as PNG, whatever ``pictures`` says.

    Raises:
        DataError: the dataset cannot be read, or ``out`` is not a new folder outside of it.
    """
    splits: list[Split] = [split for split in get_args(Split) if getattr(config, split) or _renders(config)]
    sources = {split: open_source(name, config, split, base) for split in splits}
    _check_out(out, [source.root for source in sources.values() if isinstance(source, IndexedSource)])
    (out / "annotations").mkdir(parents=True)
    done = Converted(out / "data.yaml")
    parts = {split: _write_split(source, split, out, pictures, done) for split, source in sources.items()}
    first = next(iter(sources.values()))
    done.file.write_text(dump_yaml({"datasets": {name: as_coco(config, first, parts)}}), encoding="utf-8")
    named = [part for split in splits if (part := getattr(config, split)) is not None]
    if any(part.panoptic or part.captions or part.keypoints for part in named):
        done.remarks.append("key points, captions and panoptic segments are not carried over")
    return done


def _renders(config: DatasetConfig) -> bool:
    from unified.contracts.protocols import datasets

    return bool(getattr(datasets.get(config.format), "renders", False))


def _check_out(out: Path, roots: list[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out {out}: is not empty; choose a new folder")
    for root in roots:
        if out.resolve().is_relative_to(root.resolve()):
            raise DataError(f"--out {out}: lies in the dataset's own folder {root}; choose a folder outside of it")


def as_coco(config: DatasetConfig, source: Source, parts: Mapping[Split, dict[str, str]]) -> dict[str, Any]:
    """The dataset as a data file holds it once its splits are COCO files."""
    own = [k for k, tag in enumerate(source.tag_classes or [-1] * len(source.vocabulary.tags)) if tag < 0]
    identity: dict[str, str] = {}
    if source.vocabulary.identities:
        identity["boxes"] = "category" if config.identity.boxes == "category" else "identity"
    if source.views or source.vocabulary.image_identities:
        identity["image"] = "views" if source.views else "identity"
    plain = config.model_dump(mode="json", exclude_defaults=True)
    return {
        "path": ".",
        "format": "coco",
        **{str(split): part for split, part in parts.items()},
        "tags": {"fields": [_FIELD] if own else [], "categories": any(tag >= 0 for tag in source.tag_classes)},
        "identity": identity,
        **{key: plain[key] for key in ("aliases", "labelled") if key in plain},
    }


def _write_split(source: Source, split: str, out: Path, pictures: Pictures, done: Converted) -> dict[str, str]:
    """One split's file; the split as the data file holds it."""
    moved = pictures == "copy" or not isinstance(source, IndexedSource)
    folder = split if moved else str(source.images.resolve())  # type: ignore[attr-defined]
    file = out / "annotations" / f"instances_{split}.json"
    done.images[split] = done.boxes[split] = 0
    images: list[dict[str, Any]] = []
    with file.open("w", encoding="utf-8") as text:
        names = [{"id": k + 1, "name": name} for k, name in enumerate(source.vocabulary.boxes)]
        text.write(f'{{"categories": {json.dumps(names)},\n"annotations": [')
        for index in range(len(source)):
            found = _read(source, index, out / split if moved else None, done)
            if found is not None:
                image, annotations = found
                images.append({"id": len(images) + 1, **image, **said_of(source, annotations)})
                _write_objects(text, source, annotations, len(images), done, split)
        text.write('],\n"images": ')
        json.dump(images, text)
        text.write("}\n")
    done.images[split] = len(images)
    done.remarks += source.warnings
    return {"images": folder, "annotations": f"annotations/{file.name}"}


def _read(
    source: Source, index: int, folder: Path | None, done: Converted
) -> tuple[dict[str, Any], Annotations] | None:
    """An image's record and annotations; its picture goes to ``folder``. None for a picture that cannot be used."""
    if not isinstance(source, IndexedSource):
        return _drawn(source, index, folder or Path())
    name = source.file(index)
    path = contained(name, source.images)
    size = source.size(index)
    if size is None:
        read = header(path)
        if isinstance(read, str):
            done.remarks.append(f"picture {path} {read}; left out")
            return None
        size = read[0][1], read[0][0]
    if folder is not None:
        target = contained(name, folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return {"file_name": name, "height": size[0], "width": size[1]}, source.annotations(index, size)


def _drawn(source: Source, index: int, folder: Path) -> tuple[dict[str, Any], Annotations]:
    sample = source.read(index)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{index:06d}.png"
    Image.fromarray(np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())).save(folder / name)
    size = {"height": sample.frame.size[0], "width": sample.frame.size[1]}
    return {"file_name": name, **size}, sample.annotations


def said_of(source: Source, found: Annotations) -> dict[str, Any]:
    """What an image's record holds beside its picture: tags, identity, and which classes were looked for."""
    record: dict[str, Any] = {}
    own = source.tag_classes or (-1,) * len(source.vocabulary.tags)
    states = found.states["tags"].tolist() if "tags" in found.states else []
    tags = {
        word: state == LabelState.POSITIVE
        for word, state, presence in zip(source.vocabulary.tags, states, own, strict=False)
        if presence < 0 and state >= LabelState.NEGATIVE
    }
    if tags:
        record[_FIELD] = tags
    if found.identity >= 0:
        record["identity"] = source.vocabulary.image_identities[found.identity]
    if "boxes" in found.states:
        looked = found.states["boxes"].numpy()
        shown = {*found.box_labels[found.box_states == LabelState.POSITIVE].tolist()}
        unsure = np.flatnonzero((looked == LabelState.POSITIVE) | (looked == LabelState.IGNORE)).tolist()
        record["neg_category_ids"] = (np.flatnonzero(looked == LabelState.NEGATIVE) + 1).tolist()
        record["not_exhaustive_category_ids"] = [
            k + 1 for k in unsure if k not in shown or looked[k] == LabelState.IGNORE
        ]
    return record


def _write_objects(text: TextIO, source: Source, found: Annotations, image: int, done: Converted, split: str) -> None:
    for record in _objects(source, found):
        done.boxes[split] += 1
        text.write(",\n" if done.boxes[split] > 1 else "\n")
        json.dump({"id": done.boxes[split], "image_id": image, **record}, text)


def _objects(source: Source, found: Annotations) -> Iterator[dict[str, Any]]:
    for k in range(len(found)):
        x0, y0, x1, y1 = found.boxes_xyxy[k].tolist()
        record: dict[str, Any] = {
            "category_id": int(found.box_labels[k]) + 1,
            "bbox": [round(x, 4) for x in (x0, y0, x1 - x0, y1 - y0)],
            "area": round(float(found.box_areas[k]), 4),
            "iscrowd": int(found.box_crowd[k]),
        }
        if found.box_states[k] == LabelState.IGNORE and not found.box_crowd[k]:
            record["ignore"] = 1
        if found.box_identities[k] >= 0:
            record["identity"] = source.vocabulary.identities[int(found.box_identities[k])]
        yield record
