# SPDX-License-Identifier: Apache-2.0
"""Properties of the embedded `shapes` data: each test can fail for a real fault in the renderer or its store."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from unified.contracts.errors import DataError
from unified.data.shapes import (
    ATTRIBUTES,
    CLASSES,
    IDENTITIES,
    LEVELS,
    SCENES,
    Scene,
    ShapesStore,
    render,
    write_coco,
)

MANY = 500


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Enough medium scenes to count things in."""
    return [render(index) for index in range(MANY)]


def assert_same(a: Scene, b: Scene) -> None:
    for name in ("image", "boxes_xyxy", "labels", "identities", "keypoints_xyv", "attributes"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and np.array_equal(x, y), name
    assert (a.masks, a.scene, a.captions) == (b.masks, b.scene, b.captions)


def test_a_scene_depends_on_its_arguments_alone(scenes: list[Scene]) -> None:
    for index in (31, 4, 17):
        assert_same(render(index), scenes[index])
    other = [render(4, split="val"), render(4, seed=1), render(4, level="hard"), render(5)]
    assert all(not np.array_equal(scenes[4].image, scene.image) for scene in other)


def test_a_fresh_process_renders_the_same_pixels(scenes: list[Scene]) -> None:
    code = "import zlib; from unified.data.shapes import render; print(zlib.crc32(render(9).image.tobytes()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    import zlib

    assert int(out) == zlib.crc32(scenes[9].image.tobytes())


def test_rendering_needs_no_torch() -> None:
    code = "import sys; from unified.data.shapes import render; render(0); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_train_and_val_share_no_picture(scenes: list[Scene]) -> None:
    train = {scene.image.tobytes() for scene in scenes}
    val = {render(index, split="val").image.tobytes() for index in range(60)}
    assert len(train) == MANY and len(val) == 60 and not train & val


def test_shapes_types_and_ranges(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        count = len(scene.labels)
        assert 1 <= count <= 8
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        assert scene.boxes_xyxy.shape == (count, 4) and scene.boxes_xyxy.dtype == np.float32
        assert scene.identities.shape == (count,) and scene.labels.dtype == np.int64
        assert scene.attributes.shape == (len(ATTRIBUTES),) and scene.attributes.dtype == np.bool_
        assert [IDENTITIES[k].label for k in scene.identities] == scene.labels.tolist()
        assert 0 <= scene.scene < len(SCENES)


def test_boxes_are_tight_to_the_visible_masks(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        masks = scene.mask_array()
        assert masks.sum(axis=0).max() == 1, "visible masks must not overlap"
        for mask, box in zip(masks, scene.boxes_xyxy, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_keypoints_follow_the_coco_convention(scenes: list[Scene]) -> None:
    seen = {0: 0, 1: 0, 2: 0}
    for scene in scenes:
        for k, points in enumerate(scene.keypoints_xyv):
            for x, y, v in points:
                seen[int(v)] += 1
                assert (x, y) == (0, 0) if v == 0 else (0 <= x < 160 and 0 <= y < 160)
            x, y, v = points[1]
            if v == 2:  # a head in sight lies on the object itself, give or take a rounded pixel
                x0, y0, x1, y1 = scene.boxes_xyxy[k]
                assert x0 - 1 <= x <= x1 + 1 and y0 - 1 <= y <= y1 + 1
    assert all(seen.values()), seen


@pytest.mark.parametrize("level", list(LEVELS))
def test_sizes_and_counts_stay_within_the_level(level: str) -> None:
    chosen = LEVELS[level]
    crowds = []
    for index in range(60):
        scene = render(index, level=level)
        sides = (scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2]).max(axis=1)
        assert sides.max() <= chosen.diameter[1] + 2
        areas = scene.mask_array().sum(axis=(1, 2))
        least = 0.14 * chosen.diameter[0] ** 2 * chosen.visible  # the thinnest outline fills a seventh of its square
        assert areas.min() >= least
        assert len(areas) <= chosen.many[1]
        crowds.append(len(areas) >= 6)
    assert 0.08 < np.mean(crowds) < 0.6


@pytest.mark.parametrize("level", list(LEVELS))
def test_objects_are_turned_as_far_as_the_level_lets_them(level: str) -> None:
    turns = []
    for index in range(80):
        for centre, head in render(index, level=level).keypoints_xyv:
            if centre[2] and head[2]:
                right, up = head[0] - centre[0], centre[1] - head[1]
                turns.append(abs(np.degrees(np.arctan2(right, up))))
    limit = LEVELS[level].turn
    assert 0.8 * limit < max(turns) <= limit + 3  # a keypoint's rounding


def test_other_sizes_scale_the_same_scene() -> None:
    small, large = render(3), render(3, size=320)
    assert large.image.shape == (320, 320, 3)
    assert small.identities.tolist() == large.identities.tolist()
    assert np.abs(small.boxes_xyxy * 2 - large.boxes_xyxy).max() <= 4


def test_classes_and_identities_recur(scenes: list[Scene]) -> None:
    assert len(CLASSES) >= 12 and len(IDENTITIES) == 96 and len(SCENES) == 40
    assert len({identity.name for identity in IDENTITIES}) == 96
    seen = np.bincount(np.concatenate([scene.identities for scene in scenes]), minlength=96)
    assert seen.min() >= 4
    assert len({scene.scene for scene in scenes}) == 40


def test_attributes_are_neither_rare_nor_universal(scenes: list[Scene]) -> None:
    share = np.mean([scene.attributes for scene in scenes], axis=0)
    assert np.all(share > 0.08) and np.all(share < 0.6), dict(zip(ATTRIBUTES, share.round(2), strict=True))


def _flag(scenes: Iterable[Scene], name: str) -> list[bool]:
    return [name in scene.tags for scene in scenes]


def test_light_tags_show_in_the_pixels(scenes: list[Scene]) -> None:
    mean = np.array([scene.image.mean() for scene in scenes])
    spread = np.array([scene.image.std() for scene in scenes])
    cast = np.array([float(scene.image[..., 0].mean()) - float(scene.image[..., 2].mean()) for scene in scenes])
    grain = np.array([np.abs(np.diff(scene.image.astype(float).sum(2), n=2, axis=0)).mean() for scene in scenes])
    for name, sign, value in (
        ("dark", -1, mean),
        ("foggy", -1, spread),
        ("warm", 1, cast),
        ("cool", -1, cast),
        ("noisy", 1, grain),
    ):
        on = np.array(_flag(scenes, name))
        assert sign * (np.median(value[on]) - np.median(value[~on])) > 0.35 * value.std(), name


def test_crowded_counts_objects(scenes: list[Scene]) -> None:
    assert _flag(scenes, "crowded") == [len(scene.labels) >= 6 for scene in scenes]


def test_identities_keep_their_look(scenes: list[Scene]) -> None:
    """Under every light, an object's colour is mostly nearest to its own identity's among its class's eight."""
    colours: dict[int, list[np.ndarray]] = {k: [] for k in range(96)}
    for scene in scenes:
        if any(tag in scene.tags for tag in ("dark", "foggy", "spotlight")):
            continue
        picture = scene.image / max(1.0, scene.image.mean())
        for mask, identity in zip(scene.mask_array(), scene.identities, strict=True):
            colours[int(identity)].append(picture[mask].mean(axis=0))
    right = total = 0
    for k, looks in colours.items():
        mates = [m for m in range(96) if IDENTITIES[m].label == IDENTITIES[k].label and colours[m]]
        for i, look in enumerate(looks):
            rest = {m: [c for j, c in enumerate(colours[m]) if m != k or j != i] for m in mates}
            gaps = {m: np.linalg.norm(np.mean(c, axis=0) - look) for m, c in rest.items() if c}
            right, total = right + (min(gaps, key=lambda m: gaps[m]) == k), total + 1
    assert right / total > 0.5, right / total  # one in eight by chance


def test_captions_name_what_is_there(scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        long, short = scene.captions
        for label in set(scene.labels.tolist()):
            assert CLASSES[label] in short
        assert SCENES[scene.scene].phrase in long


def _toil(level: str) -> tuple[float, float, float]:
    """Mean box side, mean share of each box's own pixels covered by others, and picture contrast around objects."""
    sides, hidden, contrast = [], [], []
    for index in range(60):
        scene = render(index, level=level)
        box = scene.boxes_xyxy
        sides += (box[:, 2:] - box[:, :2]).max(axis=1).tolist()
        hidden += (scene.keypoints_xyv[:, :, 2] < 2).mean(axis=1).tolist()
        grey = scene.image.mean(axis=2)
        ground = grey[~scene.mask_array().any(axis=0)].mean()
        contrast += [abs(float(grey[mask].mean() - ground)) for mask in scene.mask_array()]
    return float(np.mean(sides)), float(np.mean(hidden)), float(np.mean(contrast))


def test_hard_is_harder_than_easy() -> None:
    easy, hard = _toil("easy"), _toil("hard")
    assert hard[0] < 0.7 * easy[0] and hard[1] > 2 * easy[1] and hard[2] < 0.9 * easy[2], (easy, hard)


@pytest.mark.parametrize(
    "bad", [{"split": "test"}, {"level": "extreme"}, {"index": -1}, {"seed": -1}, {"size": 16}], ids=str
)
def test_bad_arguments_are_named(bad: dict[str, object]) -> None:
    arguments = {"index": 0, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        render(arguments.pop("index"), **arguments)  # type: ignore[arg-type]


def test_store_returns_what_render_does(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = ShapesStore.open("val", count=30, root=tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert len(store) == 30 and calls[-1] == (30, 30)
    for index in (0, 7, 29):
        assert_same(store[index], render(index, split="val"))
    assert_same(store[-1], store[29])
    with pytest.raises(IndexError):
        store[30]
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    assert_same(copy[5], store[5])


def test_processes_do_not_change_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified.data.shapes.farm._ALONE", 10)
    alone = ShapesStore.open("train", count=40, root=tmp_path / "a", processes=1)
    helped = ShapesStore.open("train", count=40, root=tmp_path / "b", processes=2)
    assert np.array_equal(alone.images, helped.images)
    for index in (0, 19, 20, 39):
        assert_same(alone[index], helped[index])


def test_a_second_open_renders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ShapesStore.open("train", count=5, root=tmp_path)
    monkeypatch.setattr("unified.data.shapes.store.render_all", lambda *_: pytest.fail("rendered again"))
    assert len(ShapesStore.open("train", count=5, root=tmp_path)) == 5
    with pytest.raises(pytest.fail.Exception):
        ShapesStore.open("train", count=5, root=tmp_path, seed=1)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "meta", "pixels"])
def test_a_damaged_cache_is_rendered_again(tmp_path: Path, damage: str) -> None:
    folder = ShapesStore.open("train", count=5, root=tmp_path).folder
    labels, images = folder / "labels.npy", folder / "images.npy"
    if damage == "missing":
        labels.unlink()
    elif damage == "truncated":
        images.write_bytes(images.read_bytes()[:-1000])
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        target = labels if damage == "flipped" else images
        data = bytearray(target.read_bytes())
        data[-3] ^= 0xFF
        target.write_bytes(data)
    store = ShapesStore.open("train", count=5, root=tmp_path)
    for index in range(5):
        assert_same(store[index], render(index))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "no drafts are left behind"


def test_racing_opens_both_succeed(tmp_path: Path) -> None:
    stores: list[ShapesStore] = []
    threads = [
        threading.Thread(target=lambda: stores.append(ShapesStore.open("train", count=12, root=tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 3 and all(np.array_equal(stores[0].images, store.images) for store in stores)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_cache_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ShapesStore.open("train", count=1, root=tmp_path / "file" / "cache")


def test_a_relative_cache_variable_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFIED_CACHE", "here")
    with pytest.raises(DataError, match="absolute"):
        ShapesStore.open("train", count=1)
    assert not list(tmp_path.iterdir())


def test_write_coco_loads_in_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image
    from pycocotools.coco import COCO

    out = tmp_path / "coco"
    write_coco(out, train=6, val=3, seed=2)
    coco = COCO(str(out / "annotations" / "instances_train.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for number, image in coco.imgs.items():
        scene = render(number - 1, seed=2)
        assert np.array_equal(np.asarray(Image.open(out / "train" / image["file_name"])), scene.image)
        assert tuple(image["tags"]) == scene.tags and all(image[tag] is True for tag in scene.tags)
        objects = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        boxes = np.array([o["bbox"] for o in objects], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        assert np.array_equal(boxes, scene.boxes_xyxy)
        assert np.array_equal(np.stack([coco.annToMask(o) for o in objects]) == 1, scene.mask_array())
        assert [o["identity"] for o in objects] == [IDENTITIES[k].name for k in scene.identities]
        assert [o["num_keypoints"] for o in objects] == (scene.keypoints_xyv[:, :, 2] > 0).sum(1).tolist()
    assert len(COCO(str(out / "annotations" / "captions_val.json")).anns) == 6
    with pytest.raises(ValueError, match="not empty"):
        write_coco(out, train=1, val=1)


def test_a_level_with_other_numbers_is_rendered_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> ShapesStore:
        return ShapesStore.open("val", count=2, level="easy", size=48, root=tmp_path, processes=1)

    first = opened()
    darker = dataclasses.replace(LEVELS["easy"], exposure=(0.3, 0.31), dark=(0.3, 0.31))
    with monkeypatch.context() as patch:
        patch.setitem(LEVELS, "easy", darker)
        other = opened()
        assert other.folder != first.folder and not np.array_equal(other.images, first.images)
    assert opened().folder == first.folder
