# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unified.contracts.errors import ConfigError, DataError
from unified.inference.association import cheapest, overlaps
from unified.inference.motion import GATE, POSITION, UNKNOWN, VELOCITY, Motion
from unified.inference.tracker import Tracker, TrackerSettings

SIDE = 40.0
RED, BLUE = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def box(x: float, y: float = 100.0, side: float = SIDE) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def follow(frames: list[list[tuple[Any, ...]]], **settings: Any) -> list[list[int]]:
    """Frames of (box, score, appearance or None) -> the numbers of their boxes."""
    tracker, found = Tracker(TrackerSettings(**settings)), []
    for frame in frames:
        looks = [look for _, _, look in frame]
        told = None if any(look is None for look in looks) or not looks else np.stack(looks)
        found.append(tracker.update([b for b, _, _ in frame], [s for _, s, _ in frame], None, told).tolist())
    return found


def by_matrices(boxes: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[float]]:
    """The filter of eight states as textbooks write it: mean, covariance, and the squared distances on the way."""
    first = boxes[0]
    size = np.array([first[2], first[3]] * 2)
    mean = np.concatenate([first, np.zeros(4)])
    spread = np.diag(np.concatenate([2 * POSITION * size, UNKNOWN * size]) ** 2)
    step, look = np.eye(8), np.eye(4, 8)
    step[:4, 4:] = np.eye(4)
    distances = []
    for seen in boxes[1:]:
        size = np.array([mean[2], mean[3]] * 2)
        mean = step @ mean
        spread = step @ spread @ step.T + np.diag(np.concatenate([POSITION * size, VELOCITY * size]) ** 2)
        noise = np.diag((POSITION * np.array([mean[2], mean[3]] * 2)) ** 2)
        surprise, expected = seen - look @ mean, look @ spread @ look.T + noise
        distances.append(float(surprise @ np.linalg.inv(expected) @ surprise))
        gain = spread @ look.T @ np.linalg.inv(expected)
        mean = mean + gain @ surprise
        spread = (np.eye(8) - gain @ look) @ spread
    return mean, spread, distances


def test_the_filter_equals_that_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    seen = [np.array([100 + 3 * k, 80 - 2 * k, 40 + k, 60.0]) + rng.normal(0, 1, 4) for k in range(12)]
    corners = [np.concatenate([b[:2] - b[2:] / 2, b[:2] + b[2:] / 2])[None] for b in seen]
    motion, distances = Motion.begin(corners[0]), []
    for each in corners[1:]:
        motion = motion.predicted()
        distances.append(float(motion.distances(each)[0, 0]))
        motion = motion.corrected(each)
    mean, spread, expected = by_matrices(seen)
    np.testing.assert_allclose(np.concatenate([motion.position[0], motion.velocity[0]]), mean, rtol=1e-9)
    np.testing.assert_allclose(motion.variance[0], np.diag(spread)[:4], rtol=1e-9)
    np.testing.assert_allclose(motion.covariance[0], np.diag(spread[:4, 4:]), rtol=1e-9)
    np.testing.assert_allclose(motion.drift[0], np.diag(spread)[4:], rtol=1e-9)
    np.testing.assert_allclose(distances, expected, rtol=1e-9)


def test_a_filter_learns_the_velocity_and_grows_unsure_where_nothing_is_seen() -> None:
    motion = Motion.begin([box(0.0)])
    for k in range(1, 30):
        motion = motion.predicted().corrected([box(5.0 * k)])
    assert motion.velocity[0, 0] == pytest.approx(5.0, rel=0.02)
    unsure = motion.predicted().predicted().predicted()
    assert unsure.position[0, 0] == pytest.approx(5.0 * 32, rel=0.02)
    assert (unsure.variance > motion.variance).all()
    near, far = unsure.distances([box(5.0 * 32), box(5.0 * 32 + 3 * SIDE)])[0]
    assert near < 0.1 < GATE < far


def test_the_gate_is_the_quantile_of_chi_squared() -> None:
    from scipy.stats import chi2

    assert pytest.approx(chi2.ppf(0.95, df=4), abs=1e-4) == GATE


def test_pairs_that_cost_too_much_stay_apart() -> None:
    cost = np.array([[0.1, 0.2], [0.15, 0.9], [np.inf, np.inf]])
    assert cheapest(cost, 0.8).tolist() == [[0, 1], [1, 0]]  # 0.35 together; greedily 0.1 would leave 0.9
    assert cheapest(cost, 0.18).tolist() == [[0, 0]]
    assert cheapest(np.zeros((0, 3)), 1.0).shape == (0, 2)


def test_overlaps_are_those_of_the_boxes_module() -> None:
    import torch

    from unified.boxes import iou_xyxy

    corner = np.random.default_rng(1).uniform(0, 50, (9, 2))
    boxes = np.concatenate([corner, corner + np.random.default_rng(2).uniform(0, 40, (9, 2))], axis=1)
    expected = iou_xyxy(torch.from_numpy(boxes)[:4, None], torch.from_numpy(boxes)[None, 4:])
    np.testing.assert_allclose(overlaps(boxes[:4], boxes[4:]), expected.numpy(), rtol=1e-9)


