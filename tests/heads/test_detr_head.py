# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn
from unified.heads.detr import Detr, input_size, spread_boxes

from unified.contracts.config import PartConfig, TaskConfig
from unified.contracts.document import load_model_config
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Features, FeatureSpec, QueryBoxOutput
from unified.model.build import EXAMPLE_VOCABULARY, assemble
from unified.model.latents.fold import fold
from unified.model.layers.position import sine_boxes, sine_xy
from unified.model.network import UnifiedNetwork
from unified.trained import load_trained
from unified.training.run import train

SPEC = FeatureSpec(("p3", "p4", "p5"), (32, 48, 64), (8, 16, 32))


def features_of(spec: FeatureSpec = SPEC, size: tuple[int, int] = (64, 128), batch: int = 2) -> Features:
    pairs = zip(spec.channels, spec.strides, strict=True)
    maps = tuple(torch.randn(batch, c, size[0] // s, size[1] // s) for c, s in pairs)
    return Features(maps, spec.levels, spec.strides)


def identity(_: str, x: Tensor) -> Tensor:
    return x


def test_every_layer_answers_and_the_last_counts() -> None:
    output = Detr(SPEC, 5, queries=7, decoder=4)(features_of(), identity)
    assert output.class_logits.shape == (4, 2, 7, 5)
    assert output.boxes_cxcywh.shape == (4, 2, 7, 4)
    assert output.size == (64, 128)
    assert output.boxes_cxcywh.min() > 0 and output.boxes_cxcywh.max() < 1
    boxes, scores = output.decode()
    assert torch.equal(scores, output.class_logits[-1].sigmoid())
    assert torch.equal(boxes, output.boxes_xyxy()[-1])


def test_boxes_are_decoded_to_pixels() -> None:
    boxes = torch.tensor([0.5, 0.25, 0.25, 0.5]).view(1, 1, 1, 4)
    output = QueryBoxOutput(torch.zeros(1, 1, 1, 2), boxes, (100, 200))
    assert output.decode()[0].tolist() == [[[75.0, 0.0, 125.0, 50.0]]]
    assert output.decode()[1].tolist() == [[[0.5, 0.5]]]


def test_it_starts_with_rare_classes_at_its_own_boxes() -> None:
    head = Detr(SPEC, 5, queries=50).eval()
    output = head(features_of(), identity)
    assert output.decode()[1].max() < 0.03
    start = head.start.view(50, 4).sigmoid()
    assert (output.boxes_cxcywh - start).abs().max() < 0.05


def test_first_boxes_are_spread_over_places_and_sizes() -> None:
    boxes = spread_boxes(64)
    assert ((boxes > 0) & (boxes < 1)).all()
    cells = (boxes[:, :2] * 4).long()
    filled = {(int(x), int(y)) for x, y in cells}
    assert len(filled) == 16  # every sixteenth of the image has a query
    assert boxes[:, 2].min() < 0.07 and boxes[:, 2].max() > 0.5


@torch.no_grad()
def test_a_query_looks_where_its_box_stands() -> None:
    """Moving what is far from a query's box changes its answer less than moving what is in it."""
    head = Detr(SPEC, 3, queries=1, encoder=0, decoder=1).eval()
    for weight in (head.layers[0].look.query.weight, head.layers[0].look.key.weight):
        nn.init.zeros_(weight)  # attention by place alone
    for linear in (head.layers[0].look.query_place, head.layers[0].look.key_place):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.zeros_(head.gaze[-1].weight)
    nn.init.constant_(head.gaze[-1].bias, 4.0)
    with torch.no_grad():
        head.start.copy_(torch.tensor([0.25, 0.25, 0.3, 0.3]).logit())
    given = features_of(size=(128, 128), batch=1)
    plain = head(given, identity).class_logits

    def change(rows: slice) -> float:
        maps = []
        for x in given.maps:
            x = x.clone()
            part = slice(*(int(edge * x.shape[-1]) for edge in (rows.start / 4, rows.stop / 4)))
            x[..., part, part] += 5 * torch.randn_like(x[..., part, part])
            maps.append(x)
        return float((head(given.with_maps(tuple(maps)), identity).class_logits - plain).norm())

    torch.manual_seed(3)
    near = change(slice(0, 2))
    assert near > 2 * change(slice(2, 4))


@torch.no_grad()
def test_a_gaze_is_as_wide_and_as_high_as_its_box() -> None:
    """DAB-DETR eq. 6: the flatter the box, the sharper the places of its height are told apart."""
    head = Detr(SPEC, 3, queries=1, width=32).eval()
    nn.init.zeros_(head.shape[-1].weight)
    nn.init.zeros_(head.shape[-1].bias)  # a wanted size of one half
    nn.init.zeros_(head.gaze[-1].weight)
    nn.init.ones_(head.gaze[-1].bias)
    box = torch.tensor([[[0.3, 0.4, 0.5, 0.1]]])
    encoded = sine_boxes(box, 32)
    gaze = head._gaze(torch.randn(1, 1, 32), box, encoded)
    y, x = sine_xy(box[..., :2], 32).chunk(2, dim=-1)
    assert torch.allclose(gaze, torch.cat([5 * y, x], dim=-1), atol=1e-5)


def test_a_layer_learns_to_correct_the_box_it_is_given() -> None:
    head = Detr(SPEC, 3, queries=4, decoder=2)
    for last in (head.place[-1], head.gaze[-1]):  # so that boxes reach the next layer by no other way
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    boxes = head(features_of(), identity).boxes_cxcywh
    first, second = (torch.autograd.grad(x.sum(), head.start, retain_graph=True)[0] for x in boxes)
    assert first.abs().min() > 0
    assert second.abs().max() == 0


RULE = "  - {site: '%s', latent: vector, operator: %s}\n"


def configured(folder: Path, operator: str) -> UnifiedNetwork:
    """A tiny network with this head and a latent at each of its sites."""
    rules = "".join(RULE % (site, operator) for site in ("align.*", "pre.*", "post.*"))
    head = "heads: {detr: {queries: 6, width: 32, decoder: 2}}\n"
    path = tiny.write_model(folder, f"{tiny.MODEL.partition('latents:')[0]}latents:\n{rules}{head}")
    tasks = {"det": TaskConfig(task="det", head=PartConfig(name="detr"))}
    return assemble(load_model_config(path), tasks, EXAMPLE_VOCABULARY).network.eval()


@pytest.mark.parametrize("operator", ["add", "mul", "concat"])
@torch.no_grad()
def test_latents_at_its_sites_fold_away(tmp_path: Path, operator: str) -> None:
    network = configured(tmp_path, operator)
    entries = list(network.bank.entries())
    sites = {"align.p3", "align.p4", "align.p5", "pre.cls", "pre.box", "post.cls", "post.box"}
    assert {entry.site for entry in entries} == sites
    nn.init.normal_(network.heads["det"].box.out.weight, std=0.2)  # type: ignore[union-attr,arg-type]
    images = torch.rand(2, 3, 64, 64)
    untouched = network(images)["det"]
    for entry in entries:
        z: Tensor = entry.latent.z  # type: ignore[assignment]
        z.add_(0.3 * torch.randn_like(z))
    folded = fold(network)
    assert folded.kept == ()
    before, after = network(images)["det"], folded.network(images)["det"]
    for name in ("class_logits", "boxes_cxcywh"):
        a, b, plain = (getattr(output, name) for output in (before, after, untouched))
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()
        assert (a - plain).abs().max() > 1e-3 * a.abs().max()


def test_one_level_is_enough() -> None:
    spec = FeatureSpec(("p4",), (48,), (16,))
    features = features_of(spec)
    assert input_size(features) == (64, 128)
    assert Detr(spec, 2, queries=3)(features, identity).decode()[0].shape == (2, 3, 4)


class Plain(nn.Module):
    """Tensors in, tensors out, as an exporter needs it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(Features(maps, SPEC.levels, SPEC.strides), identity).decode()


def test_it_exports_for_any_batch() -> None:
    module = Plain(Detr(SPEC, 5, queries=6, decoder=1).eval())
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"maps": tuple({0: batch} for _ in SPEC.levels)}
    program = torch.export.export(module, features_of().maps, dynamic_shapes=shapes)
    other = features_of(batch=3).maps
    for got, expected in zip(program.module()(*other), module(*other), strict=True):
        assert torch.allclose(got, expected, atol=1e-4)


def test_places_to_start_from_are_never_decayed() -> None:
    """Recipes decay what has two dimensions or more; a decayed place would drift to the middle of the image."""
    assert Detr(SPEC, 5).start.ndim == 1


@pytest.mark.parametrize("options", [{"queries": 0}, {"width": 60}, {"width": 64, "heads": 5}, {"decoder": 0}])
def test_settings_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^detr needs .*got outputs=3, "):
        Detr(SPEC, 3, **options)


def test_a_run_with_it_trains_saves_and_loads(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    words = ("tasks.det.head.name=detr", "tasks.det.head.queries=8", "max_steps=2")
    config, base = tiny.config(tmp_path, *words, tasks=("det", "cls"))
    summary = train(config, base, out=tmp_path / "run")
    assert 0 <= summary.metrics["det/AP"] <= 1
    trained = load_trained(tmp_path / "run")
    assert isinstance(trained.network.heads["det"], Detr)
    with torch.inference_mode():
        output = trained.network(torch.rand(1, 3, 96, 96))["det"]
    assert output.class_logits.shape[2] == 8 and output.size == (96, 96)
