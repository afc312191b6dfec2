# SPDX-License-Identifier: Apache-2.0
"""What two ranks go through under torchrun: one run after the other, and what each rank has to tell of it.

``torchrun --nproc-per-node 2 scenes.py PLACE SCENE ...`` reads ``PLACE/SCENE.yaml``, runs it in ``PLACE/SCENE`` and
leaves ``PLACE/SCENE-RANK.json``. The name of a scene, up to a dash, says what happens in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from sitting import bare

import unified  # noqa: F401  (first: it lets torchvision be imported beside a CPU-only torch)
from unified.contracts.document import read_run_config
from unified.training import run
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.sharding import local
from unified.training.trainer import Trainer

AT = 3  # the step in which something happens, on the second rank alone


def weights(trainer: Trainer) -> str:
    """A digest of what this rank has of weights, buffers, moments and average."""
    found = hashlib.sha256()
    modules = [trainer.model, *([trainer.average.network] if trainer.average else [])]
    tensors = [t for module in modules for _, t in sorted(module.state_dict().items())]
    tensors += [t for slots in trainer.optimizer.state.values() for _, t in sorted(slots.items())]
    with torch.no_grad():
        for tensor in tensors:
            found.update(local(tensor).detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def scores(trainer: Trainer, together: bool) -> dict[str, Any]:
    """What an evaluation finds, image by image, by both ranks or by the first one alone; nothing on the second."""
    validation: Any = trainer.validate
    validation.batch, validation.shared = 1, together
    network = trainer.average.network if trainer.average else trainer.model.network
    found = validation(trainer.shards.whole(network))
    curves = {name: [[*line.x, *line.y] for line in lines] for name, lines in found.curves.items()}
    return {"metrics": found.metrics, "curves": curves, "images": found.images}


class Scene:
    """One run, and what this rank saw."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.name, self.kind = place, name, name.split("-")[0]
        self.second = os.environ["RANK"] == "1"
        self.told: dict[str, Any] = {"weights": {}, "skipped": {}, "portions": {}, "parts": 0}

    def play(self) -> None:
        config, out = read_run_config(self.place / f"{self.name}.yaml"), self.place / self.name
        forward = JointModel.forward
        JointModel.forward = self.forward(forward)  # type: ignore[method-assign]
        self.step = 0
        try:
            with bare(meddle=self.meddle):
                run.train(config, self.place, out=out)
                if self.kind == "cut":
                    run.train(RunFolder.open(out).read_config(), self.place, resume=out)
        finally:
            JointModel.forward = forward  # type: ignore[method-assign]
        told = self.place / f"{self.name}-{os.environ['RANK']}.json"
        told.write_text(json.dumps(self.told))

    def meddle(self, trainer: Trainer, step: int) -> None:
        self.told["weights"][step] = weights(trainer)
        self.told["skipped"][step] = trainer.progress.skipped
        self.told["portions"][step] = trainer.progress.portions
        self.told["parts"] = sum(local(p).numel() for p in trainer.model.parameters())
        self.step = step
        if self.kind == "whole" and trainer.share == 1:
            self.told["scores"] = scores(trainer, together=True)
            self.told["alone"] = scores(trainer, together=False)
        if self.kind == "cut" and step == 2 * AT and not self.second:
            trainer.stops.asked = signal.SIGTERM

    def forward(self, forward: Any) -> Any:
        def made(model: JointModel, batch: Any) -> Any:
            here = self.second and model.training and self.step == AT - 1
            if here and self.kind == "short" and len(batch) > 1:
                raise torch.OutOfMemoryError("out of memory")
            terms = forward(model, batch)
            if here and self.kind == "nan":
                first = next(iter(terms["det"].values()))
                first.sum.data.fill_(float("nan"))
            return terms

        return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ["UNIFIED_CACHE"] = str(folder / "unified-cache")
    torch.set_num_threads(1)
    for scene in sys.argv[2:]:
        Scene(folder, scene).play()
