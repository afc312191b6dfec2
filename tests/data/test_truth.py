# SPDX-License-Identifier: Apache-2.0
"""A transform that would make a label untrue is left out, or the label becomes unlabelled: by task and by dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unified.contracts.augmentation import MIXING, TRANSFORMS, broken, spelled_out, without
from unified.contracts.config import AugmentConfig, DataConfig, DatasetConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import tasks as registered
from unified.contracts.structures import LabelState, Sample
from unified.data.mixing import Mixture, open_mixture

ALL = AugmentConfig(**dict.fromkeys(TRANSFORMS, 0.5))
TABLES: dict[str, Any] = {"det": "boxes", "cls": "tags", "emb": "identities", "cap": "none"}
BREAKS = {"det": (), "cls": MIXING, "emb": MIXING, "cap": (*MIXING, "flip")}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(tasks: str = "det,cls,emb", **given: Any) -> Mixture:
    names = tasks.split(",")
    labelled = {task: "all" for task in names if task != "cap"}
    options = {"train": 8, "val": 2, "level": "easy"}
    dataset = {"format": "shapes", "options": options, "labelled": labelled, **given}
    config = DataConfig.model_validate({"datasets": {"x": dataset}})
    table = {task: TABLES[task] for task in names}
    return open_mixture(config, table, split="train", size=64, base=Path(), breaks={t: BREAKS[t] for t in names})


def allowed(mixture: Mixture, augment: AugmentConfig = ALL, tasks: str | None = None) -> set[str]:
    true = mixture.readers["x"].allowed(augment, tasks.split(",") if tasks else mixture.serves["x"])
    return {name for name in TRANSFORMS if getattr(true, name)}


def develop(mixture: Mixture, **given: Any) -> list[Sample]:
    augment = AugmentConfig(fliplr=0.0, **given)
    return [mixture.sample("x", index, epoch, augment)[0] for index in range(8) for epoch in range(4)]


def test_every_registered_task_names_known_transforms() -> None:
    for name in ("det", "cls", "emb"):
        assert spelled_out(registered.get(name).breaks, name) == registered.get(name).breaks
    assert registered.get("emb").breaks >= {"mosaic"} and not registered.get("det").breaks


def test_every_transform_is_a_setting_that_zero_switches_off() -> None:
    none = without(ALL, TRANSFORMS)
    assert all(getattr(none, name) == 0 for name in TRANSFORMS)
    assert {*AugmentConfig.model_fields} - {*TRANSFORMS} == {
        *("mosaic_images", "copy_paste_by", "cutout_side", "multi_scale", "rectangular", "close")
    }


def test_what_breaks_a_task_is_left_out_of_its_batches_alone() -> None:
    mixture = opened("det,cap")
    assert allowed(mixture) == {*TRANSFORMS} - {"fliplr", "flipud"}  # a mosaic unlabels the caption, a flip would lie
    assert allowed(mixture, tasks="det") == {*TRANSFORMS}
    assert allowed(mixture, tasks="cap") == {*TRANSFORMS} - {"fliplr", "flipud", *MIXING}  # nothing would be left


def test_mixing_is_left_out_where_no_task_would_learn_anything() -> None:
    assert allowed(opened("det,cls,emb")) == {*TRANSFORMS}
    assert allowed(opened("cls")) == {*TRANSFORMS}  # the presence of classes moves with the boxes
    assert allowed(opened("emb")) == {*TRANSFORMS}  # so do the identities of boxes
    fields_alone = opened("cls", labelled={"cls": ["dark", "foggy"]})
    assert allowed(fields_alone) == {*TRANSFORMS} - {*MIXING}


def test_a_dataset_may_say_more_or_less() -> None:
    assert allowed(opened("det,emb", breaks={"emb": ["colour"]})) == {*TRANSFORMS} - {"hue", "saturation", "value"}
    assert allowed(opened("det,emb", breaks={"emb": ["hue"]}), tasks="det") == {*TRANSFORMS}
    assert allowed(opened("det,cap", keeps={"cap": ["flip"]})) == {*TRANSFORMS}
    assert allowed(opened("det,emb", breaks={"det": ["mosaic"]})) == {*TRANSFORMS} - {"mosaic"}
    with pytest.raises(ConfigError, match=r"dataset 'x': breaks of task 'emb': unknown transform 'heu'.*did you mean"):
        opened("emb", breaks={"emb": ["heu"]})
    config = DatasetConfig(breaks={"a": ("crop",)}, keeps={"a": ("hue",)})
    assert broken(config, "x", "a", ("hue", "mosaic")) == {"scale", "translate", "mosaic"}
    assert broken(config, "x", "b", ("hue",)) == {"hue"}


def test_a_hue_that_is_kept_out_leaves_pixels_as_they_are() -> None:
    plain, kept = (opened("emb", **given) for given in ({}, {"breaks": {"emb": ["hue"]}}))
    for index in range(4):
        still = plain.sample("x", index, 0, AugmentConfig(fliplr=0.0))[0].image
        assert torch.equal(kept.sample("x", index, 0, AugmentConfig(fliplr=0.0, hue=0.3))[0].image, still)
        assert not torch.equal(plain.sample("x", index, 0, AugmentConfig(fliplr=0.0, hue=0.3))[0].image, still)


@pytest.mark.parametrize("given", [{"mosaic": 1.0}, {"mosaic": 1.0, "mixup": 1.0}, {"copy_paste": 1.0}])
def test_labels_of_whole_images_are_unlabelled_in_what_is_mixed(given: dict[str, float]) -> None:
    mixture = opened()
    own = 11  # tags of the scene; the others are the presence of a class
    plain = {s.frame.image_id: s.annotations for s in develop(mixture)}
    mixed = 0
    for sample in develop(mixture, **given):
        found, was = sample.annotations, plain[sample.frame.image_id]
        shown = {int(label) for label in found.box_labels}
        tags, boxes = found.states["cls"], found.states["det"]
        changed = found.identity == -1
        assert changed or ("mosaic" not in given and torch.equal(found.boxes_xyxy, was.boxes_xyxy))
        mixed += changed
        if changed:
            assert (tags[:own] == LabelState.UNLABELLED).all()
        else:
            assert found.identity == was.identity and torch.equal(tags[:own], was.states["cls"][:own])
        for k in range(12):
            assert (boxes[k] == LabelState.POSITIVE) == (k in shown) == (tags[own + k] == LabelState.POSITIVE)
        assert (found.box_identities >= 0).all()
    assert mixed > 16


def test_tags_that_a_dataset_keeps_are_those_of_all_pictures_together() -> None:
    kept = opened("det,cls", keeps={"cls": ["mix"]})
    truth = {k: kept.sample("x", k)[0].annotations.states["cls"][:11] for k in range(8)}
    anywhere = torch.stack(list(truth.values())).max(dim=0).values
    seen = set()
    for sample in develop(kept, mosaic=1.0):
        tags = sample.annotations.states["cls"][:11]
        assert {*tags.tolist()} <= {LabelState.NEGATIVE, LabelState.POSITIVE}
        assert (tags <= anywhere).all() and (tags >= truth[int(sample.frame.image_id.split("-")[1])]).all()
        seen.update(tags.tolist())
    assert seen == {LabelState.NEGATIVE, LabelState.POSITIVE}


def test_pasted_objects_come_from_the_same_dataset_with_all_that_is_known() -> None:
    mixture = opened("det,emb")
    plain = {s.frame.image_id: s for s in develop(mixture)}
    more = 0
    for sample in develop(mixture, copy_paste=1.0):
        was = plain[sample.frame.image_id]
        if sample.annotations.identity >= 0:
            assert torch.equal(sample.image, was.image)
            continue
        more += 1
        changed = (sample.image != was.image).any(dim=0)
        masks = sample.annotations.extras["masks"].draw()
        assert bool((masks.any(dim=0) | ~changed).all())  # every new pixel is some object's
        assert len(masks) == len(sample.annotations.box_identities) == len(sample.annotations)
    assert more > 16


def test_a_class_that_is_not_fully_marked_gets_no_pasted_company() -> None:
    mixture = opened("det")
    reader = mixture.readers["x"]
    found = mixture.sample("x", 0)[0].annotations
    looked = torch.full((12,), int(LabelState.UNLABELLED), dtype=torch.int8)
    looked[3] = LabelState.NEGATIVE
    marked = type(found)(box_labels=torch.tensor([5]), box_states=torch.tensor([3]), states={"boxes": looked})
    assert np.flatnonzero(reader.known_here(marked)).tolist() == [3, 5]
    assert reader.known_here(found).all()


def test_people_are_told_what_is_left_out() -> None:
    told = opened("emb", breaks={"emb": ["hue"]}).remarks([AugmentConfig(), AugmentConfig(hue=0.1, mosaic=0.5)])
    assert told == ("dataset 'x': without hue, which would make labels untrue",)
    views = opened("emb", identity={"image": "views"}).remarks([AugmentConfig(mosaic=0.5)])
    assert views == ("dataset 'x': without mosaic, which would make labels untrue",)
    mixture = opened("det")
    mixture.sources["x"].masks = False
    assert "for want of masks" in mixture.remarks([AugmentConfig(copy_paste=0.5)])[0]
    assert mixture.remarks([AugmentConfig(copy_paste=0.5, copy_paste_by="boxes")]) == ()
