# SPDX-License-Identifier: Apache-2.0
"""Every latent with every operator at every site of every head: what must hold for all of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small_network import HEADS, LATENTS, OPERATORS, built, difference, places, rule, shaken, tensors

from unified.checkpoint import Checkpoint, fit_state, load_checkpoint, save_checkpoint
from unified.contracts.config import LatentConfig, PartConfig
from unified.model.latents.bank import LatentBank
from unified.model.latents.fold import fold
from unified.model.network import UnifiedNetwork

GRID = [(head, site, operator) for head, site in places() for operator in OPERATORS if head != "multilabel attention"]
everywhere = pytest.mark.parametrize(("head", "site", "operator"), GRID)
IMAGES = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@everywhere
def test_it_starts_as_the_identity_and_learns(head: str, site: str, operator: str) -> None:
    for latent in LATENTS:
        still = PartConfig(name=latent, options={"std": 0.0})
        exact = LatentConfig(site=site, latent=still, operator=PartConfig(name=operator))
        network = built({"t": head}, exact)
        plain = UnifiedNetwork(network.backbone, network.neck, LatentBank(), dict(network.heads.items()))  # type: ignore[arg-type]
        assert difference(plain, network, IMAGES) < 1e-6
        network = built({"t": head}, rule(site, operator, latent))
        answers = tensors(network(IMAGES)["t"])
        torch.stack([(x.float() * torch.randn(x.shape)).sum() for x in answers]).sum().backward()
        grads = {name: p.grad for name, p in network.bank.named_parameters()}
        assert grads
        assert [name for name, grad in grads.items() if grad is None or not grad.abs().sum() > 0] == []


@everywhere
def test_folded_equals_unfolded(head: str, site: str, operator: str) -> None:
    for latent in LATENTS:
        network = shaken(built({"t": head}, rule(site, operator, latent)))
        folded = fold(network)
        assert difference(network, folded.network, IMAGES) <= 1e-5
        assert [*folded.network.bank.entries(), *folded.network.bank.parameters()] == []
        assert bool(folded.kept) == any(True for _ in folded.network.bank.buffers())


@pytest.mark.parametrize("site", ["align.*", "pre.*", "post.*"])
@pytest.mark.parametrize("head", HEADS)
def test_in_half_precision_too(head: str, site: str) -> None:
    """Folded, it is as near to the network in full precision as unfolded: within a hundredth, or twice its rounding."""
    for operator in OPERATORS:
        network = shaken(built({"t": head}, rule(site, operator)), 0.1)
        half = copy.deepcopy(network).bfloat16()
        assert rounding(network, fold(half).network) <= max(1e-2, 2 * rounding(network, half))


@torch.no_grad()
def rounding(network: UnifiedNetwork, half: UnifiedNetwork) -> float:
    pairs = zip(tensors(network(IMAGES)["t"]), tensors(half(IMAGES.bfloat16())["t"]), strict=True)
    return max(((x - y.float()).abs().max() / x.abs().max()).item() for x, y in pairs)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("latent", LATENTS)
def test_a_checkpoint_leads_back(tmp_path: Path, latent: str, operator: str) -> None:
    rules = [rule(site, operator, latent) for site in ("trunk.*", "align.*", "pre.*", "post.*")]
    first, second = (shaken(built({"det": "detect_anchor", "emb": "embed"}, *rules)) for _ in range(2))
    assert difference(first, second, IMAGES) > 1e-2
    save_checkpoint(tmp_path / "saved", Checkpoint({"ema": first.state_dict()}, {}))
    fit_state(second, load_checkpoint(tmp_path / "saved").tensors["ema"], "saved")
    assert difference(first, second, IMAGES) == 0
