# SPDX-License-Identifier: Apache-2.0
"""A task pack: one task of a model in one safetensors file, to be mounted on the trunk it was trained on.

It holds the head, the latents and, in the file's own header, a manifest: configuration, vocabulary, scores, the
fingerprint of the trunk, and SHA-256 sums of the tensors and of itself. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save
from torch import Tensor, nn

from unified import __version__
from unified.contracts.config import ModelConfig, RunConfig, TaskConfig
from unified.contracts.errors import CheckpointError, ConfigError
from unified.contracts.plugins import noted, require
from unified.contracts.structures import FeatureSpec, Vocabulary
from unified.disk import read_regular, write_bytes
from unified.model.build import build_bank, build_head, build_task
from unified.model.growth import grafted, latents_standing, on_its_own, pruned, trunk_of
from unified.model.latents.bank import Standing
from unified.model.network import UnifiedNetwork
from unified.model.style import restyle
from unified.pretrained import sum_of
from unified.tensors import unpacked
from unified.trained import Trained, joined_words

FORMAT: Final = 1
MOST: Final = 1 << 34  # bytes of a pack
_KEY: Final = "unified_task_pack"  # of the manifest in the header's metadata
_SHOWN: Final = 12  # digits of a fingerprint that a person is shown


@dataclass(frozen=True)
class TaskPack:
    """One task, ready to be mounted."""

    name: str  # what it was called where it was saved
    config: TaskConfig  # with its head, its latents and its vocabulary spelled out
    trunk: str  # fingerprint of the trunk it fits, see unified.model.growth.trunk_of
    model: str  # name of the model it was saved from
    size: int  # pixels: side of the input it was trained at
    metrics: Mapping[str, float] = field(default_factory=dict)  # by short name (AP50), on its validation data
    plugins: tuple[Mapping[str, str], ...] = ()  # parts of other packages that it needs
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # ``head.*`` and ``latents.*``

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def pack_of(trained: Trained, network: UnifiedNetwork, name: str) -> TaskPack:
    """One task of a model.

    Args:
        trained: the model.
        network: with the weights that are packed, not folded.
        name: of the task.

    Raises:
        ConfigError: no such task, or its latents have been folded away.
    """
    config = trained.config
    if name not in config.tasks:
        pruned(network, name)  # says which are known
    latents = network.bank.tasks[name] if name in network.bank.tasks else nn.ModuleDict()
    if not all(isinstance(standing, Standing) for standing in latents.children()):
        raise ConfigError(f"task '{name}' has been folded into its head and cannot be packed; load the model anew")
    task = on_its_own(name, config.tasks[name], config.model, trained.vocabulary)
    rules = task.latents if task.latents is not None else config.model.latents
    task = task.model_copy(update={"latents": latents_standing(network, name, tuple(rules)), "freeze": False})
    parts = {"head": network.heads[name], "latents": latents}
    tensors = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    said = {key.partition("/")[2]: v for key, v in trained.provenance.metrics.items() if key.partition("/")[0] == name}
    alone = config.model_copy(update={"tasks": {name: task}})
    return TaskPack(
        name=name,
        config=task,
        trunk=trunk_of(network, config.model),
        model=config.model.name,
        size=config.train.size,
        metrics=said,
        plugins=tuple(noted(alone)),
        tensors={key: value.detach().cpu().contiguous() for key, value in tensors.items()},
    )


def write_task(path: Path, pack: TaskPack) -> int:
    """Writes a pack, whole or not at all.

    Returns:
        Its bytes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    body = {
        "format": FORMAT,
        "unified": __version__,
        "task": pack.name,
        "config": pack.config.model_dump(mode="json"),
        "trunk": pack.trunk,
        "model": pack.model,
        "size": pack.size,
        "metrics": dict(pack.metrics),
        "plugins": [dict(each) for each in pack.plugins],
        "sha256": sum_of(pack.tensors),
    }
    manifest = {**body, "own": _own(body)}
    text = json.dumps(manifest, sort_keys=True, allow_nan=False)
    data = save(dict(pack.tensors), metadata={_KEY: text})  # one key: of several the library shuffles the order
    if path.is_dir():
        raise CheckpointError(f"cannot write the pack '{path}': it is a folder; give the name of a file")
    write_bytes(path, data)
    return len(data)


