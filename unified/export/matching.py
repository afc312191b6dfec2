# SPDX-License-Identifier: Apache-2.0
"""Shown boxes of two programs side by side: rounding may exchange neighbours in the order, and that is no difference.

Legend: B images, N rows, n boxes of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.export.artifact import Outlet

Arrays = Mapping[str, NDArray[Any]]
EDGE: Final = 1e-3  # boxes whose scores are this near to the least one shown may come or go


def matched(outlets: Sequence[Outlet], expected: Arrays, got: Arrays) -> tuple[Arrays, Arrays]:
    """Both answers with their shown boxes in one order, and without those that rounding may show or hide.

    Args:
        outlets: of the graph; only those that show boxes are changed, and what belongs to their boxes.
        expected: outputs of the network, by name.
        got: outputs of the file.
    """
    mine, theirs = dict(expected), dict(got)
    for outlet in outlets:
        if outlet.ending == "shown":
            _match(outlet, [each.extra for each in outlets], mine, theirs)
    return mine, theirs


def _match(
    outlet: Outlet, extras: Sequence[Mapping[str, str]], mine: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]
) -> None:
    names = outlet.tensors
    boxes, count = names["boxes_xyxy"], names["count"]
    per_row = [names[key] for key in ("boxes_xyxy", "scores", "labels")]
    per_row += [extra[boxes] for extra in extras if boxes in extra]
    least = float(outlet.facts["rule"]["confidence"]) + EDGE
    sure = [_sure(each, names, least) for each in (mine, theirs)]
    order = [_nearest(mine, theirs, names, image, *(rows[image] for rows in sure)) for image in range(len(sure[0]))]
    for name in per_row:
        a, b = np.zeros_like(mine[name]), np.zeros_like(theirs[name])
        for image, (own, other) in enumerate(order):
            a[image, : len(own)], b[image, : len(other)] = mine[name][image][own], theirs[name][image][other]
        mine[name], theirs[name] = a, b
    mine[count], theirs[count] = (np.array([len(rows) for rows in each]) for each in sure)


def _sure(arrays: Arrays, names: Mapping[str, str], least: float) -> list[NDArray[np.intp]]:
    """Rows of every image that are boxes and do not stand on the edge."""
    counts, scores = arrays[names["count"]], arrays[names["scores"]]
    return [np.flatnonzero(row[: int(n)] >= least) for row, n in zip(scores, counts, strict=True)]


def _nearest(
    mine: Arrays, theirs: Arrays, names: Mapping[str, str], image: int, own: NDArray[Any], other: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of mine, and for each of them the row of theirs that is nearest; nothing to pair with: no rows of theirs."""
    if not len(other):
        return own, other
    a, b = (
        [arrays[names[key]][image][rows] for key in ("boxes_xyxy", "scores", "labels")]
        for arrays, rows in ((mine, own), (theirs, other))
    )
    apart = np.abs(a[0][:, None] - b[0][None]).max(axis=2) + np.abs(a[1][:, None] - b[1][None])
    apart = apart + 1e6 * (a[2][:, None] != b[2][None])
    return own, other[apart.argmin(axis=1)]
