# SPDX-License-Identifier: Apache-2.0
"""How many images fit, by a memory made up for the purpose and by that of this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from unified import hardware
from unified.contracts.config import RunConfig
from unified.contracts.document import dump_run_config, read_run_config
from unified.contracts.errors import ConfigError
from unified.hardware import free_memory
from unified.training import auto_batch
from unified.training.auto_batch import Fit, Probe, filled, largest, settled_batch
from unified.training.run import make_accelerator, open_splits


class Memory:
    """``fixed`` bytes and ``each`` more for an image; out of memory beyond ``size``."""

    def __init__(self, fixed: int, each: int, size: int | None = None) -> None:
        self.fixed, self.each, self.size = fixed, each, size
        self.asked: list[int] = []

    def __call__(self, images: int) -> int | None:
        self.asked.append(images)
        needed = self.fixed + self.each * images
        return None if self.size is not None and needed > self.size else needed


@pytest.mark.parametrize(
    ("fixed", "each", "budget", "most", "images"),
    [(0, 1, 100, 1000, 64), (50, 1, 100, 1000, 32), (0, 1, 64, 1000, 64), (0, 1, 63, 1000, 32), (99, 1, 100, 1000, 1)],
)
def test_the_largest_power_of_two_that_fits(fixed: int, each: int, budget: int, most: int, images: int) -> None:
    memory = Memory(fixed, each)
    assert largest(memory, budget, most) == Fit(images, fixed + each * images, budget)
    assert max(memory.asked) <= 2 * images


def test_memory_is_asked_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory(torch.device("cpu")) <= whole
    limits = iter([5000, 2000])
    monkeypatch.setattr(hardware, "_number", lambda path: next(limits))
    assert free_memory(torch.device("cpu")) == 3000
    monkeypatch.setattr(hardware, "_number", lambda path: None)
    monkeypatch.setattr(hardware, "Path", lambda *words: tmp_path / "nowhere")
    assert free_memory(torch.device("cpu")) == whole // 2


def test_a_limit_holds_and_running_out_is_an_answer() -> None:
    assert largest(Memory(0, 1), 10**9, most=24).images == 16
    memory = Memory(0, 1, size=20)
    assert largest(memory, 10**9, most=1000).images == 16
    assert memory.asked == [1, 2, 4, 8, 16, 32]


def test_not_even_one_image_is_one_line() -> None:
    for memory in (Memory(200, 1), Memory(0, 1, size=0)):
        with pytest.raises(ConfigError, match=r"batch auto: not even one image fits in 0.00 GB; lower size"):
            largest(memory, 100, 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    tiny.cache_at(folder)
    return folder


def settled(config: RunConfig, base: Path) -> tuple[RunConfig, list[str]]:
    accelerator, hardware = make_accelerator(config)
    return settled_batch(config, open_splits(config, base).train, accelerator, hardware)


def test_auto_is_a_word_of_the_configuration(place: Path, tmp_path: Path) -> None:
    config, _ = tiny.config(place, "batch=auto")
    assert config.train.auto_batch
    (tmp_path / "config.yaml").write_text(dump_run_config(config))
    assert read_run_config(tmp_path / "config.yaml") == config
    assert not tiny.config(place, "batch=auto", "batch=4")[0].train.auto_batch
    with pytest.raises(ConfigError, match=r"batch: got 'lots'"):
        tiny.config(place, "batch=lots")


def test_what_was_found_stands_in_the_configuration(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a budget that a pass of four images just needs; the second time the same comes out, and no die is cast."""
    config, base = tiny.config(place, "batch=auto", "accumulate=2")
    accelerator, hardware = make_accelerator(config)
    mixture = open_splits(config, base).train
    needs = Probe(config, mixture, hardware).reckoned()
    four, eight = needs(4), needs(8)
    assert four is not None and eight is not None and four < eight
    monkeypatch.setattr(auto_batch, "free_memory", lambda device: 2 * four + 8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found, notes = settled_batch(config, mixture, accelerator, hardware)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.train.batch, found.train.auto_batch) == (8, False)
    assert found.train == config.train.model_copy(update={"batch": 8})
    assert notes[0].startswith("batch 8: a pass of 4 images needs")
    assert settled_batch(config, mixture, accelerator, hardware) == (found, notes)
    assert settled_batch(found, mixture, accelerator, hardware) == (found, [])
    nominal, base = tiny.config(place, "batch=auto", "nominal_batch=2")
    assert settled(nominal, base)[0].train.batch == 2


def test_more_pixels_need_more_memory(place: Path) -> None:
    """Activations grow with the area: about fourfold from 96 to 192 pixels."""
    found = []
    for word in ("size=96", "size=192", "multi_scale=0.9"):
        config, base = tiny.config(place, "batch=auto", word)
        _, hardware = make_accelerator(config)
        needs = Probe(config, open_splits(config, base).train, hardware).reckoned()
        found.append((needs(32) or 0) - (needs(16) or 0))
    assert found[1] / found[0] == pytest.approx(4, rel=0.25)
    assert found[2] > 3 * found[0]


def test_a_batch_is_filled_with_its_own_images(place: Path) -> None:
    config, base = tiny.config(place)
    _, hardware = make_accelerator(config)
    batch = Probe(config, open_splits(config, base).train, hardware).batches[0]
    more = filled(batch, 5)
    assert len(more) == 5 == len(more.frames) == len(more.images)
    assert torch.equal(more.images[4], batch.images[0])
    assert more.annotations[3] is batch.annotations[1]
    assert replace(more, images=batch.images, annotations=batch.annotations, frames=batch.frames) == batch
