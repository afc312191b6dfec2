# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import official_state, state_by_keys, write_pt, write_weights

import unified
from unified.boxes import cxcywh_to_xyxy
from unified.cli import eval as eval_command
from unified.cli import import_, predict
from unified.contracts import protocols
from unified.contracts.document import load_run_config
from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Annotations, Batch, Frame, LabelState, Vocabulary
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.official.design import DESIGNS
from unified.official.names import COCO, class_names
from unified.trained import trained_config
from unified.training.start import begin_with

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tiny stands beside all test folders
import tiny

CLASSES = 3


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    """An official state dict of yolor-p6 with three classes."""
    return official_state("yolor-p6", CLASSES)


@pytest.fixture(scope="module")
def file(small: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pt(tmp_path_factory.mktemp("official") / "yolor_p6.pt", small)


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    """The model folder that the command makes of it."""
    names = file.parent / "names.txt"
    names.write_text("circle\nsquare\nstar\n\n")
    assert call(import_, file, "--out", file.parent / "model", "--names", names) == 0
    return file.parent / "model"


def call(command: object, *words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main([str(word) for word in words])  # type: ignore[attr-defined]
    return int(ended.value.code or 0)


def official_decode(model: UnifiedModel, images: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    with torch.inference_mode():
        output = model.network(images)["det"]
    return output.levels, output.decoded


# --- the published network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6"])
def test_outputs_and_losses_are_those_of_the_original(shared: Path, tmp_path: Path, name: str) -> None:
    fixtures = shared / "fixtures" / "yolor"
    data = np.load(fixtures / f"{name}.npz")
    keys = json.loads((fixtures / f"{name}.keys.json").read_text())
    gains = json.loads((fixtures / f"{name}.hyp.json").read_text())
    model = unified.import_yolor(write_pt(tmp_path / "some_file.pt", state_by_keys(keys, float(data["gain"]))))
    assert model.trained.config.model.name == name.replace("_", "-")
    height, width = data["image_hw"].tolist()
    image = np.random.default_rng(20210510).uniform(0, 1, (1, 3, height, width))

    images = torch.from_numpy(image.astype(np.float32))
    levels, decoded = official_decode(model, images)
    raw = [torch.from_numpy(data[f"raw{i}"]) for i in range(len(levels))]
    assert [tuple(level.shape) for level in levels] == [tuple(level.shape) for level in raw]
    assert max(float((a - b).abs().max()) for a, b in zip(levels, raw, strict=True)) <= 1e-3
    assert float((decoded - torch.from_numpy(data["decoded"])).abs().max()) <= 0.02
    output = model.network(images)["det"]
    _, exact = official_decode(model_in_double(model), images.double())
    assert float((exact - torch.from_numpy(data["decoded"])).abs().max()) <= 0.02

    rows = torch.from_numpy(data["targets"])
    truth = Annotations(
        boxes_xyxy=cxcywh_to_xyxy(rows[:, 2:] * torch.tensor([width, height, width, height])),
        box_labels=rows[:, 1].long(),
        box_states=torch.full((len(rows),), LabelState.POSITIVE, dtype=torch.int8),
        states={"det": torch.full((80,), LabelState.NEGATIVE, dtype=torch.int8)},
    )
    options = {
        f"anchor_{long}_gain": gains[short] for long, short in (("box", "box"), ("class", "cls"), ("object", "obj"))
    }
    task = protocols.tasks.get("det")("det", Vocabulary(boxes=COCO), **options)
    terms = task.loss(output, Batch(torch.zeros(1, 3, height, width), (truth,), (Frame("0", (height, width)),)))
    got = [float(terms[k].weight * terms[k].sum.detach() / terms[k].count) for k in ("box", "object", "class")]
    assert [*got, sum(got)] == pytest.approx(data["loss_items_box_obj_cls_total"].tolist(), rel=1e-4)


def model_in_double(model: UnifiedModel) -> UnifiedModel:
    model.network.double()
    return model


# --- any class count, any format -------------------------------------------------------------------------------------


def test_every_tensor_keeps_its_values(file: Path, small: dict[str, torch.Tensor]) -> None:
    model = unified.import_yolor(file)
    own = model.network.state_dict()
    assert len(own) == len(small)
    assert sum(v.double().abs().sum() for v in own.values()) == pytest.approx(
        float(sum(v.double().abs().sum() for v in small.values())), rel=1e-12
    )
    assert torch.equal(own["backbone.stem.1.conv.weight"], small["module_list.1.Conv2d.weight"])
    assert torch.equal(own["neck.up_mix.2.fuse.norm.running_var"], small["module_list.202.BatchNorm2d.running_var"])
    assert torch.equal(own["heads.det.out.3.bias"], small["module_list.232.Conv2d.bias"])
    z = {e.site: e.latent() for e in model.network.bank.entries()}
    assert torch.equal(z["pre.p3"], small["module_list.203.implicit"].flatten())
    assert torch.equal(z["post.p6"], small["module_list.210.implicit"].flatten())
    assert model.size == 1280
    assert model.trained.vocabulary.boxes == ("class 0", "class 1", "class 2")


def test_a_darknet_file_gives_the_same_network(file: Path, small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "yolor_p6.weights", "yolor-p6", CLASSES, small)
    a, b = (unified.import_yolor(path).network.state_dict() for path in (file, weights))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_half_precision_and_a_bare_state_dict_are_read(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {f"module.{key}": value.half() if value.is_floating_point() else value for key, value in small.items()}
    torch.save(state, tmp_path / "bare.pt", _use_new_zipfile_serialization=False)
    own = unified.import_yolor(tmp_path / "bare.pt").network.state_dict()
    half = small["module_list.214.Conv2d.weight"].half().float()
    assert torch.equal(own["heads.det.out.0.weight"], half)


def test_own_anchors_are_used_and_kept(file: Path) -> None:
    anchors = [[(8.0 * (i + 1), 10.0), (9.0, 11.0), (12.0, 13.0)] for i in range(4)]
    model = unified.import_yolor(file, anchors=anchors)
    output = model.network(torch.zeros(1, 3, 64, 64))["det"]
    assert output.anchors_wh.tolist() == [[list(pair) for pair in level] for level in anchors]
    with pytest.raises(UnifiedError, match=r"anchors have the shape \(1, 3, 2\)"):
        unified.import_yolor(file, anchors=anchors[:1])


def test_coco_names_are_those_of_the_data(shared: Path) -> None:
    found = sorted((shared / "data" / "coco-mini").rglob("*instances*.json")) or sorted(
        (shared / "data" / "coco-mini").rglob("*.json")
    )
    categories = next(c for path in found if (c := json.loads(path.read_text()).get("categories")))
    assert [c["name"] for c in sorted(categories, key=lambda c: c["id"])] == list(COCO)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "b"), "has 3 classes, got 2 names"),
        (("a", "b", "a"), "'a' stands 2 times"),
        ("nowhere.txt", "'nowhere.txt' cannot be read"),
        ("nowhere.yaml", "no file at 'nowhere.yaml'"),
    ],
)
def test_names_that_do_not_fit_are_refused(file: Path, names: object, said: str) -> None:
    with pytest.raises(UnifiedError, match=said):
        unified.import_yolor(file, names=names)  # type: ignore[arg-type]


