# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou, complete_box_iou_loss

import unified  # noqa: F401
from unified.boxes import area_xyxy, clip_xyxy, complete_iou_xyxy, cxcywh_to_xyxy, iou_xyxy, xyxy_to_cxcywh


def some_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([low, low + 0.5 + torch.rand(count, 2, generator=generator) * 60], dim=-1)


def test_iou_by_hand() -> None:
    a = torch.tensor([0.0, 0, 4, 4])
    others = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [2, 2, 6, 6], [4, 0, 8, 4], [9, 9, 10, 10], [1, 1, 3, 3]])
    assert torch.allclose(iou_xyxy(a, others), torch.tensor([1, 8 / 24, 4 / 28, 0, 0, 4 / 16]))


def test_areas_and_boxes_turned_inside_out() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 8], [4, 2, 1, 8], [3, 3, 3, 9]])
    assert area_xyxy(boxes).tolist() == [18, 0, 0]
    assert iou_xyxy(boxes[1], torch.tensor([0.0, 0, 9, 9])) == 0


def test_iou_broadcasts_as_torchvision_pairs() -> None:
    a, b = some_boxes(7, 0), some_boxes(5, 1)
    found = iou_xyxy(a[:, None], b[None])
    assert found.max() > 0.2
    assert torch.allclose(found, box_iou(a, b), atol=1e-6)


def test_complete_iou_by_hand() -> None:
    """Same shape, moved by (3, 0): IoU 1/7, centres 9 apart squared, enclosing diagonal 7² + 4²."""
    a, b = torch.tensor([0.0, 0, 4, 4]), torch.tensor([3.0, 0, 7, 4])
    assert complete_iou_xyxy(a, b).item() == pytest.approx(1 / 7 - 9 / 65)
    assert complete_iou_xyxy(a, a).item() == pytest.approx(1)
    """Same centre, 4 x 2 against 2 x 4: IoU 1/3 and only the aspect term."""
    wide, tall = torch.tensor([0.0, 1, 4, 3]), torch.tensor([1.0, 0, 3, 4])
    aspect = 4 / torch.pi**2 * (torch.atan(torch.tensor(2.0)) - torch.atan(torch.tensor(0.5))).square().item()
    expected = 1 / 3 - aspect * aspect / (1 - 1 / 3 + aspect)
    assert complete_iou_xyxy(wide, tall).item() == pytest.approx(expected)


def test_complete_iou_and_its_gradient_equal_torchvision() -> None:
    target = some_boxes(200, 2)
    near = (target + 6 * torch.randn(target.shape, generator=torch.Generator().manual_seed(3))).double()
    near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 0.5)
    mine, theirs = near.clone().requires_grad_(), near.clone().requires_grad_()
    values = 1 - complete_iou_xyxy(mine, target.double())
    expected = complete_box_iou_loss(theirs, target.double())
    assert torch.allclose(values, expected, atol=1e-6)
    values.sum().backward()
    expected.sum().backward()
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize(
    "box",
    [
        [5.0, 5, 5, 5],
        [5, 5, 9, 5],
        [5, 5, 5, 9],
        [9, 9, 5, 5],
        [0, 0, 1e-12, 1e-12],
        [0, 0, 1e6, 1e-6],
        [-1e5, 0, 1e5, 1],
    ],
)
def test_degenerate_boxes_have_finite_values_and_gradients(box: list[float]) -> None:
    others = torch.tensor([box, [5.0, 5, 5, 5], [4, 4, 8, 8], [100, 100, 120, 140]])
    a = torch.tensor(box, dtype=torch.float32).expand(4, 4).clone().requires_grad_()
    value = complete_iou_xyxy(a, others)
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad.isfinite().all()


def test_forms_of_a_box_lead_back_to_each_other() -> None:
    boxes = some_boxes(50, 4).view(5, 10, 4)
    centred = xyxy_to_cxcywh(boxes)
    assert torch.allclose(cxcywh_to_xyxy(centred), boxes, atol=1e-4)
    assert xyxy_to_cxcywh(torch.tensor([10.0, 20, 30, 60])).tolist() == [20, 40, 20, 40]
    assert cxcywh_to_xyxy(torch.tensor([20.0, 40, 20, 40])).tolist() == [10, 20, 30, 60]


def test_clipping_knows_height_from_width() -> None:
    boxes = torch.tensor([[-5.0, -5, 500, 500], [1, 2, 3, 4], [120, 10, 130, 20]])
    assert clip_xyxy(boxes, (50, 100)).tolist() == [[0, 0, 100, 50], [1, 2, 3, 4], [100, 10, 100, 20]]
