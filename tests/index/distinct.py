# SPDX-License-Identifier: Apache-2.0
"""A small model with fresh weights for which pictures differ: its norms have seen pictures, and its mean is zero."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from spare import SIZE, noise, spare_model

from unified.inference.model import UnifiedModel
from unified.inference.predictor import fit


def distinct_model(seed: int = 0) -> UnifiedModel:
    """A model whose image vectors of any two :func:`spare.noise` pictures are far from equal."""
    model = spare_model(seed=seed)
    pictures = [torch.from_numpy(noise(seed=k)).permute(2, 0, 1) for k in range(24)]
    batch = torch.stack([fit(picture, SIZE).pixels for picture in pictures])
    network, head = model.network, model.network.heads["emb"]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    pooled: list[torch.Tensor] = []
    watch = head.to_image.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.no_grad():
        network.train()(batch)
        network.eval()(batch)
        head.to_image.bias.copy_(-(head.to_image.weight @ pooled[-1].mean(dim=0)))
    watch.remove()
    return model
