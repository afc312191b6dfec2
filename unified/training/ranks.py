# SPDX-License-Identifier: Apache-2.0
"""The processes that train one network together, and what they must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from unified.contracts.structures import LossTerm

LINE: Final = 1024  # bytes of a text that ranks tell each other

Counts = Mapping[tuple[str, str], Tensor]
"""Labelled items of all ranks, by task and loss."""


class Ranks:
    """Collective acts. Each must be called by every rank, in the same order; with one rank they cost nothing."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index
        self.main = accelerator.is_main_process

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        if self.count == 1:
            return [*values]
        shared = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return shared.tolist()  # type: ignore[no-any-return]

    def any(self, holds: bool) -> bool:
        """Whether something holds on some rank."""
        return holds if self.count == 1 else bool(self.most([float(holds)])[0])

    def counts(self, terms: Mapping[str, Mapping[str, LossTerm]]) -> Counts:
        """The labelled items of all ranks."""
        own = {
            (task, name): term.count.detach().float() for task, items in terms.items() for name, term in items.items()
        }
        if self.count == 1:
            return own
        shared = torch.stack([*own.values()])
        distributed.all_reduce(shared)
        return dict(zip(own, shared.unbind(), strict=True))

    def stacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of one shape on every rank, those of all ranks in a new first dimension; as they are with one."""
        if self.count == 1:
            return dict(tensors)
        found = {}
        for name, tensor in tensors.items():
            own = tensor.to(self.accelerator.device)
            parts = [torch.empty_like(own) for _ in range(self.count)]
            distributed.all_gather(parts, own)
            found[name] = torch.stack(parts).cpu()
        return found

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of what :meth:`stacked` made; the first rank's where there were another number of ranks."""
        row = self.index
        return {n: t if t.ndim == 1 else t[row if len(t) == self.count else 0] for n, t in tensors.items()}

    def lines(self, text: str) -> list[str]:
        """A line of text from each rank that has one, cut to a thousand bytes."""
        if self.count == 1:
            return [text] if text else []
        raw = text.encode()[:LINE].ljust(LINE, b"\0")
        rows = self.stacked({"text": torch.frombuffer(bytearray(raw), dtype=torch.uint8)})["text"]
        found = [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in rows]
        return [line for line in found if line]

    def blobs(self, data: bytes) -> list[bytes]:
        """What every rank has to tell, in their order."""
        if self.count == 1:
            return [data]
        lengths = self.stacked({"length": torch.tensor([len(data)])})["length"].flatten().tolist()
        padded = torch.frombuffer(bytearray(data.ljust(max(lengths), b"\0")), dtype=torch.uint8)
        rows = self.stacked({"data": padded})["data"]
        return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]

    @torch.no_grad()
    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors that every rank has the first one's values."""
        if self.count == 1:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for group in kinds.values():
            values = torch.cat([tensor.reshape(-1) for tensor in group])
            distributed.broadcast(values, src=0)
            for tensor, value in zip(group, values.split_with_sizes([t.numel() for t in group]), strict=True):
                tensor.copy_(value.view(tensor.shape))

    def unsynced(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Gradients stay on their rank within; the next backward pass outside brings all of them together."""
        return nullcontext() if self.count == 1 else self.accelerator.no_sync(model)

    def meet(self) -> None:
        """Waits for everyone."""
        self.accelerator.wait_for_everyone()


def restarts() -> int:
    """How often torchrun has started this run anew; 0 the first time, and without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Whether torchrun will start the run anew should a rank be lost."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def meet_anew(cpu: bool) -> None:
    """Brings the ranks of a run together that torchrun has started anew.

    torchrun's store still holds the addresses of the ranks that were lost, and who is quick calls there. So what is
    said after a restart stands under names of its own.
    """
    if not restarts() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or distributed.is_initialized():
        return
    ranks, host, port = (os.environ[name] for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    store = distributed.TCPStore(host, int(port), int(ranks), is_master=False)  # type: ignore[attr-defined]
    named = distributed.PrefixStore(f"restart-{restarts()}", store)  # type: ignore[attr-defined]
    backend = "gloo" if cpu else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=named, rank=int(os.environ["RANK"]), world_size=int(ranks))
