# SPDX-License-Identifier: Apache-2.0
"""What vectors cost, given who they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pytorch_metric_learning.losses import NormalizedSoftmaxLoss, NTXentLoss, ProxyAnchorLoss, SupConLoss
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor, nn

from unified.contracts.errors import ConfigError, suggestion

# Adam turns a proxy by about lr / std a step; from the library's std of 1 the same accuracy takes markedly longer.
_START = partial(nn.init.normal_, std=0.05)


def _normalized_softmax(identities: int, dim: int, temperature: float) -> Any:
    return NormalizedSoftmaxLoss(identities, dim, temperature, weight_init_func=_START, reducer=SumReducer())


def _proxy_anchor(identities: int, dim: int, temperature: float) -> Any:
    return ProxyAnchorLoss(identities, dim, alpha=1 / temperature, weight_init_func=_START)


def _supcon(temperature: float) -> Any:
    return SupConLoss(temperature, reducer=SumReducer())


def _ntxent(temperature: float) -> Any:
    return NTXentLoss(temperature)


_PROXY_LOSSES: dict[str, Callable[[int, int, float], Any]] = {
    "normalized_softmax": _normalized_softmax,
    "proxy_anchor": _proxy_anchor,
}
_PAIR_LOSSES: dict[str, Callable[[float], Any]] = {"supcon": _supcon, "ntxent": _ntxent}
_MEANS = ("proxy_anchor", "ntxent")  # the library sums these over something else than vectors


class ProxyLoss(nn.Module):
    """Learns one proxy vector an identity and draws each vector to its own.

    ``normalized_softmax`` is the cross-entropy of cosines over a temperature (Zhai and Wu 2019, Classification is a
    Strong Baseline for Deep Metric Learning); ``proxy_anchor`` is that of Kim et al. 2020 (eq. 4) with a scale of one
    over the temperature; it is no sum over vectors, so its value counts once for each of them.

    Args:
        kind: one of the two.
        identities: number of proxies.
        dim: D.
        temperature: of the cosines.
    """

    def __init__(self, kind: str, identities: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.identities = identities
        self.criterion = _PROXY_LOSSES[kind](identities, dim, temperature)
        self.is_mean = kind in _MEANS

    def learns(self, identities: Tensor) -> Tensor:
        """Mask of the identities (N,) that have a proxy: not -1 (unlabelled), not beyond the training vocabulary."""
        return (identities >= 0) & (identities < self.identities)

    def forward(self, vectors: Tensor, identities: Tensor) -> tuple[Tensor, Tensor]:
        """vectors (N, D) unit length, identities (N,) with a proxy each -> their sum and their number."""
        count = vectors.new_tensor(float(len(vectors)))
        if len(vectors) == 0:
            return vectors.sum() * 0 + sum(p.sum() * 0 for p in self.parameters()), count
        value = self.criterion(vectors, identities.to(vectors.device))
        return (value * count if self.is_mean else value), count


class PairLoss(nn.Module):
    """Draws vectors of one identity together and apart from the rest of the batch; knows no identity beforehand.

    ``supcon`` is Khosla et al. 2020 (Supervised Contrastive Learning, eq. 2), one term an anchor; ``ntxent`` is Chen et
    al. 2020 (SimCLR, eq. 1), one term a pair, whose mean counts once for each anchor.

    Args:
        kind: one of the two.
        temperature: of the cosines.
    """

    def __init__(self, kind: str, temperature: float) -> None:
        super().__init__()
        self.criterion = _PAIR_LOSSES[kind](temperature)
        self.is_mean = kind in _MEANS

    def learns(self, identities: Tensor) -> Tensor:
        """Mask of the labelled identities (N,)."""
        return identities >= 0

    def forward(self, vectors: Tensor, identities: Tensor) -> tuple[Tensor, Tensor]:
        """vectors (N, D) unit length, identities (N,) labelled -> sum over the anchors with a match, their number."""
        same = identities[:, None] == identities[None]
        anchors = float((same.sum(dim=1) > 1).sum())
        if anchors == 0 or same.all():  # nothing to draw near, or nothing to hold apart
            return vectors.sum() * 0, vectors.new_tensor(0.0)
        value = self.criterion(vectors, identities.to(vectors.device))
        count = vectors.new_tensor(anchors)
        return (value * count if self.is_mean else value), count


def identity_loss(task: str, kind: str | None, identities: int, dim: int, temperature: float) -> ProxyLoss | PairLoss:
    """The loss called ``kind``; None chooses by whether the identities have names, hence proxies.

    Raises:
        ConfigError: unknown kind, or one with proxies where no dataset names identities.
    """
    kind = kind or ("normalized_softmax" if identities else "supcon")
    known = (*_PROXY_LOSSES, *_PAIR_LOSSES)
    if kind not in known:
        raise ConfigError(f"task '{task}': unknown loss '{kind}'{suggestion(kind, known)}")
    if kind in _PAIR_LOSSES:
        return PairLoss(kind, temperature)
    if identities == 0:
        raise ConfigError(
            f"task '{task}': loss '{kind}' needs named identities, but no dataset of this run names any; "
            f"name them under `identity:`, or take one of: {', '.join(_PAIR_LOSSES)}"
        )
    return ProxyLoss(kind, identities, dim, temperature)
