# SPDX-License-Identifier: Apache-2.0
"""What goes between a training and its data workers: plain records and shared memory, and no name that runs anything.

The queues are those of ``multiprocessing``, between one program and the processes it started itself; nothing from
outside is ever read from them. Python frames what it sends there as a pickle, so these tests look into the frames.
"""

from __future__ import annotations

import pickletools
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.multiprocessing

from unified.contracts.config import AugmentConfig
from unified.contracts.structures import Annotations, Frame, Sample
from unified.data.collate import pack
from unified.data.kitchen import Failure, Order
from unified.data.spoilage import Spoiled

RECORDS = ("unified.contracts.", "unified.data.")
PLAIN = {
    "torch.multiprocessing.reductions rebuild_tensor",
    "torch.multiprocessing.reductions rebuild_typed_storage",
    "torch.multiprocessing.reductions rebuild_storage_fd",
    "torch.multiprocessing.reductions rebuild_storage_filename",
    "multiprocessing.resource_sharer DupFd",
    "torch.storage TypedStorage",
    "torch.storage UntypedStorage",
    "torch Tensor",
    "torch Size",
    "torch uint8",
    "numpy dtype",
    "numpy ndarray",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.numeric _frombuffer",
    "_codecs encode",
}


def strange(value: Any) -> set[str]:
    """Names in a frame that are neither records of ours nor tensors, arrays and their shared memory."""
    return {name for name in named(value) if not name.startswith(RECORDS)} - PLAIN


def named(value: Any) -> set[str]:
    """Every class and function that a frame names, as ``module name``."""
    found, words, memo, last = set[str](), list[str](), list[Any](), None
    for opcode, given, _ in pickletools.genops(bytes(ForkingPickler.dumps(value))):
        if opcode.name == "MEMOIZE":
            memo.append(last)
            continue
        last = memo[given] if "BINGET" in opcode.name else given if "UNICODE" in opcode.name else None
        if opcode.name == "STACK_GLOBAL":
            found.add(" ".join(words[-2:]))
        elif opcode.name in ("GLOBAL", "INST"):
            found.add(str(given))
        if isinstance(last, str):
            words.append(last)
    return found


def batch() -> Any:
    boxes = {"boxes_xyxy": torch.zeros(1, 4), "box_labels": torch.zeros(1, dtype=torch.int64)}
    rest = {name: torch.zeros(1, dtype=torch.int64) for name in ("box_identities", "box_crowd")}
    found = Annotations(**boxes, **rest, box_states=torch.zeros(1, dtype=torch.int8), box_areas=torch.zeros(1))
    sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), found, Frame("a", (8, 8)))
    return pack([sample], "zoo", ("det",))


ORDER = Order("zoo", ("det",), ((3, 0), (4, 0)), AugmentConfig(), (64, 64))


@pytest.mark.parametrize("value", [ORDER, Failure("a.png: cut short"), Spoiled("zoo", 1, "empty")], ids=type)
def test_orders_and_failures_are_records(value: Any) -> None:
    assert strange(value) == set()


def test_a_packed_batch_is_a_record_of_shared_memory_and_arrays() -> None:
    assert strange(batch()) == set()


def test_the_look_into_frames_sees_a_call() -> None:
    class Call:
        def __reduce__(self) -> Any:
            return eval, ("1",)

    assert strange({"x": [Call(), Call()]}) == {"builtins eval"}
