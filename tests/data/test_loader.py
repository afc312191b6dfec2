# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unified.contracts.config import AugmentConfig, DataConfig
from unified.contracts.document import load_data
from unified.contracts.errors import DataError
from unified.contracts.protocols import Turn
from unified.contracts.structures import Batch
from unified.data.collate import COLUMNS
from unified.data.loader import spoilage_of
from unified.data.mixing import EvalLoader, Mixture, TrainLoader, open_mixture
from unified.data.schedule import Proportional

LABELS: dict[str, Any] = {"det": "boxes", "cls": "tags", "emb": "identities"}
STRONG = AugmentConfig(mosaic=0.5, scale=0.3, translate=0.1, rotate=5, hue=0.02, saturation=0.4, value=0.3, close=0.0)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
    """Two small sets of shapes: 11 scenes for all tasks, and 5 whose views are their identity."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
        whole = {"format": "shapes", "options": {"train": 11, "val": 3}, "labelled": dict.fromkeys(LABELS, "all")}
        views = {**whole, "options": {"train": 5, "val": 2, "level": "easy"}, "identity": {"image": "views"}}
        config = DataConfig.model_validate({"datasets": {"all": whole, "two": {**views, "labelled": {"emb": "all"}}}})
        yield open_mixture(config, LABELS, split="train", size=64, base=Path())


def loader(mixture: Mixture, **given: Any) -> TrainLoader:
    sizes = {name: len(source) for name, source in mixture.sources.items()}
    settings: dict[str, Any] = {"batch": 4, "size": 64, "augment": STRONG, "seed": 5, "workers": 0, "steps": 12}
    return TrainLoader(mixture, schedule=Proportional(sizes, mixture.serves, 5), **{**settings, **given})


def fingerprint(batch: Batch) -> tuple[Any, ...]:
    """Everything that a batch says, comparable."""
    annotations = tuple(
        (
            *(getattr(a, column).tolist() for column in COLUMNS),
            a.identity,
            {t: row.tolist() for t, row in a.states.items()},
        )
        for a in batch.annotations
    )
    return batch.dataset, batch.tasks, batch.frames, batch.images.numpy().tobytes(), annotations


def prints(batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    return [fingerprint(batch) for batch in batches]


def test_batches_are_as_promised(mixture: Mixture) -> None:
    batches = list(loader(mixture))
    assert len(batches) == len(loader(mixture)) == 12
    assert {batch.dataset: batch.tasks for batch in batches} == mixture.serves
    for batch in batches:
        assert batch.images.shape == (4, 3, 64, 64) and batch.images.dtype == torch.uint8
        assert len(batch) == len(batch.frames) == 4
        if batch.dataset == "two":
            ids = [a.identity for a in batch.annotations]
            assert ids[0] == ids[1] and ids[2] == ids[3] and min(ids) >= len(mixture.vocabulary.image_identities)
            assert not torch.equal(batch.images[0], batch.images[1])
        else:
            assert {name: len(row) for name, row in batch.annotations[0].states.items()} == {
                "det": 12,
                "cls": 23,
                "emb": 1,
            }


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(mixture: Mixture, workers: int) -> None:
    assert prints(loader(mixture, workers=workers)) == prints(loader(mixture, ahead=False))


def test_a_thread_ahead_changes_nothing(mixture: Mixture) -> None:
    assert prints(loader(mixture)) == prints(loader(mixture, ahead=False))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_are_one_process(mixture: Mixture, world: int) -> None:
    turn = Turn("all", mixture.serves["all"])

    class Always:
        def turn(self, step: int) -> Turn:
            return turn

        def dataset_steps(self, step: int) -> dict[str, int]:
            return {"all": step, "two": 0}

    alone = [
        b.images for b in TrainLoader(mixture, schedule=Always(), batch=4, size=64, augment=STRONG, seed=1, steps=6)
    ]
    parts = [
        [
            b.images
            for b in TrainLoader(
                mixture, schedule=Always(), batch=4, size=64, augment=STRONG, seed=1, steps=6, rank=rank, world=world
            )
        ]
        for rank in range(world)
    ]
    assert all(torch.equal(torch.cat(step), whole) for step, whole in zip(zip(*parts, strict=True), alone, strict=True))


def test_ranks_take_whole_pairs_of_views(mixture: Mixture) -> None:
    orders = [list(loader(mixture, rank=rank, world=2).orders()) for rank in range(2)]
    whole = list(loader(mixture).orders())
    assert [(*a.items, *b.items) for a, b in zip(*orders, strict=True)] == [order.items for order in whole]
    for batch in loader(mixture, rank=1, world=4):
        if batch.dataset == "two":  # a pair at least, though the share of one rank is a single image
            assert batch.annotations[0].identity == batch.annotations[1].identity


def test_a_run_resumes_from_its_step_alone(mixture: Mixture) -> None:
    whole = prints(loader(mixture))
    for start in (1, 5, 11):
        assert prints(loader(mixture, start_step=start)) == whole[start:]


def test_every_epoch_of_a_dataset_shows_each_image_once(mixture: Mixture) -> None:
    items = [item for order in loader(mixture, steps=200).orders() if order.dataset == "all" for item in order.items]
    epochs = len(items) // 11
    for epoch in range(epochs):
        part = items[11 * epoch : 11 * epoch + 11]
        assert sorted(index for index, _ in part) == list(range(11)) and {e for _, e in part} == {epoch}
    orders = {tuple(index for index, e in items if e == epoch) for epoch in range(epochs)}
    assert len(orders) == epochs > 20


def test_seeds_and_epochs_give_other_pixels(mixture: Mixture) -> None:
    def pixels(epoch: int, seed: int) -> bytes:
        return mixture.sample("all", 3, epoch, STRONG, seed=seed)[0].image.numpy().tobytes()

    assert pixels(0, 0) == pixels(0, 0) and len({pixels(0, 0), pixels(1, 0), pixels(0, 1)}) == 3


def test_mosaic_stops_for_the_last_share_of_a_run(mixture: Mixture) -> None:
    closing = STRONG.model_copy(update={"mosaic": 1.0, "mixup": 0.5, "close": 0.25})
    orders = [order.augment for order in loader(mixture, augment=closing).orders() if order.augment]
    assert [augment.mosaic for augment in orders] == [1.0] * 9 + [0.0] * 3
    assert [augment.mixup for augment in orders] == [0.5] * 9 + [0.0] * 3


def test_pictures_may_change_from_step_to_step(mixture: Mixture) -> None:
    def changing(step: int) -> AugmentConfig:
        return STRONG.model_copy(update={"mosaic": 1.0, "mosaic_images": 4 if step < 5 else 9, "mixup": 0.5})

    whole = prints(loader(mixture, augment=changing))
    assert prints(loader(mixture, augment=changing, start_step=7, workers=1)) == whole[7:]
    steady = prints(loader(mixture, augment=changing(0)))
    same = [a == b for a, b in zip(whole, steady, strict=True)]
    assert all(same[:5]) and not any(s for s, order in zip(same[5:], whole[5:], strict=True) if order[0] == "all")


def test_evaluation_shows_all_images_once_in_order(mixture: Mixture) -> None:
    batches = EvalLoader(mixture, batch=4, size=96)
    for _ in range(2):
        seen: Counter[str] = Counter()
        names = []
        for batch in batches:
            assert batch.images.shape[2:] == (96, 96) and batch.tasks == mixture.serves[batch.dataset]
            names += [(batch.dataset, frame.image_id) for frame in batch.frames]
            seen[batch.dataset] += len(batch)
            for annotations, frame in zip(batch.annotations, batch.frames, strict=True):
                size = frame.to_original(annotations.boxes_xyxy)
                assert bool((size <= 64 + 1e-3).all())
        assert seen == {"all": 11, "two": 10}  # of views a second one, to be found by
        order = (("all", 11), ("two", 5), ("two", 5))
        assert names == [(name, f"train-{k}") for name, count in order for k in range(count)]
    assert len(batches) == 7
    assert sum(len(batch) for batch in EvalLoader(mixture, batch=4, limit=3)) == 9


@pytest.mark.parametrize("given", [{"workers": 2}, {"workers": 0}, {"ahead": False}])
def test_a_bad_picture_is_one_line_from_anywhere(tmp_path: Path, given: dict[str, Any]) -> None:
    import json

    from PIL import Image

    images = [{"id": k, "file_name": f"{k}.png"} for k in range(12)]
    for k in range(11):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    (tmp_path / "11.png").write_text("nothing")
    whole = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(whole))
    part = {"train": {"annotations": "all.json"}, "labelled": {"det": "all"}}
    config = DataConfig.model_validate({"datasets": {"zoo": part}})
    opened = open_mixture(config, {"det": "boxes"}, split="train", size=16, base=tmp_path)
    with pytest.raises(DataError) as error:
        list(loader(opened, size=16, spoilage=spoilage_of(opened, most=0.0), **given))
    assert "\n" not in str(error.value) and "11.png" in str(error.value)


def test_leaving_early_leaves_no_thread(mixture: Mixture) -> None:
    batches = iter(loader(mixture, steps=10_000))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "unified-data" for thread in threading.enumerate())


def test_a_killed_worker_is_one_line_and_soon(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified.data.kitchen.GLANCE", 1.0)
    before = {child.pid for child in multiprocessing.active_children()}
    batches = iter(loader(mixture, steps=10_000, workers=1))
    next(batches)
    (worker,) = [child for child in multiprocessing.active_children() if child.pid not in before]
    os.kill(int(worker.pid or 0), signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"a data worker died: worker 0 .process .*image|between two") as error:
        list(batches)
    assert "\n" not in str(error.value) and time.monotonic() - start < 20


def test_too_many_ranks_are_refused(mixture: Mixture) -> None:
    with pytest.raises(DataError, match="batch of 4 images cannot be shared by 8 ranks"):
        loader(mixture, world=8)


def test_shapes_say_what_they_are(mixture: Mixture) -> None:
    from unified.data.shapes import ATTRIBUTES, CLASSES, IDENTITIES, SCENES, render

    words = mixture.vocabulary
    assert words.boxes == tuple(CLASSES) and words.tags == tuple(ATTRIBUTES) + tuple(CLASSES)
    assert len(words.identities) == len(IDENTITIES) and len(words.image_identities) == len(SCENES)
    for k in range(11):
        sample, scene = mixture.sample("all", k)[0], render(k, size=64)
        found = sample.annotations
        assert torch.equal(sample.image, torch.from_numpy(scene.image.copy()).permute(2, 0, 1))
        assert torch.equal(found.boxes_xyxy, torch.from_numpy(scene.boxes_xyxy))
        assert found.box_identities.tolist() == scene.identities.tolist() and found.identity == scene.scene
        assert found.box_areas.tolist() == scene.mask_array().sum((1, 2)).tolist()
        tags = {words.tags[j] for j, state in enumerate(found.states["cls"].tolist()) if state == 3}
        assert tags == {*scene.tags} | {CLASSES[label] for label in scene.labels}


@pytest.mark.parametrize("options", [{"level": "mild"}, {"train": 0}, {"trian": 5}, {"size": 10}, {"seed": "x"}])
def test_bad_shapes_options_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    config = DataConfig.model_validate({"datasets": {"s": {"format": "shapes", "options": options}}})
    with pytest.raises(DataError, match="dataset 's'"):
        open_mixture(config, LABELS, split="train", size=64, base=tmp_path)


@pytest.mark.parametrize(
    ("name", "images", "words"),
    [
        ("fod", (2232, 744), {"boxes": 31, "tags": 5, "identities": 115, "image_identities": 114}),
        ("coco-mini", (343, 328), {"boxes": 80, "tags": 80, "identities": 0, "image_identities": 0}),
        ("coco-medium", (2517, 700), {"boxes": 80, "tags": 80, "identities": 0, "image_identities": 0}),
    ],
)
def test_shipped_configurations_open(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, images: tuple[int, int], words: dict[str, int]
) -> None:
    monkeypatch.setenv("UNIFIED_TEST_DATA", str(shared.resolve()))
    config, base = load_data(name)
    train = open_mixture(config, LABELS, split="train", size=96, base=base)
    val = open_mixture(config, LABELS, split="val", size=96, base=base, vocabulary=train.vocabulary)
    assert (train.images, val.images) == images and train.serves == {name: ("det", "cls", "emb")}
    assert {key: len(value) for key, value in vars(train.vocabulary).items()} == words
    assert not train.warnings and not val.warnings
    for batch in [*loader(train, size=96, steps=2), *EvalLoader(val, batch=4, limit=8)]:
        assert batch.images.shape == (4, 3, 96, 96)
        if "det" in batch.tasks:  # second views, by which images are recognised, have no boxes
            assert any(len(annotations) for annotations in batch.annotations)
