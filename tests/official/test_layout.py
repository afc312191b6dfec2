# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import pytest
import torch

from unified.contracts.errors import UnifiedError
from unified.model.build import create_model
from unified.official.darknet import classes_of
from unified.official.design import DESIGNS, design_named
from unified.official.layout import layout
from unified.official.mapping import placed
from unified.official.recognise import Recognised

# Numbers of sections as they are published with the networks, by the part a section plays.
PUBLISHED = {
    "yolor-csp": {
        "stem.0": 0,
        "stem.block.0": 2,
        "stage.0.down": 5,
        "stage.0.side": 6,
        "stage.0.main": 8,
        "stage.0.blocks.0.0": 9,
        "stage.0.blocks.1.1": 13,
        "stage.0.exit": 15,
        "stage.0.fuse": 17,
        "stage.1.blocks.0.0": 22,
        "stage.1.exit": 46,
        "stage.1.fuse": 48,
        "stage.2.down": 49,
        "stage.2.fuse": 79,
        "stage.3.side": 81,
        "stage.3.exit": 96,
        "stage.3.fuse": 98,
        "spp.side": 99,
        "spp.enter.0": 101,
        "spp.enter.2": 103,
        "spp.leave.0": 110,
        "spp.leave.1": 111,
        "spp.fuse": 113,
        "fpn.1.reduce": 114,
        "fpn.1.lateral": 117,
        "fpn.1.enter": 119,
        "fpn.1.side": 120,
        "fpn.1.blocks.0.0": 122,
        "fpn.1.blocks.1.1": 125,
        "fpn.1.fuse": 127,
        "fpn.0.reduce": 128,
        "fpn.0.lateral": 131,
        "fpn.0.fuse": 141,
        "pan.1.down": 142,
        "pan.1.enter": 144,
        "pan.1.fuse": 152,
        "pan.2.down": 153,
        "pan.2.fuse": 163,
        "head.0.add": 164,
        "head.2.add": 166,
        "head.0.mul": 167,
        "head.2.mul": 169,
        "head.0.hidden": 171,
        "head.0.out": 173,
        "head.1.hidden": 177,
        "head.2.out": 185,
    },
    "yolor-p6": {
        "stem.0": 1,
        "stage.0.down": 2,
        "stage.0.side": 3,
        "stage.0.main": 5,
        "stage.0.blocks.2.1": 13,
        "stage.0.fuse": 16,
        "stage.1.side": 18,
        "stage.1.blocks.0.0": 21,
        "stage.1.fuse": 43,
        "stage.2.fuse": 70,
        "stage.3.fuse": 85,
        "stage.4.down": 86,
        "stage.4.fuse": 100,
        "spp.side": 101,
        "spp.leave.0": 112,
        "spp.fuse": 115,
        "fpn.2.reduce": 116,
        "fpn.2.lateral": 119,
        "fpn.2.fuse": 131,
        "fpn.1.lateral": 135,
        "fpn.1.fuse": 147,
        "fpn.0.lateral": 151,
        "fpn.0.fuse": 163,
        "pan.1.down": 164,
        "pan.1.fuse": 176,
        "pan.2.fuse": 189,
        "pan.3.down": 190,
        "pan.3.fuse": 202,
        "head.0.add": 203,
        "head.3.mul": 210,
        "head.0.hidden": 212,
        "head.0.out": 214,
        "head.3.hidden": 230,
        "head.3.out": 232,
    },
}
PUBLISHED["yolor-w6"] = PUBLISHED["yolor-p6"]

