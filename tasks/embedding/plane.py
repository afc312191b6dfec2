# SPDX-License-Identifier: Apache-2.0
"""Vectors as points in a plane, so that a person sees which lie together.

Legend: N vectors of width D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 250
EARLY = 60  # steps in which likeness is exaggerated, so that clusters form


def principal(vectors: Tensor) -> Tensor:
    """(N, 2): the two directions of largest variance; signs such that the largest entry of each is positive."""
    centred = vectors.double() - vectors.double().mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = torch.nn.functional.pad(axes[:2], (0, 0, 0, max(0, 2 - len(axes))))
    signs = torch.gather(axes, 1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    return centred @ (axes * torch.where(signs == 0, 1.0, signs)).T


def spread(vectors: Tensor, perplexity: float = 20.0) -> Tensor:
    """(N, 2) by t-SNE (van der Maaten and Hinton 2008), exact, begun with the principal plane: nothing is random.

    ``perplexity``: about how many neighbours a point keeps near; at most a third of all.
    """
    count = len(vectors)
    if count < 8:
        return principal(vectors)
    near = _affinities(vectors.double(), min(perplexity, (count - 1) / 3))
    near = ((near + near.T) / (2 * count)).clamp(min=1e-12).float()
    points = principal(vectors).float()
    points = 1e-4 * points / points[:, 0].std().clamp(min=1e-12)
    speed, rate = torch.zeros_like(points), max(count / 12.0, 50.0)  # Belkina et al. 2019: N over the exaggeration
    gains = torch.ones_like(points)
    for step in range(STEPS):
        slope = _slope(points, near * (12.0 if step < EARLY else 1.0))
        alike = torch.sign(slope) == torch.sign(speed)
        gains = torch.where(alike, gains * 0.8, gains + 0.2).clamp(min=0.01)  # Jacobs 1988
        speed = (0.5 if step < EARLY else 0.8) * speed - rate * gains * slope
        points = points + speed
        points = points - points.mean(dim=0)
    return points


def _slope(points: Tensor, near: Tensor) -> Tensor:
    """Gradient of the divergence between likeness there and here (eq. 5). points (N, 2), near (N, N)."""
    heavy = 1 / (1 + torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square())
    heavy.fill_diagonal_(0)
    pull = (near - heavy / heavy.sum()) * heavy
    slope: Tensor = 4 * (pull.sum(dim=1, keepdim=True) * points - pull @ points)
    return slope


def _affinities(vectors: Tensor, perplexity: float) -> Tensor:
    """(N, N): each row a Gaussian over the others, as wide as gives the perplexity (found by bisection)."""
    apart = torch.cdist(vectors, vectors).square()
    apart.fill_diagonal_(math.inf)
    low, high = torch.zeros(len(apart), 1).double(), torch.full((len(apart), 1), 1e8).double()
    sharp = 1 / apart.topk(2, largest=False).values[:, 1:].clamp(min=1e-9)
    target = math.log(perplexity)
    for _ in range(40):
        rows = torch.softmax(-apart * sharp, dim=1)
        entropy = -torch.special.xlogy(rows, rows).sum(dim=1, keepdim=True)
        low, high = torch.where(entropy > target, sharp, low), torch.where(entropy > target, high, sharp)
        sharp = torch.where(high < 1e8, (low + high) / 2, sharp * 2)
    return torch.softmax(-apart * sharp, dim=1)