def test_names_from_a_data_file(tmp_path: Path) -> None:
    for text in ("nc: 3\nnames: [a, b, c]\n", "- a\n- b\n- c\n"):
        (tmp_path / "data.yaml").write_text(text)
        assert class_names(CLASSES, tmp_path / "data.yaml") == ("a", "b", "c")
    (tmp_path / "data.yaml").write_text("nc: 3\n")
    with pytest.raises(UnifiedError, match="has no list of names"):
        class_names(CLASSES, tmp_path / "data.yaml")


# --- a normal model folder -------------------------------------------------------------------------------------------


def test_a_folder_answers_as_the_file_does(file: Path, folder: Path) -> None:
    model, again = unified.import_yolor(file, names=("circle", "square", "star")), unified.load(folder, device="cpu")
    assert again.trained.vocabulary == model.trained.vocabulary
    assert again.trained.config == model.trained.config
    image = np.random.default_rng(3).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    first, second = (m.predict(image, size=128, confidence=0.0) for m in (model, again))
    assert len(first.scores) == len(second.scores) > 0
    assert first.box_names == second.box_names == ("circle", "square", "star")
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pairs = zip(model.network(images)["det"].levels, again.network(images)["det"].levels, strict=True)
    for here, there in pairs:  # sums are taken in another order, and these weights let rounding grow
        assert float((here - there).abs().max()) <= 0.01 * float(here.abs().max())


def test_an_imported_network_sums_alike_with_any_number_of_threads(file: Path) -> None:
    model, images = unified.import_yolor(file), torch.rand(1, 3, 128, 128)
    before, outputs = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            outputs.append(model.network(images)["det"].decoded)
    torch.set_num_threads(before)
    assert torch.equal(*outputs)


def test_it_is_scored_as_in_the_paper_unless_told_otherwise(folder: Path) -> None:
    selection = unified.load(folder, device="cpu").trained.tasks["det"].selection  # type: ignore[attr-defined]
    assert (selection.confidence, selection.nms_iou, selection.multi_label) == (0.001, 0.65, True)


def test_commands_take_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert call(predict, folder, tmp_path / "a.png", "--size", 64, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a.png").is_file()
    tiny.cache_at(tmp_path)
    data = tiny.write_data(tmp_path)
    capsys.readouterr()
    assert call(eval_command, folder, "--data", data, "--size", 64, "--batch", 4, "--limit", 4, "--json") == 0
    assert "det/AP" in json.loads(capsys.readouterr().out)
    assert call(eval_command, folder) == 2
    assert "--data" in capsys.readouterr().err


def test_training_on_other_classes_begins_with_all_but_the_outputs(folder: Path, tmp_path: Path) -> None:
    config, _ = load_run_config(model=trained_config(folder).model, data=tiny.write_data(tmp_path), tasks=("det",))
    other = assemble(config.model, config.tasks, Vocabulary(boxes=tuple("abcdefg"))).network
    line = begin_with(other, folder)
    start, own = unified.load(folder, device="cpu").network.state_dict(), other.state_dict()
    fresh = {name for name in own if own[name].shape != start[name].shape}
    assert fresh == {name for name in own if name.startswith("heads.det.out.") or "post" in name}
    assert line.startswith(f"begun with {len(own) - 12} of {len(own)} tensors from {folder}; fresh: ")
    assert all(name in line for name in fresh)
    assert [name for name in own if name not in fresh and not torch.equal(own[name], start[name])] == []


def test_designs_have_a_configuration_each() -> None:
    assert set(DESIGNS) <= set(unified.list_models())
