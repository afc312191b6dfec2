# SPDX-License-Identifier: Apache-2.0
"""P x K batches, rectangles, sides that change by the batch, second views: which image is shown when, and how large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unified.contracts.config import AugmentConfig, DataConfig, PartConfig
from unified.contracts.errors import ConfigError, DataError
from unified.data.mixing import EvalLoader, Mixture, TrainLoader, open_mixture
from unified.data.sampler import IdentityBalanced, make_sampler
from unified.data.schedule import Proportional

SHAPES: dict[str, Any] = {"format": "shapes", "options": {"train": 40, "val": 6, "level": "easy"}}


def groups(*sizes: int) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
    """Three small sets of shapes: balanced by identities, with views, and plain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
        balanced = {**SHAPES, "labelled": {"emb": "all"}, "sampler": {"name": "pk", "p": 4, "k": 2}}
        views = {
            **SHAPES,
            "options": {"train": 5, "val": 2},
            "identity": {"image": "views"},
            "labelled": {"emb": "all"},
        }
        config = DataConfig.model_validate({"datasets": {"pk": balanced, "views": views}})
        yield open_mixture(config, {"emb": "identities"}, split="train", size=64, base=Path())


def loader(mixture: Mixture, **given: Any) -> TrainLoader:
    sizes = {name: len(source) for name, source in mixture.sources.items()}
    settings: dict[str, Any] = {"batch": 8, "size": 64, "augment": AugmentConfig(), "seed": 5, "steps": 12}
    return TrainLoader(mixture, schedule=Proportional(sizes, mixture.serves, 5), **{**settings, **given})


def test_every_batch_has_p_identities_with_k_images() -> None:
    of = {int(i): k for k, group in enumerate(groups(3, 1, 5, 2, 8, 4, 2)) for i in group}
    sampler = IdentityBalanced("x", groups(3, 1, 5, 2, 8, 4, 2), 3, 2, seed=1)
    used, addresses = Counter(), []
    for batch in range(600):
        part = [sampler.at(6 * batch + k) for k in range(6)]
        shown = [of[index] for index, _ in part]
        assert shown[::2] == shown[1::2] and len(set(shown)) == 3  # the images of an identity stand together
        for first, second in zip(part[::2], part[1::2], strict=True):
            assert first[0] != second[0] or of[first[0]] in (1,)  # two different images, where there are two
        used.update(shown)
        addresses += part
    assert len(set(addresses)) == len(addresses)  # so no two draws of an image have the same random numbers
    assert max(used.values()) < 1.15 * min(used.values())
    images = Counter(index for index, _ in addresses)
    for group in groups(3, 1, 5, 2, 8, 4, 2):
        counts = [images[int(i)] for i in group]
        assert max(counts) - min(counts) <= 0.2 * max(counts) + 2


def test_a_sampler_is_a_function_of_seed_and_place() -> None:
    def places(seed: int, name: str = "x") -> list[tuple[int, int]]:
        return [IdentityBalanced(name, groups(3, 3, 3, 3), 2, 2, seed).at(k) for k in range(40)]

    assert places(0) == places(0) and len({tuple(p) for p in (places(0), places(1), places(0, "y"))}) == 3
    late = IdentityBalanced("x", groups(3, 3, 3, 3), 2, 2, 0)
    assert late.at(37) == places(0)[37]  # without having drawn what comes before


def test_the_loader_gives_balanced_batches(mixture: Mixture) -> None:
    source = mixture.sources["pk"]
    whole = [order for order in loader(mixture, steps=30).orders() if order.dataset == "pk"]
    for order in whole:
        pairs = [order.items[k : k + 2] for k in range(0, 8, 2)]
        for (one, _), (two, _) in pairs:
            assert set(source.identities(one, "boxes")) & set(source.identities(two, "boxes"))
    halves = [[o for o in loader(mixture, steps=30, rank=r, world=2).orders() if o.dataset == "pk"] for r in range(2)]
    assert [(*a.items, *b.items) for a, b in zip(*halves, strict=True)] == [order.items for order in whole]
    rest = [order for order in loader(mixture, steps=30, start_step=11).orders() if order.dataset == "pk"]
    assert rest == whole[len(whole) - len(rest) :]


