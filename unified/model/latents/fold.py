# SPDX-License-Identifier: Apache-2.0
"""Folding: constants in the place of latents, inside the neighbouring convolutions wherever that is exact.

A z does not depend on the image, so at inference an operator is an affine map x' = M x + t at every position (YOLOR
eq. 9-10). Behind a convolution y = W x + b it becomes W' = M W, b' = M b + t, always exactly. In front of one it
becomes W' = W M, b' = b + W t; exactly if t = 0, or if the convolution pads nothing: zeros that are padded have no t.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from unified.contracts.protocols import Head, Neighbours, PixelMap
from unified.model.latents.absorption import absorb_behind, absorb_in_front, why_not_behind, why_not_in_front
from unified.model.latents.bank import TRUNK, Entry
from unified.model.latents.constant import Constant, Frozen
from unified.model.network import UnifiedNetwork


@dataclass(frozen=True)
class Verdict:
    """What becomes of one latent; ``reason`` says why it stays beside the convolutions as a constant, if it does."""

    entry: Entry
    reason: str | None = None


@dataclass(frozen=True)
class Kept:
    """A latent that became a constant but no part of a convolution."""

    task: str
    site: str
    latent: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Folded:
    """A network for inference in which no latent is left, and what could not become part of a convolution."""

    network: UnifiedNetwork
    kept: tuple[Kept, ...]


def fold(network: UnifiedNetwork) -> Folded:
    """A copy of a network, for inference only, whose latents are folded into their neighbours or made constants.

    Its answers equal those of ``network.eval()`` up to rounding. It is not for training: its batch norms hold shifts
    in their statistics.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    kept: list[Kept] = []
    with torch.no_grad():
        for site in _sites(network):
            rest = _absorb(site)
            constants = [_constant(step) for step in rest]
            network.bank.replace(site.task, site.name, nn.Sequential(*constants) if constants else None)
            kept += [Kept(site.task, site.name, *step.entry.words, reason=str(step.reason)) for step in rest]
    return Folded(network, tuple(kept))


def verdicts(network: UnifiedNetwork) -> tuple[Verdict, ...]:
    """What :func:`fold` would do with every latent, in the order of the bank's table; the network stays as it is."""
    with torch.no_grad():
        reasons = {id(step.entry.latent): step.reason for site in _sites(network) for step in site.steps}
    return tuple(Verdict(entry, reasons[id(entry.latent)]) for entry in network.bank.entries())


@dataclass(frozen=True)
class _Step:
    """One latent as a constant and the neighbours that take it; none where there is a reason to keep it."""

    entry: Entry
    change: PixelMap | None
    into: Neighbours | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Site:
    task: str
    name: str
    steps: tuple[_Step, ...]  # in the order of the latents


def _sites(network: UnifiedNetwork) -> Iterator[_Site]:
    """Every site where something stands, those nearer to their convolution first."""
    for task, head in network.heads.items():
        found: dict[str, list[Entry]] = {}
        for entry in network.bank.entries():
            if entry.task == task:
                found.setdefault(entry.site, []).append(entry)
        beside = {site: _neighbours(head, site) for site in found}  # type: ignore[arg-type]
        occupied: set[str] = set()
        for name in sorted(found, key=lambda name: len(beside[name].through)):
            between = next((other for other in beside[name].through if other in occupied), None)
            site = _Site(task, name, _plan(found[name], beside[name], between))
            if any(step.reason for step in site.steps):
                occupied.add(name)
            yield site


def _neighbours(head: Head, site: str) -> Neighbours:
    return Neighbours() if site.startswith(TRUNK) else head.neighbours(site)


def _plan(entries: list[Entry], beside: Neighbours, between: str | None) -> tuple[_Step, ...]:
    """A step for every latent of a site: from the first on into what makes x, from the last on into what reads it.

    Whatever is left over in the middle is kept. ``between``: a site in front of the readers that is not empty.
    """
    pairs = [(entry, entry.operator.affine(entry.latent())) for entry in entries]
    steps: dict[int, _Step] = {}
    first, last, reason = 0, len(pairs), None
    while first < last and (into := _maker(beside, pairs[first][1])):
        steps[first] = _Step(*pairs[first], into)
        first += 1
    while first < last:
        reason = _why_unread(entries[last - 1].site, pairs[last - 1][1], beside, between)
        if reason:
            break
        last -= 1
        steps[last] = _Step(*pairs[last], Neighbours(after=beside.after))
    for i in range(first, last):
        own = _why_unread(entries[i].site, pairs[i][1], beside, between)
        steps[i] = _Step(*pairs[i], reason=own or f"a latent behind it is kept: {reason}")
    return tuple(steps[i] for i in range(len(pairs)))


def _maker(beside: Neighbours, change: PixelMap | None) -> Neighbours | None:
    """The neighbour in front of the site, if there is one that takes the change exactly."""
    if change is None:
        return None
    if beside.before is not None and why_not_behind(beside.before, change) is None:
        return Neighbours(before=beside.before)
    if beside.bias is not None and change.matrix is None:
        return Neighbours(bias=beside.bias)
    return None


def _why_unread(site: str, change: PixelMap | None, beside: Neighbours, between: str | None) -> str | None:
    """Why the layers behind a site cannot take a change exactly; None if they all can."""
    if site.startswith(TRUNK):
        return "it stands inside the trunk, which other tasks share"
    if change is None:
        return "its operator is no affine map of x"
    if not beside.after:
        return "no convolution stands directly beside the site"
    if between:
        return f"a latent at {between}, in front of the convolution, is kept"
    return next(filter(None, (why_not_in_front(port, change) for port in beside.after)), None)


def _absorb(site: _Site) -> list[_Step]:
    """Makes every step that can be a part of its neighbours; returns those to keep."""
    for step in site.steps:
        if step.into and step.change and step.into.before:
            absorb_behind(step.into.before, step.change)
        elif step.into and step.change and step.into.bias is not None and step.change.shift is not None:
            step.into.bias.add_(step.change.shift.to(step.into.bias.dtype))
    for step in reversed(site.steps):  # the last one stands next to the reader
        for port in step.into.after if step.into and step.change else ():
            absorb_in_front(port, step.change)  # type: ignore[arg-type]
    return [step for step in site.steps if step.reason]


def _constant(step: _Step) -> nn.Module:
    return Constant(step.change) if step.change else Frozen(step.entry.latent(), step.entry.operator)
