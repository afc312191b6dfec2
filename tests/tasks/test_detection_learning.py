# SPDX-License-Identifier: Apache-2.0
import torch
from detection_scenes import VOCABULARY, annotations
from torch import Tensor, nn
from unified.heads.detect_free import DetectFree
from unified.tasks.detection import DetectionTask

from unified.boxes import iou_xyxy
from unified.contracts.structures import Annotations, Batch, Features, FeatureSpec, Frame, Prediction
from unified.model.layers.conv import Conv

SIZE = 96


class TinyTrunk(nn.Module):
    """Four halvings and three levels."""

    spec = FeatureSpec(("p3", "p4", "p5"), (32, 64, 64), (8, 16, 32))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), Conv(32, 32, 3, 2), Conv(32, 32, 3))
        self.middle = nn.Sequential(Conv(32, 64, 3, 2), Conv(64, 64, 3))
        self.coarse = nn.Sequential(Conv(64, 64, 3, 2), Conv(64, 64, 3))

    def forward(self, images: Tensor) -> Features:
        fine = self.stem(images)
        middle = self.middle(fine)
        return Features((fine, middle, self.coarse(middle)), self.spec.levels, self.spec.strides)


def rectangles(generator: torch.Generator) -> tuple[Tensor, Annotations]:
    """Noise with up to three rectangles; the class is the colour."""
    image = torch.rand(3, SIZE, SIZE, generator=generator) * 0.2
    boxes, labels = torch.zeros(0, 4), []
    for _ in range(3):
        side = torch.randint(12, 40, (2,), generator=generator)
        low = (torch.rand(2, generator=generator) * (SIZE - side)).long()
        box = torch.cat([low, low + side]).float()[None]
        if len(boxes) == 0 or iou_xyxy(boxes, box).max() < 0.05:
            label = int(torch.randint(3, (1,), generator=generator))
            image[label, low[1] : low[1] + side[1], low[0] : low[0] + side[0]] += 0.7
            boxes, labels = torch.cat([boxes, box]), [*labels, label]
    return image, annotations(boxes.tolist(), labels)


def test_a_tiny_network_learns_eight_images_by_heart() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images, truths = zip(*(rectangles(generator) for _ in range(8)), strict=True)
    batch = Batch(torch.stack(images), truths, tuple(Frame(str(i), (SIZE, SIZE)) for i in range(8)))
    task, trunk = DetectionTask("det", VOCABULARY), TinyTrunk()
    head = DetectFree(trunk.spec, task.outputs)
    network = nn.ModuleList([trunk, head])
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.2  # so few steps leave the default's running averages far behind
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(120):
        terms = task.loss(head(trunk(batch.images), lambda _, x: x), batch)
        loss = torch.stack([t.weight * t.sum / t.count.clamp(min=1) for t in terms.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        output = head(trunk(batch.images), lambda _, x: x)
    metric = task.metric()
    metric.update(output, task.predict(output, [Prediction((SIZE, SIZE))] * 8, confidence=0.001), batch)
    torch.set_num_threads(threads)
    assert metric.compute()["AP50"] > 0.9
