# SPDX-License-Identifier: Apache-2.0
"""Any format as COCO, read back by pycocotools and by ourselves; the source stays as it was, to the byte."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import menagerie
import numpy as np
import pytest
import torch
from menagerie import CLASSES, PICTURES
from PIL import Image
from pycocotools.coco import COCO

from unified.cli.data import main
from unified.contracts.config import DataConfig
from unified.contracts.document import load_data
from unified.contracts.errors import DataError
from unified.data.convert import convert
from unified.data.mixing import Mixture, open_mixture

WRITERS = {
    "coco": menagerie.coco,
    "voc": menagerie.voc,
    "yolo": menagerie.yolo,
    "csv": menagerie.sheet,
    "openimages": menagerie.openimages,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "zoo").mkdir()
    return tmp_path / "zoo"


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def digest(root: Path) -> dict[str, Any]:
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
        for p in root.rglob("*")
        if p.is_file()
    }


def official(file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def mixture(config: DataConfig, base: Path) -> Mixture:
    labels: dict[str, Any] = {"det": "boxes", "cls": "tags", "emb": "identities"}
    asked = {task: labels[task] for task in next(iter(config.datasets.values())).labelled}
    return open_mixture(config, asked, split="train", size=64, base=base)


@pytest.mark.parametrize("pictures", ["reference", "copy"])
@pytest.mark.parametrize("name", WRITERS)
def test_pycocotools_reads_what_was_converted(name: str, pictures: str, root: Path, tmp_path: Path) -> None:
    WRITERS[name](root)
    before = digest(root)
    assert command("convert", root, "--out", tmp_path / "out", "--images", pictures) == 0
    assert digest(root) == before
    truth = official(tmp_path / "out" / "annotations" / "instances_train.json")
    names = {category["id"]: category["name"] for category in truth.loadCats(truth.getCatIds())}
    assert tuple(names.values()) == CLASSES
    folder = Path(load_data(str(tmp_path / "out" / "data.yaml"))[0].datasets["zoo"].train.images)  # type: ignore[union-attr]
    assert folder.is_absolute() == (pictures == "reference")
    for image, picture in zip(truth.loadImgs(truth.getImgIds()), PICTURES, strict=True):
        assert (image["file_name"], image["width"], image["height"]) == (
            f"{picture.name}.png",
            picture.width,
            picture.height,
        )
        assert Image.open(tmp_path / "out" / folder / image["file_name"]).size == (picture.width, picture.height)
        records = truth.loadAnns(truth.getAnnIds(imgIds=image["id"]))
        assert [names[r["category_id"]] for r in records] == [what for what, *_ in picture.boxes]
        boxes = np.array([r["bbox"] for r in records]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, np.array([c[1:5] for c in picture.boxes]).reshape(-1, 4), atol=1e-3)
        if name in ("coco", "voc"):
            assert [bool(r.get("ignore")) for r in records] == [hard for *_, hard in picture.boxes]
        elif name == "openimages":
            assert [bool(r["iscrowd"]) for r in records] == [hard for *_, hard in picture.boxes]


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_converted_says_the_same(name: str, root: Path, tmp_path: Path) -> None:
    """Boxes, states of every task and identities, sample by sample; only floats are rounded."""
    said = WRITERS[name](root)
    if name == "yolo":
        (root / "labels" / "train" / "c.txt").unlink()  # a picture that nobody labelled
    fields = {"tags": {"fields": ["weather"]}, "identity": {"image": "place", "boxes": "category"}}
    tasks = ("det", "cls", "emb") if name in ("coco", "csv") else ("det", "cls")
    more = fields if name in ("coco", "csv") else {} if name == "openimages" else {"tags": "categories"}
    more |= {"labelled": dict.fromkeys(tasks, "all")}
    config = DataConfig.model_validate({"datasets": {"zoo": {"path": str(root), **said, **more}}})
    done = convert("zoo", config.datasets["zoo"], Path(), tmp_path / "out")
    first, then = mixture(config, Path()), mixture(*load_data(str(done.file)))
    assert first.vocabulary.boxes == then.vocabulary.boxes and {*first.vocabulary.tags} == {*then.vocabulary.tags}
    place = [then.vocabulary.tags.index(word) for word in first.vocabulary.tags]
    for k in range(len(PICTURES)):
        ours, theirs = first.sample("zoo", k)[0].annotations, then.sample("zoo", k)[0].annotations
        assert torch.allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        for column in ("box_labels", "box_states", "box_crowd", "box_identities"):
            assert torch.equal(getattr(ours, column), getattr(theirs, column)), column
        assert ours.states["det"].tolist() == theirs.states["det"].tolist()
        assert ours.states["cls"].tolist() == theirs.states["cls"][place].tolist()
        assert ours.identity == theirs.identity


def test_a_folder_of_classes_and_one_that_is_drawn(root: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        menagerie.draw(root / name)
    done = convert(
        "zoo",
        load_data(str(root), as_found=True, tell=lambda _: None)[0].datasets["zoo"],
        Path(),
        tmp_path / "out",
        "copy",
    )
    again = mixture(*load_data(str(done.file)))
    assert done.images == {"train": 12} and again.vocabulary.tags == CLASSES
    assert again.sample("zoo", 0)[0].annotations.states["cls"].tolist() == [3, 2, 2]
    (tmp_path / "drawn.yaml").write_text(
        "format: shapes\nlabelled: {det: all, cls: all, emb: all}\noptions: {train: 3, val: 2, level: easy, size: 64}\n"
    )
    assert command("convert", tmp_path / "drawn.yaml", "--out", tmp_path / "shapes") == 0
    given, written = load_data(str(tmp_path / "drawn.yaml")), load_data(str(tmp_path / "shapes" / "data.yaml"))
    first, then = mixture(*given), mixture(*written)
    ours, theirs = first.sample("drawn", 1)[0], then.sample("drawn", 1)[0]
    assert torch.equal(ours.image, theirs.image) and torch.equal(
        ours.annotations.box_labels, theirs.annotations.box_labels
    )
    assert ours.annotations.states["det"].tolist() == theirs.annotations.states["det"].tolist()


def test_what_cannot_be_converted_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    menagerie.yolo(root)
    for words, said in (
        ((root, "--out", root / "out"), "lies in the dataset's own folder"),
        ((root, "--out", root), "is not empty"),
        ((root, "--out", tmp_path / "new", "--images", "move"), "unknown word 'move'"),
        ((root, "--out", tmp_path / "new", "--dataset", "ark"), "no dataset 'ark'"),
        ((tmp_path / "gone.json", "--out", tmp_path / "new"), "does not exist"),
    ):
        capsys.readouterr()
        assert command("convert", *words) == 2
        assert said in capsys.readouterr().err
    assert not (root / "out").exists() and not (tmp_path / "new").exists()


def test_a_damaged_picture_costs_itself_only(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    menagerie.yolo(root)
    (root / "images" / "train" / "b.png").write_bytes(b"no picture")
    assert command("convert", root, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "b.png is damaged" in told and "left out" in told and "train: 3 images, 4 boxes" in told


def test_names_that_climb_out_are_not_copied(root: Path, tmp_path: Path) -> None:
    menagerie.coco(root)
    (tmp_path / "secret.png").write_bytes((root / "images" / "a.png").read_bytes())
    file = root / "train.json"
    file.write_text(file.read_text().replace("d.png", f"..{os.sep}..{os.sep}secret.png"))
    config = load_data(str(root), as_found=True, tell=lambda _: None)[0]
    with pytest.raises(DataError, match="leaves"):
        convert("zoo", config.datasets["zoo"], Path(), tmp_path / "out", "copy")
    assert not list((tmp_path).glob("out/**/secret.png"))


def test_a_real_voc_set_survives_the_trip(shared: Path, tmp_path: Path) -> None:
    """COCO boxes written as VOC and YOLO by the rules of those formats come back to within their rounding."""
    truth = official(shared / "data" / "raccoon" / "annotations" / "instances_val.json")
    root = tmp_path / "raccoon"
    pictures = []
    for image in truth.loadImgs(truth.getImgIds()):
        boxes = [r["bbox"] for r in truth.loadAnns(truth.getAnnIds(imgIds=image["id"]))]
        corners = [("raccoon", *(round(v) for v in (x, y, x + w, y + h)), False) for x, y, w, h in boxes]
        pictures.append(
            menagerie.Picture(Path(image["file_name"]).stem, image["width"], image["height"], tuple(corners))
        )
    for writer in (menagerie.voc, menagerie.yolo):
        (root / writer.__name__).mkdir(parents=True)
        classes, menagerie.CLASSES = menagerie.CLASSES, ("raccoon",)
        try:
            said = writer(root / writer.__name__, tuple(pictures))
        finally:
            menagerie.CLASSES = classes
        config = DataConfig.model_validate({"datasets": {"r": {"path": str(root / writer.__name__), **said}}})
        done = convert("r", config.datasets["r"], Path(), tmp_path / f"out-{writer.__name__}")
        found = official(done.file.parent / "annotations" / "instances_train.json")
        by_name = {i["file_name"]: i["id"] for i in found.loadImgs(found.getImgIds())}
        for picture in pictures:
            boxes = [r["bbox"] for r in found.loadAnns(found.getAnnIds(imgIds=by_name[f"{picture.name}.png"]))]
            want = [(x0, y0, x1 - x0, y1 - y0) for _, x0, y0, x1, y1, _ in picture.boxes]
            assert np.allclose(np.array(boxes).reshape(-1, 4), np.array(want).reshape(-1, 4), atol=1e-2)
