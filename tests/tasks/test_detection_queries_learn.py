# SPDX-License-Identifier: Apache-2.0
import torch
from detection_scenes import VOCABULARY, annotations
from torch import Tensor, nn
from unified.heads.detr import Detr
from unified.tasks.detection import DetectionTask

from unified.boxes import iou_xyxy
from unified.contracts.structures import Annotations, Batch, Features, FeatureSpec, Frame, Prediction
from unified.model.layers.conv import Conv

SIZE = 64


class TinyTrunk(nn.Module):
    """Three halvings, then a fourth: two levels."""

    spec = FeatureSpec(("p3", "p4"), (32, 48), (8, 16))

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), Conv(32, 32, 3, 2), Conv(32, 32, 3))
        self.coarse = nn.Sequential(Conv(32, 48, 3, 2), Conv(48, 48, 3))

    def forward(self, images: Tensor) -> Features:
        fine = self.fine(images)
        return Features((fine, self.coarse(fine)), self.spec.levels, self.spec.strides)


def pair(generator: torch.Generator) -> tuple[Tensor, Annotations]:
    """Noise with two rectangles that do not touch; the class is the colour."""
    image = torch.rand(3, SIZE, SIZE, generator=generator) * 0.2
    boxes, labels = [], []
    for half in (0, 32):
        width, height = torch.randint(12, 28, (2,), generator=generator).tolist()
        left = half + int(torch.randint(0, 31 - width, (1,), generator=generator))
        top = int(torch.randint(0, SIZE - height, (1,), generator=generator))
        label = int(torch.randint(3, (1,), generator=generator))
        image[label, top : top + height, left : left + width] += 0.7
        boxes.append([left, top, left + width, top + height])
        labels.append(label)
    return image, annotations(boxes, labels)


def learn(task: DetectionTask, trunk: TinyTrunk, head: Detr, batch: Batch, steps: int) -> nn.ModuleList:
    network = nn.ModuleList([trunk, head])
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.3  # so few steps leave the default's running averages far behind
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        terms = task.loss(head(trunk(batch.images), lambda _, x: x), batch)
        loss = torch.stack([t.weight * t.sum / t.count.clamp(min=1) for t in terms.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        rate.step()
    return network.eval()


def test_queries_learn_by_heart_and_say_every_object_once() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images, truths = zip(*(pair(generator) for _ in range(4)), strict=True)
    batch = Batch(torch.stack(images), truths, tuple(Frame(str(i), (SIZE, SIZE)) for i in range(4)))
    task, trunk = DetectionTask("det", VOCABULARY), TinyTrunk()
    head = Detr(trunk.spec, task.outputs, queries=12, decoder=2)
    learn(task, trunk, head, batch, steps=160)
    with torch.no_grad():
        output = head(trunk(batch.images), lambda _, x: x)
    torch.set_num_threads(threads)
    shown = task.predict(output, [Prediction((SIZE, SIZE))] * 4, confidence=0.3)
    for prediction, truth in zip(shown, truths, strict=True):
        boxes, labels = prediction.boxes_xyxy, prediction.labels
        assert boxes is not None and labels is not None
        assert len(boxes) == 2  # of twelve queries, and nothing was suppressed
        overlap, nearest = iou_xyxy(boxes[:, None], truth.boxes_xyxy[None]).max(dim=1)
        assert overlap.min() > 0.6
        assert sorted(nearest.tolist()) == [0, 1]
        assert labels.tolist() == truth.box_labels[nearest].tolist()
    metric = task.metric()
    metric.update(output, task.predict(output, [Prediction((SIZE, SIZE))] * 4, confidence=0.001), batch)
    assert metric.compute()["AP50"] > 0.99
