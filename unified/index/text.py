# SPDX-License-Identifier: Apache-2.0
"""Questions put as texts, to an index of pictures whose model learned from captions (task ``cap``)."""

from __future__ import annotations

from collections.abc import Sequence

from unified.contracts.errors import DataError
from unified.index.protocol import Hit, VectorIndex
from unified.index.query import check_model
from unified.index.row import Filter
from unified.inference.model import UnifiedModel


def search_texts(
    index: VectorIndex, model: UnifiedModel, texts: str | Sequence[str], k: int = 10, where: Filter | None = None
) -> list[list[Hit]]:
    """For every text the rows of an index of pictures that show it best.

    Args:
        index: made with the same model, of pictures and not of boxes.
        model: that learned from captions.
        texts: what is looked for; one or several.
        k: rows a text.
        where: only rows that fit.

    Returns:
        For every text its rows, the best first; their scores are cosines of text and picture.

    Raises:
        ConfigError: the model has not learned from captions, or its sentence encoder is not on this machine.
        DataError: an empty text; or the index is another model's, or one of boxes.
    """
    layout = index.layout
    check_model(layout, model)
    if layout.level == "box":
        raise DataError("this is an index of boxes, and captions speak of whole pictures; make one with --level image")
    several = [texts] if isinstance(texts, str) else list(texts)
    vectors = model.encode_text(several, layout.dim if layout.truncate else None)
    return [list(hits) for hits in index.search(vectors, k, where)]
