# SPDX-License-Identifier: Apache-2.0
"""From the sections of an official cfg to the modules of this project's networks, one to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.model.network import UnifiedNetwork
from unified.official.design import Design
from unified.official.layout import Section
from unified.official.recognise import Recognised

SHORTS = {"weight": "norm.weight", "bias": "norm.bias"}


def placed(
    found: Recognised, state: Mapping[str, Tensor], network: UnifiedNetwork, task: str, source: str
) -> dict[str, Tensor]:
    """The official tensors under the names of ``network``, every one placed and none left free.

    Raises:
        CheckpointError: a tensor that has no place or a place without a tensor; the first are named.
    """
    own, result = network.state_dict(), dict[str, Tensor]()
    latents = _latents(network, task)
    for section in found.sections:
        for key, name in _names(section, found.design, latents, task):
            value = state[key]
            result[name] = value.reshape(-1) if section.kind in ("add", "mul") else value
    faults = [f"nothing for {name}" for name in own if name not in result]
    faults += [f"no place for {name}" for name in result if name not in own]
    faults += [
        f"{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in result.items()
        if name in own and own[name].shape != value.shape
    ]
    if faults:
        shown = "; ".join(faults[:3])
        raise CheckpointError(
            f"'{source}' does not fill the network of {found.design.name}: {len(faults)} tensors differ ({shown}); "
            "nothing was loaded"
        )
    return result


def _names(section: Section, design: Design, latents: Mapping[str, str], task: str) -> Iterator[tuple[str, str]]:
    """Official key and own name of each tensor of a section."""
    root = f"module_list.{section.index}"
    if section.kind in ("add", "mul"):
        level = design.levels[int(section.role.split(".")[1])]
        site = f"{'pre' if section.kind == 'add' else 'post'}.{level}"
        yield f"{root}.implicit", latents.get(site, f"a latent at {site}")
        return
    module = module_path(section.role, design, task)
    for key, _ in section.tensors():
        part, name = key.removeprefix(f"{root}.").split(".")
        if section.kind == "output":
            yield key, f"{module}.{name}"
        else:
            yield key, f"{module}.{'conv' if part == 'Conv2d' else 'norm'}.{name}"


def _latents(network: UnifiedNetwork, task: str) -> dict[str, str]:
    """Name of the tensor z by site, of one task."""
    modules = {id(module): name for name, module in network.named_modules()}
    return {e.site: f"{modules[id(e.latent)]}.z" for e in network.bank.entries() if e.task == task}


def module_path(role: str, design: Design, task: str = "det") -> str:
    """The module of a network that plays a role of :func:`unified.official.layout.layout`."""
    room, *rest = role.split(".")
    return {
        "stem": _stem,
        "stage": _stage,
        "spp": _pools,
        "fpn": _mix,
        "pan": _mix,
        "head": _head,
    }[room](room, rest, design, task)


def _stem(room: str, rest: list[str], design: Design, task: str) -> str:
    if rest[0] == "block":
        return f"backbone.stages.0.block.{('reduce', 'conv')[int(rest[1])]}"
    i = int(rest[0])
    if design.residual_stem and i == len(design.stem) - 1:
        return "backbone.stages.0.down"  # the strided convolution in front of the stem's bottleneck
    return f"backbone.stem.{i + design.reorg}"


def _stage(room: str, rest: list[str], design: Design, task: str) -> str:
    i, part, *more = rest
    stage = f"backbone.stages.{int(i) + design.residual_stem}"
    depth = design.depths[int(i)]
    if part == "down":
        return f"{stage}.down"
    if part == "blocks":
        return f"{stage}.block.main.{int(more[0]) + 1}.{('reduce', 'conv')[int(more[1])]}"
    return f"{stage}.block." + {"side": "side", "main": "main.0", "exit": f"main.{depth + 1}", "fuse": "fuse"}[part]


def _pools(room: str, rest: list[str], design: Design, task: str) -> str:
    if rest[0] in ("side", "fuse"):
        return f"neck.entry.{rest[0]}"
    return f"neck.entry.main.{int(rest[1]) + (4 if rest[0] == 'leave' else 0)}"  # the pools are main.3


def _mix(room: str, rest: list[str], design: Design, task: str) -> str:
    level, part, *more = rest
    i = int(level) - (room == "pan")  # the way up counts its steps by the level it comes from
    single = {"reduce": "reduce", "lateral": "lateral", "down": "stride"}
    if part in single:
        return f"neck.{single[part]}.{i}"
    block = f"neck.{'up_mix' if room == 'pan' else 'down_mix'}.{i}"
    if part == "blocks":
        return f"{block}.main.{more[0]}.{('reduce', 'conv')[int(more[1])]}"
    return f"{block}.{'entry' if part == 'enter' else part}"


def _head(room: str, rest: list[str], design: Design, task: str) -> str:
    return f"heads.{task}.{rest[1]}.{rest[0]}"