KEYS = {"yolor-csp": 684, "yolor-csp-x": 816, "yolor-p6": 862, "yolor-w6": 862}
PARAMETERS = {
    "yolor-csp": 52_923_994,
    "yolov4-csp": 52_921_437,
    "yolor-csp-x": 99_754_058,
    "yolov4-csp-x": 99_751_053,
    "yolor-p6": 37_265_016,
    "yolor-w6": 79_873_400,
    "yolov4-p6": 127_585_200,
    "yolov4-p7": 287_566_300,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sections_have_their_published_numbers(name: str) -> None:
    found = {section.role: section.index for section in layout(DESIGNS[name], 80)}
    assert {role: found[role] for role in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", DESIGNS)
def test_keys_and_parameters_are_as_many_as_published(name: str) -> None:
    tensors = [tensor for section in layout(DESIGNS[name], 80) for tensor in section.tensors()]
    learned = [math.prod(shape) for key, shape in tensors if "running" not in key and "tracked" not in key]
    assert sum(learned) == PARAMETERS[name]
    assert len(tensors) == KEYS.get(name, len(tensors))
    assert len({key for key, _ in tensors}) == len(tensors)


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6"])
def test_keys_and_shapes_are_the_official_ones(shared: Path, name: str) -> None:
    official = json.loads((shared / "fixtures" / "yolor" / f"{name}.keys.json").read_text())
    mine = [t for section in layout(design_named(name), 80) for t in section.tensors()]
    assert mine == [(k["key"], tuple(k["shape"])) for k in official]


def test_without_latents_only_the_sections_behind_them_move_up() -> None:
    with_z, plain = ({s.role: s.index for s in layout(DESIGNS[f"yolo{n}-csp"], 80)} for n in ("r", "v4"))
    assert all(with_z[role] == index for role, index in plain.items() if not role.startswith("head."))
    assert [(plain[f"head.{i}.hidden"], plain[f"head.{i}.out"]) for i in range(3)] == [
        (165, 166),
        (169, 170),
        (173, 174),
    ]


def test_classes_change_outputs_and_their_latents_only() -> None:
    pairs = zip(layout(DESIGNS["yolor-p6"], 3), layout(DESIGNS["yolor-p6"], 7), strict=True)
    other = [few.role for few, many in pairs if few != many]
    assert sorted(other) == sorted(f"head.{i}.{part}" for i in range(4) for part in ("out", "mul"))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_tensor_has_one_place_in_the_network(name: str) -> None:
    found = Recognised(DESIGNS[name], 80)
    state = {key: torch.zeros(()).expand(shape) for section in found.sections for key, shape in section.tensors()}
    with torch.device("meta"):
        network = create_model(name, tasks=("det",))
    result = placed(found, state, network, "det", "a file")
    assert {k: v.shape for k, v in result.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert len(result) == len(state)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


def test_a_network_that_was_changed_is_not_half_filled() -> None:
    found = Recognised(DESIGNS["yolor-csp"], 80)
    state = {key: torch.zeros(()).expand(shape) for section in found.sections for key, shape in section.tensors()}
    with torch.device("meta"):
        network = create_model("yolov4-csp", tasks=("det",))
    with pytest.raises(UnifiedError, match=r"'a file' does not fill .* yolor-csp: 6 tensors differ .no place for"):
        placed(found, state, network, "det", "a file")


@pytest.mark.parametrize("classes", [1, 2, 20, 80, 365])
def test_the_length_of_a_weights_file_means_one_network(classes: int) -> None:
    for name, design in DESIGNS.items():
        stored = [t for s in layout(design, classes) for t in s.tensors() if not t[0].endswith("tracked")]
        floats = sum(math.prod(shape) for _, shape in stored)
        assert {n: k for n, d in DESIGNS.items() if (k := classes_of(d, floats))} == {name: classes}


@pytest.mark.parametrize(
    ("word", "name"),
    [("yolor_p6.pt", "yolor-p6"), ("YOLOR-CSP", "yolor-csp"), ("yolor_csp_x_star", "yolor-csp-x"), ("p6", None)],
)
def test_names_are_understood_as_people_write_them(word: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(UnifiedError, match=r"known: .*yolor-csp"):
            design_named(word)
        return
    assert design_named(word).name == name
