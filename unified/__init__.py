# SPDX-License-Identifier: Apache-2.0
"""Unified: one network, one checkpoint, many vision tasks.

The public door. Names are imported when first touched, so that ``import unified`` stays light.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unified import _torchvision

# OpenMP threads that spin while they wait starve the loader and each other as soon as cores are shared: with one busy
# neighbour on two cores a training step took six times as long. A short spin keeps the speed of a quiet machine and
# loses little on a busy one. The runtime reads this when torch is first imported; a value already set is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "50000")

_torchvision.watch()

# In a checkout, tasks/, heads/ and configs/ stand beside this package and are installed as unified.tasks and so on.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "heads").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))

__version__ = "0.1.0"

_DOOR = {
    "load": "unified.inference.model",
    "UnifiedModel": "unified.inference.model",
    "Result": "unified.inference.results",
    "create_model": "unified.model.build",
    "list_models": "unified.model.build",
    "fold": "unified.model.latents.fold",
    "grow": "unified.growing",
    "import_yolor": "unified.official.importer",
    "Prediction": "unified.contracts.structures",
    "UnifiedError": "unified.contracts.errors",
    "load_plugin": "unified.contracts.plugins",
}
_REGISTRIES = {
    "register_head": "heads",
    "register_task": "tasks",
    "register_backbone": "backbones",
    "register_neck": "necks",
    "register_latent": "latents",
    "register_operator": "operators",
    "register_dataset": "datasets",
    "register_balancer": "balancers",
    "register_metric": "metrics",
    "register_exporter": "exporters",
    "register_logger": "loggers",
}
_ROOMS = ("index",)  # packages whose functions are called as ``unified.index.open``

if TYPE_CHECKING:
    from unified.contracts.errors import UnifiedError as UnifiedError
    from unified.contracts.plugins import load_plugin as load_plugin
    from unified.contracts.structures import Prediction as Prediction
    from unified.growing import grow as grow
    from unified.inference.model import UnifiedModel as UnifiedModel
    from unified.inference.model import load as load
    from unified.inference.results import Result as Result
    from unified.model.build import create_model as create_model
    from unified.model.build import list_models as list_models
    from unified.model.latents.fold import fold as fold
    from unified.official.importer import import_yolor as import_yolor


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        return getattr(importlib.import_module(_DOOR[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"unified.{name}")
    if name in _REGISTRIES:
        protocols = importlib.import_module("unified.contracts.protocols")
        return getattr(protocols, _REGISTRIES[name]).register
    raise AttributeError(f"module 'unified' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR, *_ROOMS, *_REGISTRIES})