def test_objects_keep_their_numbers_whatever_the_order_of_the_boxes() -> None:
    rng, tracker, first = np.random.default_rng(0), Tracker(), np.zeros(0)
    for k in range(40):
        boxes = [box(50 + 3 * k, 60), box(400 - 3 * k, 200), box(200, 300 - 2 * k)]
        order = rng.permutation(3)
        ids = tracker.update(np.array(boxes)[order] + rng.normal(0, 1, (3, 4)), [0.9] * 3)
        first = ids[np.argsort(order)] if k == 0 else first
        assert ids[np.argsort(order)].tolist() == first.tolist()
    assert sorted(first) == [1, 2, 3]


def meeting(hidden: int, looks: bool) -> list[list[tuple[Any, ...]]]:
    """Two objects walk towards each other, are hidden, turn round there and walk back."""
    red, blue = (RED, BLUE) if looks else (None, None)
    there = [[(box(100 + 4 * k), 0.9, red), (box(300 - 4 * k), 0.9, blue)] for k in range(20)]
    back = [list(frame) for frame in reversed(there)]
    return there + [[] for _ in range(hidden)] + back


def test_appearance_tells_apart_what_motion_confuses() -> None:
    assert follow(meeting(6, looks=True))[-1] == [1, 2]
    assert follow(meeting(6, looks=False))[-1] == [2, 1]  # motion lets them pass through each other


def test_appearance_counts_only_where_motion_allows_it() -> None:
    far = [[(box(100), 0.9, RED)]] * 10 + [[(box(900), 0.9, RED)]] * 5
    assert follow(far)[-1] == [2]


def test_a_box_of_another_look_does_not_spoil_a_track_by_motion() -> None:
    turned = [[(box(100 + k), 0.9, RED)] for k in range(10)] + [[(box(110 + k), 0.9, BLUE)] for k in range(10)]
    assert follow(turned)[-1] == [1]  # people turn round: overlap is enough


def test_a_half_hidden_object_keeps_its_track() -> None:
    scores = [0.9] * 8 + [0.2] * 8 + [0.9] * 4
    frames = [[(box(100 + 6 * k), score, None)] for k, score in enumerate(scores)]
    assert all(ids == [1] for ids in follow(frames))
    assert [ids for ids in follow(frames, low=0.5) if ids == [0]]  # without the second round it is lost meanwhile


def test_low_scores_begin_no_track() -> None:
    assert follow([[(box(100), 0.4, None)]] * 10) == [[0]] * 10


def test_a_lost_object_is_found_again_within_the_memory() -> None:
    def gap(frames: int) -> list[int]:
        seen = [[(box(100), 0.9, RED)]]
        return follow(seen * 10 + [[]] * frames + seen * 5, memory=20)[-1]

    assert gap(19) == [1]
    assert gap(21) == [2]


def test_a_ghost_of_one_frame_gets_no_number() -> None:
    still = (box(100), 0.9, None)
    frames = [[still]] * 5 + [[still, (box(300), 0.9, None)]] + [[still]] * 5
    assert follow(frames)[5] == [1, 0]
    lasting = [[still]] * 5 + [[still, (box(300), 0.9, None)]] * 5
    assert [ids[1] for ids in follow(lasting)[5:]] == [0, 0, 2, 2, 2]


def test_a_track_is_of_one_class_unless_asked_otherwise() -> None:
    def flicker(**settings: Any) -> set[int]:
        tracker = Tracker(TrackerSettings(**settings))
        ids = [tracker.update([box(100)], [0.9], [0 if k < 10 else 1]).tolist()[0] for k in range(20)]
        return set(ids) - {0}

    assert flicker() == {1, 2}
    assert flicker(across_classes=True) == {1}


def test_frames_without_boxes_are_frames() -> None:
    assert follow([[], [], []]) == [[], [], []]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (([[0, 0, 1]], [0.5]), "boxes must be"),
        (([box(1)], [0.5, 0.5]), "1 boxes with 2 scores"),
        (([box(1)], [0.5], [0, 1]), "1 boxes with 2 labels"),
        (([box(float("nan"))], [0.5]), "finite"),
        (([box(1)], [0.5], None, [[float("inf")]]), "finite"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(call: tuple[Any, ...], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Tracker().update(*call)


def test_appearances_of_another_width_are_refused() -> None:
    tracker = Tracker()
    tracker.update([box(1)], [0.9], None, [[1.0, 0.0]])
    with pytest.raises(DataError, match="3 wide, earlier ones were 2"):
        tracker.update([box(1)], [0.9], None, [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    "settings", [{"confidence": 1.5}, {"low": 0.6}, {"confirm": 0}, {"memory": -1}, {"appearance": 3}]
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="tracker: "):
        TrackerSettings(**settings)