def read_task(path: Path) -> TaskPack:
    """Reads a pack and verifies all of it.

    Raises:
        CheckpointError: it is missing, damaged, no pack, or of a newer format.
    """
    try:
        data = read_regular(path, MOST)
    except OSError as error:
        raise CheckpointError(f"pack '{path}' cannot be read ({error.strerror or error})") from None
    manifest = _manifest(path, data)
    try:
        tensors = unpacked(data)
        body = {key: value for key, value in manifest.items() if key != "own"}
        if manifest["own"] != _own(body) or manifest["sha256"] != sum_of(tensors):
            raise CheckpointError(f"pack '{path}' is damaged: it does not match its SHA-256")
        return TaskPack(
            name=str(manifest["task"]),
            config=TaskConfig.model_validate(manifest["config"]),
            trunk=str(manifest["trunk"]),
            model=str(manifest["model"]),
            size=int(manifest["size"]),
            metrics={str(key): float(value) for key, value in manifest["metrics"].items()},
            plugins=tuple(manifest["plugins"]),
            tensors=tensors,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"pack '{path}' is damaged: {reason[:120]}") from None


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    """What stands in the header; a file without our key is no pack."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length]) if 8 + length <= len(data) else {}
        text = dict(header.get("__metadata__", {})).get(_KEY)
        found = dict(json.loads(text)) if text else None
        version = int(found["format"]) if found else 0
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"pack '{path}' is damaged: its header cannot be read") from None
    if found is None:
        raise CheckpointError(f"'{path}' is no task pack, or a damaged one; `unified-pack save` writes them")
    if version != FORMAT:
        raise CheckpointError(f"pack '{path}' has format {version}, this version reads {FORMAT}; update unified")
    return found


def _own(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def mounted(trained: Trained, network: UnifiedNetwork, pack: TaskPack, name: str, source: str) -> Trained:
    """A model with one more task; its own parts are the same objects as before.

    Args:
        trained, network: the model.
        pack: what is mounted.
        name: what the task is called here.
        source: of the pack, for errors.

    Raises:
        CheckpointError: the pack is for another trunk, or does not fit its own configuration.
        ConfigError: the model has a task of this name.
        RegistryError: a package that the task needs is missing.
    """
    if name in network.heads:
        raise ConfigError(f"this model has a task '{name}' already; give the one of '{source}' another name")
    own = trunk_of(network, trained.config.model)
    if own != pack.trunk:
        raise CheckpointError(
            f"'{source}' was trained on another trunk ({pack.trunk[:_SHOWN]} of {pack.model}) than this model's "
            f"({own[:_SHOWN]} of {trained.config.model.name}); mount it there, or train it here: --from THIS --add-task"
        )
    alone = trained.config.model_copy(update={"tasks": {name: pack.config}})
    require(pack.plugins, alone, source)
    task = build_task(name, pack.config, Vocabulary()).eval()
    donor = _donor(network, trained.config.model, pack, name, task.outputs, source)
    whole = grafted(network, name, donor.to(next(network.parameters()).device)).eval()
    pinned = {k: on_its_own(k, t, trained.config.model, trained.vocabulary) for k, t in trained.config.tasks.items()}
    config = trained.config.model_copy(update={"tasks": {**pinned, name: pack.config}})
    scores = {f"{name}/{key}": value for key, value in pack.metrics.items()}
    return replace(
        trained,
        network=whole,
        tasks={**trained.tasks, name: task},
        vocabulary=joined_words(config.tasks),
        config=config,
        provenance=replace(trained.provenance, metrics={**trained.provenance.metrics, **scores}),
    )


def _donor(
    network: UnifiedNetwork, model: ModelConfig, pack: TaskPack, name: str, outputs: int, source: str
) -> UnifiedNetwork:
    """A network of the same trunk that has the pack's task alone."""
    spec: FeatureSpec = network.neck.spec
    head = build_head(pack.config, model, spec, outputs)
    restyle(head, model)
    rules = pack.config.latents or ()
    bank = build_bank((), {name: head}, spec, network.backbone.sites, own={name: rules})
    latents = bank.tasks[name] if name in bank.tasks else nn.ModuleDict()
    for part, module in (("head", head), ("latents", latents)):
        given = {key.removeprefix(f"{part}."): t for key, t in pack.tensors.items() if key.startswith(f"{part}.")}
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        if shapes != {key: value.shape for key, value in given.items()}:
            raise CheckpointError(f"pack '{source}' does not fit its own configuration: the {part} has other tensors")
        module.load_state_dict(given)
    return UnifiedNetwork(network.backbone, network.neck, bank, {name: head}).eval()


def removed(trained: Trained, network: UnifiedNetwork, name: str) -> Trained:
    """A model with one task less.

    Raises:
        ConfigError: it has no such task, or no other.
    """
    whole = pruned(network, name).eval()
    config: RunConfig = trained.config
    tasks = {k: t for k, t in config.tasks.items() if k != name}
    said = {k: v for k, v in trained.provenance.metrics.items() if k.partition("/")[0] != name}
    rules = _needed(config.model, whole, tasks)
    return replace(
        trained,
        network=whole,
        tasks={k: t for k, t in trained.tasks.items() if k != name},
        config=config.model_copy(update={"tasks": tasks, "model": rules}),
        provenance=replace(trained.provenance, metrics=said),
    )


def _needed(model: ModelConfig, network: UnifiedNetwork, tasks: Mapping[str, TaskConfig]) -> ModelConfig:
    """The model without rules by which no latent stands any more: a network is not built with such."""
    users = [name for name, task in tasks.items() if task.latents is None]
    kept = tuple(r for r in model.latents if any(latents_standing(network, name, (r,)) for name in users))
    return model.model_copy(update={"latents": kept})
