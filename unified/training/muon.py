# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum, orthogonalised (Jordan et al. 2024), for the convolutions of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the Newton-Schulz iteration (Jordan et al. 2024)


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Each matrix with its singular values brought near 1: (N, R, C) -> (N, R, C).

    A quintic Newton-Schulz iteration; the values end between about 0.7 and 1.2, which serves as well as exactly 1.
    """
    a, b, c = QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x: Tensor = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon where weights are matrices, AdamW where they are not: one optimizer, one learning rate for both.

    Groups with ``matrix: True`` hold weights of two dimensions or more, seen as (out, in * kernel area). Their Nesterov
    momentum is orthogonalised and scaled to the size an AdamW step would have, 0.2 * sqrt(max(out, in)) (Liu et al.
    2025, eq. 4), so that a rate found for AdamW serves. Weights of one shape are orthogonalised together, which matters
    where networks are small. The other groups take plain AdamW steps.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: of the AdamW groups.
        momentum: of the matrix groups.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**defaults, "matrix": False})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; parameters without a gradient keep their value and their moments."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._matrix_step if group["matrix"] else self._adamw_step)(parameters, group)
        return loss

    def _matrix_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in parameters:
            update = self._nesterov(p, group["momentum"]).reshape(p.shape[0], -1)
            alike[update.shape[0], update.shape[1]].append((p, update))
        for shape, pairs in alike.items():
            scale = 0.2 * max(shape) ** 0.5
            updates = orthogonalised(torch.stack([update for _, update in pairs]))
            for (p, _), update in zip(pairs, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        average: Tensor = state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)  # type: ignore[union-attr]

    def _adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=parameters[0].device.type in ("cpu", "cuda"),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
