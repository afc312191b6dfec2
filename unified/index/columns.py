# SPDX-License-Identifier: Apache-2.0
"""Rows as columns of plain numbers, laid out as Arrow lays out texts and lists: bytes or codes, and where each ends.

Tensors of this layout can stand in a safetensors file and be mapped from there; nothing is parsed to read one row, and
a filter is a few operations on whole columns. Legend: R rows, T tags of all rows together, U distinct texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.index.row import Filter, Row

NONE = -1  # the code of what is not there


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts one after another."""

    data: Tensor  # uint8, UTF-8
    ends: Tensor  # (U,) int64: where each ends

    @classmethod
    def of(cls, words: Sequence[str]) -> Texts:
        """Texts in their order."""
        parts = [word.encode("utf-8", "surrogateescape") for word in words]
        data = np.frombuffer(b"".join(parts), dtype=np.uint8).copy()
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(torch.from_numpy(data), torch.from_numpy(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, k: int) -> str:
        start = int(self.ends[k - 1]) if k else 0
        return bytes(self.data[start : int(self.ends[k])].numpy()).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        data, start = bytes(self.data.numpy()), 0
        for end in self.ends.tolist():
            yield data[start:end].decode("utf-8", "surrogateescape")
            start = end


@dataclass(frozen=True, eq=False)
class Columns:
    """Everything that stands beside R vectors."""

    ids: Texts  # R
    keys: Tensor  # (R,) int64: 64 bits of each id's hash
    path: Tensor  # (R,) int32, code into ``paths``
    paths: Texts
    box: Tensor  # (R, 4) float32 xyxy in pixels; NaN where there is none
    name: Tensor  # (R,) int32, code into ``names``
    names: Texts
    score: Tensor  # (R,) float32; NaN where there is none
    tags: Tensor  # (T,) int32, codes into ``tag_names``
    tag_ends: Tensor  # (R,) int64: where each row's tags end
    tag_names: Texts
    size: Tensor  # (R, 2) int32: width, height; NONE where it is not known
    stamp: Tensor  # (R, 2) int64; NONE where it is not known

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Columns:
        """Rows in their order."""
        ids = [row.id for row in rows]
        path, paths = _coded([row.path for row in rows])
        name, names = _coded([row.name for row in rows])
        tags, tag_names = _coded([tag for row in rows for tag in row.tags])
        blank = float("nan")
        scores = [blank if row.score is None else row.score for row in rows]
        return cls(
            ids=Texts.of(ids),
            keys=torch.from_numpy(keys_of(ids)),
            path=path,
            paths=paths,
            box=torch.tensor([row.box or (blank,) * 4 for row in rows], dtype=torch.float32).reshape(-1, 4),
            name=name,
            names=names,
            score=torch.tensor(scores, dtype=torch.float32),
            tags=tags,
            tag_ends=torch.tensor([len(row.tags) for row in rows], dtype=torch.int64).cumsum(0),
            tag_names=tag_names,
            size=torch.tensor([row.size or (NONE, NONE) for row in rows], dtype=torch.int32).reshape(-1, 2),
            stamp=torch.tensor([row.stamp or (NONE, NONE) for row in rows], dtype=torch.int64).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, k: int) -> Row:
        """One row."""
        path, name, score = int(self.path[k]), int(self.name[k]), float(self.score[k])
        box, size, stamp = self.box[k].tolist(), self.size[k].tolist(), self.stamp[k].tolist()
        start, end = int(self.tag_ends[k - 1]) if k else 0, int(self.tag_ends[k])
        return Row(
            id=self.ids[k],
            path=None if path == NONE else self.paths[path],
            box=None if box[0] != box[0] else (box[0], box[1], box[2], box[3]),
            name=None if name == NONE else self.names[name],
            score=None if score != score else score,
            tags=tuple(self.tag_names[code] for code in self.tags[start:end].tolist()),
            size=None if size[0] == NONE else (size[0], size[1]),
            stamp=None if stamp[0] == NONE else (stamp[0], stamp[1]),
        )

    def allowed(self, where: Filter) -> NDArray[np.bool_]:
        """(R,): whether each row fits a filter."""
        kept = np.ones(len(self), dtype=np.bool_)
        for tag in where.tags:
            kept &= self._tagged(tag)
        for tag in where.without:
            kept &= ~self._tagged(tag)
        if where.names:
            codes = [k for k, name in enumerate(self.names) if name in where.names]
            kept &= np.isin(self.name.numpy(), codes)
        boxed = ~np.isnan(self.box[:, 0].numpy())
        if where.level is not None:
            kept &= boxed == (where.level == "box")
        if where.least_score is not None:
            kept &= boxed & (np.nan_to_num(self.score.numpy(), nan=1.0) >= where.least_score)
        if where.least_side is not None:
            sides = (self.box[:, 2:] - self.box[:, :2]).amin(dim=1).numpy()
            kept &= boxed & (np.nan_to_num(sides, nan=-1.0) >= where.least_side)
        return kept

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, as they stand in a file."""
        found: dict[str, Tensor] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Texts):
                found |= {f"{each.name}.data": value.data, f"{each.name}.ends": value.ends}
            else:
                found[each.name] = value
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Columns:
        """What :meth:`tensors` gave.

        Raises:
            ValueError: one is missing, or they do not fit together.
        """
        texts = ("ids", "paths", "names", "tag_names")
        try:
            said = {
                each.name: Texts(tensors[f"{each.name}.data"], tensors[f"{each.name}.ends"])
                if each.name in texts
                else tensors[each.name]
                for each in fields(cls)
            }
        except KeyError as error:
            raise ValueError(f"column {error} is missing") from None
        columns = cls(**said)  # type: ignore[arg-type]
        columns._check()
        return columns

    def _check(self) -> None:
        """Raises ValueError where a code or an end leads out of what it stands for."""
        count = len(self.keys)
        shapes = {
            "path": (count,),
            "box": (count, 4),
            "name": (count,),
            "score": (count,),
            "tag_ends": (count,),
            "size": (count, 2),
            "stamp": (count, 2),
        }
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"column {name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if len(self.ids) != count:
            raise ValueError(f"{len(self.ids)} ids for {count} rows")
        for name, ends, total in (
            *((name, getattr(self, name).ends, len(getattr(self, name).data)) for name in ("ids", "paths", "names")),
            ("tag_names", self.tag_names.ends, len(self.tag_names.data)),
            ("tags", self.tag_ends, len(self.tags)),
        ):
            steps = torch.diff(ends, prepend=ends.new_zeros(1))
            if bool((steps < 0).any()) or (int(ends[-1]) if len(ends) else 0) != total:
                raise ValueError(f"column {name} does not end where it must")
        for name, codes, words in (
            ("path", self.path, self.paths),
            ("name", self.name, self.names),
            ("tags", self.tags, self.tag_names),
        ):
            if len(codes) and not (int(codes.min()) >= NONE and int(codes.max()) < len(words)):
                raise ValueError(f"column {name} names what is not there")

    def _tagged(self, tag: str) -> NDArray[np.bool_]:
        """(R,): rows that have a tag."""
        found = np.zeros(len(self), dtype=np.bool_)
        codes = [k for k, name in enumerate(self.tag_names) if name == tag]
        if codes:
            places = np.flatnonzero(np.isin(self.tags.numpy(), codes))
            found[np.searchsorted(self.tag_ends.numpy(), places, side="right")] = True
        return found


def keys_of(ids: Sequence[str]) -> NDArray[np.int64]:
    """(R,): 64 bits of BLAKE2b of each id; equal ids have equal keys, and others hardly ever."""
    sums = b"".join(hashlib.blake2b(each.encode("utf-8", "surrogateescape"), digest_size=8).digest() for each in ids)
    return np.frombuffer(sums, dtype="<i8").astype(np.int64)


def _coded(words: Sequence[str | None]) -> tuple[Tensor, Texts]:
    """Codes into the distinct texts, in the order of their first appearance."""
    known: dict[str, int] = {}
    codes = [NONE if word is None else known.setdefault(word, len(known)) for word in words]
    return torch.tensor(codes, dtype=torch.int32), Texts.of(list(known))
