# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from unified.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shapes", [[(16, 16)] * 3, [(8, 40), (8, 9)], [(40, 8), (8, 40), (5, 7)]])
def test_singular_values_come_near_one(shapes: list[tuple[int, int]]) -> None:
    matrices = [torch.randn(shape) * 7 for shape in shapes]
    before = torch.cat([torch.linalg.svdvals(m) for m in matrices])
    after = torch.cat([torch.linalg.svdvals(m) for m in orthogonalised(matrices)])
    assert before.max() > 2  # otherwise there is nothing to show
    assert after.max() < 1.3
    assert (after > 0.5).float().mean() > 0.9


@pytest.mark.parametrize("rounds", [1, 4, 5])
@pytest.mark.parametrize("shape", [(12, 12), (12, 90), (90, 12)])
def test_it_equals_the_iteration_as_published(shape: tuple[int, int], rounds: int) -> None:
    matrix = torch.randn(shape)
    x = matrix.double() if shape[0] <= shape[1] else matrix.double().T
    x = x / x.norm()
    for _ in range(rounds):  # Jordan et al. 2024: X <- a X + (b A + c A^2) X with A = X X^T
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    expected = x if shape[0] <= shape[1] else x.T
    torch.testing.assert_close(orthogonalised([matrix], rounds)[0].double(), expected, rtol=0, atol=2e-4)


def test_orthogonalising_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(6, 10)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonalised([matrix])[0] @ v.T
    assert (turned - turned.diag().diag()).abs().max() < 1e-4


def test_a_transposed_matrix_gives_the_transposed_result() -> None:
    matrix = torch.randn(5, 9)
    torch.testing.assert_close(orthogonalised([matrix.mT])[0], orthogonalised([matrix])[0].mT, rtol=1e-5, atol=1e-6)


def test_plain_groups_take_the_steps_of_adamw() -> None:
    first, second = torch.randn(7), torch.randn(7)
    mine, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    muon = Muon([{"params": [mine]}], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    for _ in range(5):
        for parameter, optimizer in ((mine, muon), (theirs, adamw)):
            parameter.grad = 2 * (parameter.detach() - second)
            optimizer.step()
    assert torch.equal(mine, theirs)


def test_a_matrix_step_has_the_size_of_an_adamw_step() -> None:
    weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
    muon = Muon([{"params": [weight], "matrix": True}], lr=1.0)
    weight.grad = torch.randn_like(weight) * 1e-3
    muon.step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.2)  # Liu et al. 2025, section 2.2


def test_weights_of_one_shape_do_not_touch_each_other() -> None:
    together = [nn.Parameter(torch.zeros(4, 6)) for _ in range(2)]
    alone = nn.Parameter(torch.zeros(4, 6))
    gradients = torch.randn(2, 4, 6)
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    alone.grad = gradients[1].clone()
    Muon([{"params": together, "matrix": True}], lr=0.1).step()
    Muon([{"params": [alone], "matrix": True}], lr=0.1).step()
    torch.testing.assert_close(together[1], alone)


def test_parameters_without_a_gradient_stay() -> None:
    moved, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([{"params": [moved, still], "matrix": True}], lr=0.1, weight_decay=0.5)
    moved.grad = torch.randn(4, 4)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moved, torch.ones(4, 4))


def test_the_state_returns_from_its_dict() -> None:
    def fresh() -> tuple[nn.Parameter, nn.Parameter, Muon]:
        a, b = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(5))
        return a, b, Muon([{"params": [a], "matrix": True}, {"params": [b]}], lr=0.1)

    def steps(a: nn.Parameter, b: nn.Parameter, optimizer: Muon, first: int, last: int) -> None:
        for k in range(first, last):
            generator = torch.Generator().manual_seed(k)
            a.grad, b.grad = torch.randn(4, 6, generator=generator), torch.randn(5, generator=generator)
            optimizer.step()

    whole = fresh()
    steps(*whole, 0, 6)
    half = fresh()
    steps(*half, 0, 3)
    rest = fresh()
    with torch.no_grad():
        rest[0].copy_(half[0])
        rest[1].copy_(half[1])
    rest[2].load_state_dict(half[2].state_dict())
    steps(*rest, 3, 6)
    assert torch.equal(whole[0], rest[0])
    assert torch.equal(whole[1], rest[1])
