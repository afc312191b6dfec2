# SPDX-License-Identifier: Apache-2.0
"""How far counts are off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unified.contracts.protocols import Curve
from unified.contracts.section import Column, Section, Table
from unified.contracts.structures import Batch, Prediction

from .answer import DensityOutput
from .target import counted


class CountMetric:
    """MAE and RMSE of an image's total, and MAE of a class, over what is labelled.

    Args:
        task: the name under which images carry their label states.
        classes: names of the classes.
    """

    def __init__(self, task: str, classes: Sequence[str]) -> None:
        self.task, self.classes = task, tuple(classes)
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []  # said, true, known: each (K,)

    def update(self, output: DensityOutput, predictions: Sequence[Prediction], batch: Batch) -> None:
        for said, image in zip(output.counts.cpu(), batch.annotations, strict=True):
            self._rows.append((said, *counted(image, self.task, len(self.classes))))

    def evidence(self) -> dict[str, Tensor]:
        """What was gathered, so that several ranks may share the evaluation."""
        return dict(zip(("said", "true", "known"), self._evidence(), strict=True))

    def extend(self, evidence: Mapping[str, Tensor]) -> None:
        """Adds what another rank gathered."""
        self._rows += list(zip(evidence["said"], evidence["true"], evidence["known"], strict=True))

    def compute(self) -> dict[str, float]:
        said, true, known = self._evidence()
        seen = known.any(dim=1)
        if not seen.any():
            return {}
        off = ((said - true) * known).sum(dim=1)[seen]
        each = (said - true).abs()[known]
        return {
            "MAE": float(off.abs().mean()),
            "RMSE": float(off.square().mean().sqrt()),
            "MAE_class": float(each.mean()),
        }

    def curves(self) -> dict[str, list[Curve]]:
        """What was said of images with 0, 1, 2 ... objects, and what would have been right."""
        said, true, known = self._evidence()
        seen = known.any(dim=1)
        if not seen.any():
            return {}
        totals, told = (true * known).sum(dim=1)[seen], (said * known).sum(dim=1)[seen]
        x = torch.unique(totals).tolist()
        y = [float(told[totals == value].mean()) for value in x]
        names = ("objects", "mean count said")
        return {"counts": [Curve(x, y, "said", *names), Curve(x, x, "true", *names)]}

    def sections(self) -> list[Section]:
        """A row for every class that is known somewhere."""
        said, true, known = self._evidence()
        rows: list[tuple[str | float | None, ...]] = []
        for k, name in enumerate(self.classes):
            at = known[:, k]
            if at.any():
                off = said[at, k] - true[at, k]
                rows.append(
                    (name, int(at.sum()), float(true[at, k].mean()), float(off.abs().mean()), float(off.mean()))
                )
        columns = (
            Column(name="class"),
            Column(name="images", kind="count", meaning="where its number is known"),
            Column(name="mean", kind="number", meaning="true objects an image"),
            Column(name="MAE", kind="number", meaning="mean absolute error of its count"),
            Column(name="bias", kind="number", meaning="mean error; above zero: too many are said"),
        )
        return [Section(title="Counts", parts=(Table(columns=columns, rows=tuple(rows)),))] if rows else []

    def _evidence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Said, true and known, each (images, K)."""
        if not self._rows:
            blank = torch.zeros(0, len(self.classes))
            return blank, blank, blank.bool()
        said, true, known = (torch.stack(column) for column in zip(*self._rows, strict=True))
        return said, true, known
