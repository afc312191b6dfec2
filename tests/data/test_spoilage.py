# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.config import AugmentConfig, DataConfig
from unified.contracts.errors import DataError
from unified.contracts.protocols import Turn
from unified.contracts.structures import Batch
from unified.data.larder import Larder, stock
from unified.data.loader import reach_of, spoilage_of
from unified.data.mixing import EvalLoader, Mixture, TrainLoader, open_mixture
from unified.data.spoilage import Spoiled, stand_ins

COUNT, BAD = 30, (3, 17)
STRONG = AugmentConfig(
    mosaic=0.6, mixup=0.5, copy_paste=0.4, copy_paste_by="boxes", cutout=0.3, scale=0.5, translate=0.1, rotate=5,
    hue=0.02, saturation=0.4, value=0.3, multi_scale=0.5, close=0.0,
)  # fmt: skip
REACH = 96


class Always:
    """A schedule of one dataset."""

    def turn(self, step: int) -> Turn:
        return Turn("zoo", ("det",))

    def dataset_steps(self, step: int) -> dict[str, int]:
        return {"zoo": step}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures of many sizes, two of which cannot be read: one missing, one cut off."""
    folder = tmp_path_factory.mktemp("zoo")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(COUNT):
        width, height = (int(v) for v in rng.integers(40, 260, 2))
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{k}.jpg", quality=90)
        images.append({"id": k, "file_name": f"{k}.jpg", "width": width, "height": height})
        box = [width // 4, height // 4, width // 2, height // 2]
        annotations.append({"id": k + 1, "image_id": k, "category_id": 1, "bbox": box})
    cut = folder / f"{BAD[0]}.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (folder / f"{BAD[1]}.jpg").unlink()
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "all.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture(scope="module")
def mixture(zoo: Path) -> Mixture:
    return opened(zoo)


def opened(folder: Path, **more: Any) -> Mixture:
    part = {"train": {"annotations": "all.json"}, "labelled": {"det": "all"}, **more}
    config = DataConfig.model_validate({"datasets": {"zoo": part}})
    return open_mixture(config, {"det": "boxes"}, split="train", size=64, base=folder)


def loader(mixture: Mixture, **given: Any) -> TrainLoader:
    most = given.pop("most", 0.1)
    settings: dict[str, Any] = {"batch": 4, "size": 64, "augment": STRONG, "seed": 5, "workers": 0, "steps": 16}
    spoilage = spoilage_of(mixture, most)
    return TrainLoader(mixture, schedule=Always(), spoilage=spoilage, **{**settings, **given})


def fingerprint(batch: Batch) -> tuple[Any, ...]:
    boxes = [(a.boxes_xyxy.tolist(), a.box_labels.tolist(), a.states["det"].tolist()) for a in batch.annotations]
    return batch.frames, tuple(batch.images.shape), batch.images.numpy().tobytes(), boxes


def prints(loader: TrainLoader) -> list[tuple[Any, ...]]:
    return [fingerprint(batch) for batch in loader]


def test_an_unreadable_picture_costs_one_record(mixture: Mixture) -> None:
    batches = loader(mixture)
    shown = [frame.image_id for batch in batches for frame in batch.frames]
    assert len(shown) == 64 and {*shown} == {str(k) for k in range(COUNT) if k not in BAD}
    assert {index for _, index in batches.spoilage.found} == {*BAD}
    (line,) = batches.spoilage.lines()
    assert line.startswith("dataset 'zoo': 2 of 30 pictures could not be used: ") and "\n" not in line
    assert all(f"{k}.jpg" in line for k in BAD)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "cache"), [(0, "ram"), (1, "none"), (1, "ram"), (2, "disk"), (4, "ram")])
def test_pixels_and_order_know_no_workers_and_no_cache(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Any, workers: int
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    larder = stock(mixture.sources, REACH, cache, 1e9)
    plain, given = loader(mixture, ahead=False, reach=REACH), {"workers": workers, "reach": REACH, "larder": larder}
    expected = prints(plain)
    many = loader(mixture, **given)
    assert prints(many) == expected
    assert {*many.spoilage.found} == {*plain.spoilage.found} == {("zoo", k) for k in BAD}
    assert len({shape for _, shape, _, _ in expected}) > 1, "multi-scale is on"


@pytest.mark.parametrize("cached", [False, True])
def test_two_ranks_are_one(mixture: Mixture, cached: bool) -> None:
    larder = stock(mixture.sources, REACH, "ram" if cached else "none", 1e9)
    given: dict[str, Any] = {"reach": REACH, "larder": larder}
    alone = [batch.images for batch in loader(mixture, **given)]
    ranks = [loader(mixture, rank=rank, world=2, workers=rank, **given) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), whole)


def test_a_larder_serves_all_but_the_first_time(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    for cache in ("ram", "disk"):
        larder = kept(mixture, cache)
        assert larder.kept == {"zoo": COUNT}
        first = prints(loader(mixture, reach=REACH, larder=larder, ahead=False))
        read = larder.misses
        assert prints(loader(mixture, reach=REACH, larder=larder, ahead=False)) == first
        known = COUNT - len(BAD)
        assert read >= known and larder.hits >= known
        larder.hits = larder.misses = 0
        list(loader(mixture, reach=REACH, larder=larder, ahead=False, augment=AugmentConfig()))
        assert larder.misses <= 3 * len(BAD)  # only what cannot be read
    again = kept(mixture, "disk")  # another run on the same disk
    list(loader(mixture, reach=REACH, larder=again, ahead=False))
    assert again.hits > 0 and again.misses <= 20 * len(BAD) and again.hits > 5 * again.misses


def kept(mixture: Mixture, cache: Any, budget: float = 1e9) -> Larder:
    larder = stock(mixture.sources, REACH, cache, budget)
    assert larder is not None
    return larder


def test_a_larder_stays_within_its_budget(mixture: Mixture) -> None:
    larder = kept(mixture, "ram", 200_000)
    assert 3 < larder.kept["zoo"] < 20
    plain = prints(loader(mixture, reach=REACH, ahead=False))
    assert prints(loader(mixture, reach=REACH, larder=larder, ahead=False)) == plain
    assert larder.hits > 0
    assert stock(mixture.sources, REACH, "ram", 100) is None


def test_a_changed_picture_and_a_damaged_larder_are_read_anew(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10), (200, 0, 0)).save(path)
    larder = kept(opened(zoo), "disk")

    def colour() -> list[int]:
        pixels, size = larder.read("zoo", 0, "a.png", REACH, tmp_path)
        assert size == (10, 20)
        return pixels[:, 0, 0].tolist()

    assert colour() == colour() == [200, 0, 0] and larder.hits == 1
    Image.new("RGB", (20, 10), (0, 200, 0)).save(path)
    assert colour() == [0, 200, 0] and larder.hits == 1
    (file,) = (tmp_path / "pictures").glob("*.pixels")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(bytes(data))
    assert colour() == [0, 200, 0] and larder.hits == 1
    assert colour() == [0, 200, 0] and larder.hits == 2
    path.unlink()
    with pytest.raises(DataError, match="png is missing"):
        colour()
    with pytest.raises(DataError, match="leaves the dataset's folder"):
        larder.read("zoo", 0, "../a.png", REACH, zoo)


def test_old_pictures_make_room_on_disk_for_new_ones(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    old = tmp_path / "pictures" / "0.pixels"
    old.write_bytes(b"x" * 900_000)
    larder = kept(mixture, "disk", 2e6)
    assert old.exists()
    larder = kept(mixture, "disk", 1e6)
    assert not old.exists() and larder.kept == {"zoo": COUNT}
    other = stock(mixture.sources, 64, "disk", 3e5)  # of another reach: what is in use stays
    assert other is not None and len(list((tmp_path / "pictures").glob("*.pixels"))) == 2


def test_too_many_unreadable_pictures_stop_a_run_in_one_line(mixture: Mixture) -> None:
    for workers in (0, 1):
        with pytest.raises(DataError) as error:
            list(loader(mixture, most=0.03, workers=workers))
        text = str(error.value)
        assert "\n" not in text and "2 of its 30 pictures" in text and "more than 3 %" in text and ".jpg" in text
    assert len(loader(mixture, most=0.04).spoilage) == 0


def test_a_dataset_without_any_readable_picture_is_one_line(tmp_path: Path) -> None:
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(9)]
    for k in range(9):
        (tmp_path / f"{k}.png").write_text("no picture")
    whole = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(whole))
    mixture = opened(tmp_path)
    for share in (0.0, 1.0):
        with pytest.raises(DataError) as error:
            list(loader(mixture, most=share))
        assert "\n" not in str(error.value) and ".png" in str(error.value)


def test_evaluation_leaves_unreadable_pictures_out(mixture: Mixture) -> None:
    for workers in (0, 1):
        batches = EvalLoader(mixture, batch=1, workers=workers, spoilage=spoilage_of(mixture, 0.1))
        shown = [frame.image_id for batch in batches for frame in batch.frames]
        assert shown == [str(k) for k in range(COUNT) if k not in BAD]
        assert len(batches.spoilage) == 2


def test_stand_ins_are_steady_and_spread() -> None:
    firsts = [next(stand_ins("zoo", k, 1000)) for k in range(100)]
    assert firsts == [next(stand_ins("zoo", k, 1000)) for k in range(100)]
    assert len({*firsts}) > 85 and firsts != [next(stand_ins("other", k, 1000)) for k in range(100)]
    assert set(stand_ins("zoo", 0, 1)) == {0}


def test_shares_are_rounded_up_to_whole_pictures(mixture: Mixture) -> None:
    spoilage = spoilage_of(mixture, 0.001)
    spoilage.add([Spoiled("zoo", 4, "a")] * 3)  # one picture, met thrice
    with pytest.raises(DataError, match="2 of its 30"):
        spoilage.add([Spoiled("zoo", 5, "b")])


def test_reach_is_what_the_strongest_zoom_shows() -> None:
    assert reach_of(640, [AugmentConfig(scale=0.5), AugmentConfig(scale=0.8)]) == 1152
    assert reach_of(100, [AugmentConfig(multi_scale=0.5)]) == 150
