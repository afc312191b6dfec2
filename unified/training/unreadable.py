# SPDX-License-Identifier: Apache-2.0
"""What a run says of pictures that it could not read: the first at once, each in the log, their number at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import gather

from unified.data.loader import spoilage_of
from unified.data.mixing import Mixture
from unified.data.spoilage import Spoiled
from unified.training.folder import RunFolder
from unified.training.monitor import Monitor


class Unreadable:
    """Counts of both splits.

    Args:
        most: the share of a dataset that may be unreadable.
        folder, monitor: of the main process, which alone writes; the others' pictures are told at the end.
    """

    def __init__(
        self, train: Mixture, val: Mixture, most: float, folder: RunFolder, monitor: Monitor, accelerator: Accelerator
    ) -> None:
        self.folder, self.monitor, self.accelerator = folder, monitor, accelerator
        self.train = spoilage_of(train, most, partial(self._tell, "train"))
        self.val = spoilage_of(val, most, partial(self._tell, "val"))
        self._told = set[tuple[str, str]]()

    def _tell(self, split: str, picture: Spoiled) -> None:
        if not self.accelerator.is_main_process:
            return
        self.folder.log({"unreadable": picture.reason, "dataset": picture.dataset, "split": split})
        if (split, picture.dataset) not in self._told:
            self._told.add((split, picture.dataset))
            instead = "another one takes its place" if split == "train" else "it is left out"
            self.monitor.message(f"{picture.reason}; {instead}; log.jsonl names all such pictures")

    def end(self) -> None:
        """Sums up, over all ranks."""
        for split, spoilage in (("train", self.train), ("val", self.val)):
            if self.accelerator.num_processes > 1:
                told = of_all_ranks([*spoilage.found.values()], self.accelerator.device)
                new = {(each.dataset, each.index): each for each in told}
                for key in new.keys() - spoilage.found.keys():
                    spoilage.found[key] = new[key]
                    self._tell(split, new[key])
            for line in spoilage.lines():
                self.monitor.message(f"'{split}' split: {line}")


def of_all_ranks(own: Sequence[Spoiled], device: torch.device) -> Iterator[Spoiled]:
    """What every rank has met. It travels as JSON: what a rank is sent can never be code."""
    data = json.dumps([asdict(each) for each in own]).encode()
    longest = int(gather(torch.tensor([len(data)], device=device)).max())  # type: ignore[union-attr]
    padded = torch.tensor([[*data.ljust(longest)]], dtype=torch.uint8, device=device)
    for row in gather(padded).cpu():  # type: ignore[union-attr]
        yield from (Spoiled(**each) for each in json.loads(bytes(row.tolist())))