def test_identities_are_told_without_the_picture(mixture: Mixture) -> None:
    source = mixture.sources["pk"]
    for index in range(6):
        found = source.read(index).annotations
        assert list(source.identities(index, "boxes")) == sorted({*found.box_identities.tolist()})
        assert list(source.identities(index, "image")) == [found.identity]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"name": "pk", "p": 3, "k": 2}, "p 3 times k 2 is 6, but a batch has 8 images"),
        ({"name": "pk", "k": 0}, "k must be a whole number from 1"),
        ({"name": "pk", "kk": 2}, "no option 'kk'; known: k, of, p"),
        ({"name": "pks"}, "'pks' is unknown; known: pk, shuffle"),
        ({"name": "pk", "of": "tags"}, "of must be 'boxes' or 'image'"),
    ],
)
def test_what_does_not_fit_is_refused(mixture: Mixture, part: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_sampler(PartConfig.model_validate(part), mixture.sources["pk"], 8, 0)


def test_too_few_identities_and_views_are_refused(mixture: Mixture) -> None:
    with pytest.raises(DataError, match="asks for 3 identities in a batch, but its images show 2"):
        IdentityBalanced("x", groups(4, 4), 3, 2, 0)
    with pytest.raises(DataError, match="views are their own pairs"):
        make_sampler(PartConfig(name="pk"), mixture.sources["views"], 8, 0)


def test_second_views_make_retrieval_measurable(mixture: Mixture) -> None:
    for size in (64, 96):
        batches = [batch for batch in EvalLoader(mixture, batch=4, size=size) if batch.dataset == "views"]
        firsts, seconds = batches[:2], batches[2:]
        assert [len(batch) for batch in firsts] == [len(batch) for batch in seconds] == [4, 1]
        for one, two in zip(firsts, seconds, strict=True):
            assert two.tasks == ("emb",) and two.images.shape == one.images.shape
            assert [a.identity for a in one.annotations] == [a.identity for a in two.annotations]
            assert all(len(a) == 0 for a in two.annotations)  # boxes are not scored twice
            assert not any(torch.equal(x, y) for x, y in zip(one.images, two.images, strict=True))
    again = [batch.images for batch in EvalLoader(mixture, batch=4) if batch.dataset == "views"]
    assert all(
        torch.equal(x, batch.images)
        for x, batch in zip(again, [b for b in EvalLoader(mixture, batch=4) if b.dataset == "views"], strict=True)
    )
    assert len(EvalLoader(mixture, batch=4)) == len(list(EvalLoader(mixture, batch=4)))


def test_sides_change_by_the_batch_in_whole_strides(mixture: Mixture) -> None:
    augment = AugmentConfig(multi_scale=0.5)
    given: dict[str, Any] = {"augment": augment, "size": 128, "steps": 40}
    orders = list(loader(mixture, **given).orders())
    sides = [order.shape[0] for order in orders if order.shape]
    assert {*sides} == {64, 96, 128, 160, 192} and len(sides) == 40
    assert [o.shape for o in loader(mixture, rank=1, world=2, **given).orders()] == [o.shape for o in orders]
    assert [o.shape for o in loader(mixture, start_step=7, **given).orders()] == [o.shape for o in orders[7:]]
    assert [o.shape for o in loader(mixture, **{**given, "seed": 6}).orders()] != [o.shape for o in orders]
    coarse = {order.shape[0] for order in loader(mixture, stride=64, **given).orders() if order.shape}
    assert coarse == {64, 128, 192}
    for order, batch in zip(orders, loader(mixture, **{**given, "steps": 4}), strict=False):
        assert order.shape is not None and batch.images.shape[2:] == order.shape
        for found in batch.annotations:
            assert len(found) and float(found.boxes_xyxy.max()) <= order.shape[0]
    assert {order.shape for order in loader(mixture).orders()} == {None}


def test_rectangles_hold_images_of_like_shape(tmp_path: Path) -> None:
    mixture = of_sizes(tmp_path, [(60, 120), (120, 60), (100, 100), (50, 150), (60, 110), (119, 60), (99, 100)])
    batches = list(EvalLoader(mixture, batch=2, size=128, rectangular=True))
    assert [tuple(b.images.shape[2:]) for b in batches] == [(64, 128), (128, 128), (128, 128), (128, 64)]
    names = [frame.image_id for batch in batches for frame in batch.frames]
    assert sorted(names) == [str(k + 1) for k in range(7)] and names[:2] == ["4", "1"]
    for batch in batches:
        for frame, found, image in zip(batch.frames, batch.annotations, batch.images, strict=True):
            back = frame.to_original(found.boxes_xyxy)
            height, width = frame.size
            assert torch.allclose(back, torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor([width, height] * 2))
            x0, y0, x1, y1 = (int(v) for v in found.boxes_xyxy[0].round())
            assert (image[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] > 200).all() and image[0, y0 - 3, x0 - 3] < 60
    fine = [b.images.shape[2] for b in EvalLoader(mixture, batch=1, size=128, rectangular=True, stride=16)]
    assert fine == [48, 64, 80, 128, 128, 128, 128]  # 60 / 110 of 128 is 70: five strides
    plain = [b.images.shape[2:] for b in EvalLoader(mixture, batch=2, size=128)]
    assert all(shape == (128, 128) for shape in plain)


def test_training_in_rectangles_shows_every_image_once_a_pass_and_the_same_on_every_rank(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(60, 120), (120, 60), (100, 100), (110, 60)]
    mixture = of_sizes(tmp_path, [sizes[k] for k in rng.integers(0, 4, 48)], split="train")
    augment = AugmentConfig(rectangular=True, scale=0.3, fliplr=0.5)
    given: dict[str, Any] = {"augment": augment, "batch": 4, "size": 128, "steps": 30}
    orders = list(loader(mixture, **given).orders())
    for start in (0, 12):
        shown = [index for order in orders[start : start + 12] for index, _ in order.items]
        assert sorted(shown) == list(range(48))  # one pass
    shapes = [order.shape for order in orders]
    assert Counter(shapes)[64, 128] >= 3 and Counter(shapes)[128, 64] >= 3
    assert shapes[:12] != sorted(shapes[:12])  # not in the order of their shapes
    plain = loader(mixture, **{**given, "augment": AugmentConfig()})
    wide = sum(h * w for h, w in shapes) / (30 * 128 * 128)
    assert wide < 0.8 and {order.shape for order in plain.orders()} == {None}
    for order, batch in zip(orders, loader(mixture, **{**given, "steps": 6}), strict=False):
        assert batch.images.shape[2:] == order.shape
        for found, image in zip(batch.annotations, batch.images, strict=True):
            for box in found.boxes_xyxy.tolist():
                x0, y0, x1, y1 = (round(v) for v in box)
                assert 0 <= x0 < x1 <= order.shape[1] and 0 <= y0 < y1 <= order.shape[0]
                assert (image[:, y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] > 200).all()
    assert [o.shape for o in loader(mixture, start_step=7, **given).orders()] == shapes[7:]
    ranks = [list(loader(mixture, rank=rank, world=2, **given).orders()) for rank in (0, 1)]
    for whole, first, second in zip(orders, *ranks, strict=True):
        assert whole.shape == first.shape == second.shape and whole.items == first.items + second.items
    mixed = loader(mixture, **{**given, "augment": augment.model_copy(update={"mosaic": 0.5})})
    found = [order.shape for order in mixed.orders()]
    assert {*found[:27]} == {None} and found[27:] == shapes[27:]  # a mosaic is a square; the last share has none


def test_sides_and_rectangles_go_together(tmp_path: Path) -> None:
    mixture = of_sizes(tmp_path, [(60, 120), (120, 60)] * 8, split="train")
    augment = AugmentConfig(rectangular=True, multi_scale=0.5)
    shapes = {o.shape for o in loader(mixture, augment=augment, batch=4, size=128, steps=40).orders()}
    assert {max(shape) for shape in shapes} == {64, 96, 128, 160, 192}
    assert {(64, 128), (128, 64), (32, 64)} <= shapes


def test_views_are_mixed_only_for_tasks_that_learn_no_identities(tmp_path: Path) -> None:
    pictures = [(96, 96)] * 6
    mixture = of_sizes(
        tmp_path, pictures, split="train", identity={"image": "views"}, labelled=dict.fromkeys(BOTH, "all")
    )
    augment = AugmentConfig(mosaic=1.0, fliplr=0.0)
    for tasks, mixed in ((("det", "emb"), False), (("emb",), False), (("det",), True)):
        made = [mixture.sample("x", k, 0, augment, tasks=tasks) for k in range(6)]
        assert all(len(views) == 2 for views in made)
        found = [view.annotations for views in made for view in views]
        assert (max(len(each) for each in found) > 1) == mixed
        assert all((each.identity < 0) == mixed for each in found)


BOTH = {"det": "boxes", "emb": "identities"}


def of_sizes(folder: Path, sizes: list[tuple[int, int]], split: Any = "val", **more: Any) -> Mixture:
    """A COCO dataset of dark pictures (height, width), each with a bright middle and its box."""
    import json

    from PIL import Image

    (folder / "pictures").mkdir()
    images, objects = [], []
    for k, (height, width) in enumerate(sizes):
        box = [width * 0.25, height * 0.25, width * 0.5, height * 0.5]
        picture = Image.new("RGB", (width, height))
        picture.paste((255, 255, 255), tuple(round(v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3])))
        picture.save(folder / "pictures" / f"{k}.png")
        images.append({"id": k + 1, "file_name": f"{k}.png", "width": width, "height": height})
        objects.append({"id": k + 1, "image_id": k + 1, "category_id": 1, "bbox": box, "area": box[2] * box[3]})
    text = json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]})
    (folder / "all.json").write_text(text)
    part = {"images": "pictures", "annotations": "all.json"}
    config = {"path": str(folder), "train": part, "val": part, "labelled": {"det": "all"}, **more}
    data = DataConfig.model_validate({"datasets": {"x": config}})
    asked: Any = {task: table for task, table in BOTH.items() if task in config["labelled"]}
    return open_mixture(data, asked, split=split, size=128, base=folder)
