# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unified import hardware


@pytest.fixture
def threads() -> Iterator[int]:
    """Threads before the test, given back after it."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 7)])
def test_one_core_is_left_to_the_loader(
    monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    hardware.leave_a_core()
    assert torch.get_num_threads() == expected


def test_a_number_of_threads_that_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    torch.set_num_threads(3)
    hardware.leave_a_core()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("features", "expected"), [({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": 1}, "bf16")]
)
def test_a_cpu_takes_bf16_only_where_it_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert hardware.pick_precision("auto", torch.device("cpu")) == expected
    assert hardware.pick_precision("fp16", torch.device("cpu")) == "fp16"
