# SPDX-License-Identifier: Apache-2.0
"""Balancers that look at the tasks' gradients: aggregators of TorchJD, and solvers for those of its that need others.

Each one says how much of every task's gradient is followed, as a function of their inner products. What averages over
the tasks is multiplied by their number, so that gradients without a conflict give the plain sum.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.training.balance import FixedWeights

RIDGE: Final = 1e-6  # between gradients of length 1; keeps opposite ones solvable
SOLVED: Final = 1e-9  # Newton's decrement
MOST_STEPS: Final = 200


class GradientWeights(FixedWeights):
    """A balancer whose :meth:`weigh` is asked for the shared parameters; task weights scale the losses beforehand."""

    name: ClassVar[str]

    def weigh(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        """gramian: (T, T) float64; returns (T,) float64, see :class:`unified.contracts.protocols.GradientBalancer`."""
        raise NotImplementedError


class TorchJDWeights(GradientWeights):
    """One whose weights an aggregator of TorchJD finds."""

    averages: ClassVar[bool] = True  # whether the weights of gradients without a conflict add up to 1

    def __init__(self, weights: Mapping[str, float], **options: Any) -> None:
        super().__init__(weights)
        self._weighting = self._made(_torchjd(self.name), options)

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        """The weighting, from TorchJD's module ``aggregation``."""
        raise NotImplementedError

    def weigh(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        found: Tensor = self._weighting(gramian)
        return found * len(tasks) if self.averages else found


class UPGrad(TorchJDWeights):
    """Every gradient projected to where it harms no task, then averaged (Quinton and Rey 2024, eq. 5)."""

    name = "upgrad"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        return aggregation.UPGradWeighting(projector=_projector())


class PCGrad(TorchJDWeights):
    """Every gradient without its parts against the others, in a random order, then summed (Yu et al. 2020, alg. 1)."""

    name = "pcgrad"
    averages = False

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.draws = 0

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        return aggregation.PCGradWeighting()

    def weigh(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        self.draws += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.draws)  # the same order on every rank and after every restart
            return super().weigh(gramian, tasks)

    def state(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.draws = int(state["draws"])


class CAGrad(TorchJDWeights):
    """The direction near the mean gradient that does most for the task worst off (Liu et al. 2021, alg. 1).

    Args:
        weights: task -> weight.
        c: radius of what is near, as a share of the mean gradient's norm.
    """

    name = "cagrad"

    def __init__(self, weights: Mapping[str, float], c: float = 0.4) -> None:
        if isinstance(c, bool) or not isinstance(c, int | float) or c < 0:
            raise ConfigError(f"balancer 'cagrad': c must be 0 or more, got {c!r}")
        super().__init__(weights, c=float(c))

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        try:
            return aggregation.CAGradWeighting(c=options["c"])
        except ImportError as error:
            raise _absent("cagrad", f"TorchJD says: {error}") from error


class MGDA(TorchJDWeights):
    """The shortest gradient that lies between those of the tasks (Désidéri 2012; Sener and Koltun 2018, alg. 2)."""

    name = "mgda"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        return aggregation.MGDAWeighting()


class IMTLG(TorchJDWeights):
    """The gradient that reaches equally far along every task's own (Liu et al. 2021, Towards Impartial ..., eq. 6)."""

    name = "imtl_g"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        return aggregation.IMTLGWeighting()


class AlignedMTL(TorchJDWeights):
    """Gradients whose principal components are made equally long (Senushkin et al. 2023, alg. 1).

    Args:
        weights: task -> weight.
        scale: the length that they get: ``min``, ``median`` or ``rmse`` of their own.
    """

    name = "aligned_mtl"

    def __init__(self, weights: Mapping[str, float], scale: str = "min") -> None:
        if scale not in ("min", "median", "rmse"):
            raise ConfigError(f"balancer 'aligned_mtl': scale must be min, median or rmse, got {scale!r}")
        super().__init__(weights, scale=scale)

    def _made(self, aggregation: Any, options: Mapping[str, Any]) -> Any:
        return aggregation.AlignedMTLWeighting(scale_mode=options["scale"])


class NashMTL(GradientWeights):
    """The bargaining solution: G a = 1 / a, element by element (Navon et al. 2022, claim 3.1), scaled to a mean of 1.

    Solved exactly, as the minimum of a' G a / 2 - sum log a, whose gradient is G a - 1 / a.
    """

    name = "nash_mtl"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        _torchjd(self.name)

    def weigh(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        found = bargained(gramian.numpy())
        return torch.from_numpy(found * len(found) / found.sum())


def bargained(gramian: NDArray[np.float64]) -> NDArray[np.float64]:
    """a > 0 (T,) with G a = 1 / a, by Newton's method, damped for self-concordant functions (Nesterov 2004, 4.1.5)."""
    lengths = np.sqrt(np.diag(gramian))  # the solution for gradients of length 1, over the lengths, is that of all
    matrix = gramian / np.outer(lengths, lengths) + RIDGE * np.eye(len(gramian))
    found: NDArray[np.float64] = np.ones(len(matrix))
    for _ in range(MOST_STEPS):
        slope = matrix @ found - 1 / found
        step = np.linalg.solve(matrix + np.diag(found**-2), slope)
        decrement = float(np.sqrt(max(slope @ step, 0.0)))
        found = found - step / (1 + decrement)
        if decrement < SOLVED:
            break
    return found / lengths


def _torchjd(name: str) -> Any:
    try:
        return importlib.import_module("torchjd.aggregation")
    except ImportError as error:
        raise _absent(name) from error


def _absent(name: str, why: str = "it takes the tasks' gradients through TorchJD") -> ConfigError:
    return ConfigError(
        f"balancer '{name}': {why}; install it with: pip install 'unified-networks[balance]', or take balance=fixed"
    )


def _projector() -> Any:
    """Projects onto the dual cone by non-negative least squares, without TorchJD's own solver's dependencies.

    min v' G v with v >= u is, with v = u + s and G = L L', the least ||L' s + L' u|| with s >= 0.
    """
    linalg: Any = importlib.import_module("torchjd.linalg")

    class Projector(linalg.DualConeProjector):  # type: ignore[misc]
        def __call__(self, U: Tensor, G: Tensor) -> Tensor:  # noqa: N803
            values, vectors = np.linalg.eigh(G.numpy().astype(np.float64))
            root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
            rows = [u + nnls(root, -root @ u)[0] for u in U.numpy().astype(np.float64).reshape(-1, len(root))]
            return torch.from_numpy(np.stack(rows)).reshape(U.shape).to(G.dtype)

    return Projector()
