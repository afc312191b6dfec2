# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum, orthogonalised (Jordan et al. 2024), for the convolutions of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the Newton-Schulz iteration (Jordan et al. 2024)


def orthogonalised(matrices: Sequence[Tensor], rounds: int = 4) -> list[Tensor]:
    """Each matrix (R, C) with its singular values brought near 1.

    A quintic Newton-Schulz iteration; the values end between about 0.7 and 1.2, which serves as well as exactly 1.
    Four rounds bring there what is more than 1 % of a matrix's norm, and learned as fast as the customary five.
    Every round multiplies a wide matrix x by a polynomial of x x^T. These polynomials commute, so all rounds are taken
    on the small squares, those of one side together, and each x is multiplied once: a third of the work, and few calls.
    """
    wide = [m if m.shape[0] <= m.shape[1] else m.mT for m in matrices]
    wide = [x / x.norm().clamp(min=1e-7) for x in wide]
    alike: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(wide):
        alike[x.shape[0]].append(i)
    for places in alike.values():
        factors = _polynomials(torch.stack([wide[i] @ wide[i].mT for i in places]), rounds)
        for i, factor in zip(places, factors, strict=True):
            wide[i] = factor @ wide[i]
    return [x if x.shape == m.shape else x.mT for x, m in zip(wide, matrices, strict=True)]


def _polynomials(gram: Tensor, rounds: int) -> Tensor:
    """The product of all rounds' factors a + b g + c g^2, as functions of the first g = x x^T: (N, R, R)."""
    a, b, c = QUINTIC
    product: Tensor | None = None
    for i in range(rounds):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if i < rounds - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product


class Muon(torch.optim.Optimizer):
    """Muon where weights are matrices, AdamW where they are not: one optimizer, one learning rate for both.

    Groups with ``matrix: True`` hold weights of two dimensions or more, seen as (out, in * kernel area). Their Nesterov
    momentum is orthogonalised and scaled to the size an AdamW step would have, 0.2 * sqrt(max(out, in)) (Liu et al.
    2025, eq. 4), so that a rate found for AdamW serves. The other groups take plain AdamW steps.

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
        updates = self._nesterov(parameters, group["momentum"])
        matrices = orthogonalised([update.reshape(len(update), -1) for update in updates])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for p, matrix in zip(parameters, matrices, strict=True):
            p.add_(matrix.reshape(p.shape), alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _nesterov(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        averages = [self.state[p]["momentum"] for p in parameters]
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))

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
