# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from unified.tasks.multilabel.sections import Tags, f1_line, sections

from unified.contracts.section import Gallery, Table


def test_f1_is_that_of_scikit_learn_at_every_score() -> None:
    curve = pytest.importorskip("sklearn.metrics").precision_recall_curve
    dice = np.random.default_rng(0)
    scores, truth = np.round(dice.random(200), 2), dice.random(200) < 0.3
    precision, recall, thresholds = curve(truth, scores)
    at, f1 = f1_line(scores, truth)
    assert at.tolist() == thresholds.tolist()
    expected = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    assert f1.tolist() == pytest.approx(expected.tolist())


def tags() -> Tags:
    scores = np.array([[0.9, 0.2], [0.8, 0.6], [0.1, 0.7], [0.3, 0.99]])
    truth = np.array([[True, False], [False, True], [False, True], [True, False]])
    labelled = np.array([[True, True], [True, True], [True, True], [True, False]])
    return Tags(("night", "rain"), scores, truth, labelled, [("d", str(k)) for k in range(4)])


def test_tables_and_mistakes_by_hand() -> None:
    shown = sections(tags(), {"night": 0.75, "rain": 1.0})
    rows = {row[0]: row[1:] for part in shown[0].parts if isinstance(part, Table) for row in part.rows}
    #                     holds, not, AP, F1 at 0.5, precision, recall
    assert rows["night"][:6] == (2, 2, 0.75, 0.5, 0.5, 0.5)
    assert rows["rain"][:6] == (2, 1, 1.0, 1.0, 1.0, 1.0)
    galleries = [part for section in shown for part in section.parts if isinstance(part, Gallery)]
    assert [[view.caption for row in part.rows for view in row] for part in galleries] == [
        ["said night, 0.80"],  # rain at 0.99 in the last image is not labelled, so it is no mistake
        ["not said: night, 0.30"],
    ]


def test_without_a_known_yes_and_no_there_is_nothing_to_say() -> None:
    nothing = tags()
    blank = Tags(nothing.names, nothing.scores, nothing.truth, np.zeros_like(nothing.labelled), nothing.places)
    assert sections(blank, {}) == []
