# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from unified.contracts.config import DataConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.lint.categories import alike_names, similar_names
from unified.data.lint.faults import FAULTS
from unified.data.lint.likeness import fingerprints, ones, twins
from unified.data.lint.linter import Report, lint, refuse_faults
from unified.data.lint.page import write_page
from unified.data.lint.repair import write_repaired
from unified.data.mixing import open_mixture

SIDE = 48


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture with coarse structure that no other seed has."""
    values = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def dataset(root: Path, seed: int, classes: list[str], boxes: list[list[tuple[int, list[float]]]]) -> dict[str, Any]:
    """Writes pictures and a train.json; ``boxes`` per image are (class, box). Returns the split."""
    root.mkdir(parents=True)
    images, annotations = [], []
    for k, shown in enumerate(boxes):
        picture(100 * seed + k).save(root / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE})
        for label, box in shown:
            annotations.append({"id": len(annotations), "image_id": k, "category_id": label, "bbox": box})
    categories = [{"id": k, "name": name} for k, name in enumerate(classes)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (root / "train.json").write_text(json.dumps(document))
    return {"path": str(root), "train": {"images": ".", "annotations": "train.json"}}


BOX: list[float] = [4, 4, 20, 20]


def config(**datasets: Any) -> DataConfig:
    return DataConfig.model_validate({"datasets": datasets})


def faults(report: Report) -> list[str]:
    return [finding.fault for finding in report.findings if finding.severity != "note"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_every_fault_of_every_data_set_is_told_in_one_pass(tmp_path: Path) -> None:
    one = dataset(tmp_path / "one", 1, ["dog", "cat"], [[(0, BOX)], [(1, [1, 1, 0, 5])]])
    two = dataset(tmp_path / "two", 2, ["Dogs"], [[(0, [90, 1, 5, 5])]])
    report = lint(config(one={**one, "labelled": {"det": "all"}}, two=two), tmp_path, "mix.yaml")
    assert sorted(faults(report)) == ["box-no-area", "box-outside", "names-alike", "says-nothing"]
    lines = {finding.fault: finding.line for finding in report.findings}
    assert (
        "one/train.json: annotations[1] (id 1).bbox: [1, 1, 0, 5] of a 48 x 48 image has no area; "
        in lines["box-no-area"]
    )
    assert lines["says-nothing"].startswith("mix.yaml: datasets.two.labelled: is missing")
    assert "'dog' and 'Dogs' differ only in being plural" in lines["names-alike"]
    assert report.findings.refused


def test_an_alias_settles_two_names_for_one_class(tmp_path: Path) -> None:
    one = dataset(tmp_path / "one", 1, ["dog"], [[(0, BOX)]]) | {"labelled": {"det": "all"}}
    two = dataset(tmp_path / "two", 2, ["dogs"], [[(0, BOX)]]) | {"labelled": {"det": "all"}}
    assert faults(lint(config(one=one, two=two), tmp_path, "mix.yaml")) == ["names-alike"]
    report = lint(config(one=one, two={**two, "aliases": {"dogs": "dog"}}), tmp_path, "mix.yaml")
    assert faults(report) == [] and report.shared[0].boxes == {"one": 1, "two": 1}
    apart = lint(config(one=one, two={**two, "aliases": {"dogs": "dogs"}}), tmp_path, "mix.yaml")
    assert faults(apart) == [] and not apart.shared  # said to be two on purpose


def test_names_that_are_alike_and_names_that_are_not() -> None:
    same = [
        "Dog",
        "dog",
        "traffic light",
        "Traffic_Lights",
        "wine-glass",
        "wine glasses",
        "city",
        "cities",
        "people",
        "person",
    ]
    assert {frozenset(pair[:2]) for pair in alike_names(same)} == {
        frozenset(pair)
        for pair in (
            ("Dog", "dog"),
            ("traffic light", "Traffic_Lights"),
            ("wine-glass", "wine glasses"),
            ("city", "cities"),
            ("people", "person"),
        )
    }
    other = ["bus", "bush", "glass", "cat", "car", "cart", "mouse", "house", "news", "new york"]
    assert list(alike_names(other)) == [] and similar_names(other) == set()
    assert similar_names(["bicycle", "bycicle", "bicyle", "keyboard"]) == {("bicycle", "bicyle")}


def test_the_counts_are_what_the_losses_will_be_told(tmp_path: Path) -> None:
    part = dataset(tmp_path / "one", 1, ["dog", "cat", "owl"], [[(0, BOX), (1, BOX)], [(0, BOX)], []])
    given = config(one={**part, "tags": "categories", "labelled": {"det": ["dog", "cat"], "cls": "empty"}})
    report = lint(given, tmp_path, "mix.yaml")
    mixture = open_mixture(given, {"det": "boxes", "cls": "tags"}, split="train", size=32, base=tmp_path)
    for task, words in (("det", mixture.vocabulary.boxes), ("cls", mixture.vocabulary.tags)):
        states = np.array([mixture.sample("one", k)[0].annotations.states[task].numpy() for k in range(3)])
        for k, word in enumerate(words):
            row = next(r for c in report.counts for r in c.rows if (r.task, r.word) == (task, word))
            assert row.images == tuple(int((states[:, k] == state).sum()) for state in LabelState), (task, word)
    of_dog, of_owl = (next(r for r in report.counts[0].rows if r.word == w and r.task == "det") for w in ("dog", "owl"))
    assert (of_dog.boxes, of_dog.images) == (2, (0, 0, 1, 2, 0))
    assert of_owl.images == (3, 0, 0, 0, 0)  # nobody looked for owls


def test_pictures_on_both_sides_are_found_and_strangers_are_not(tmp_path: Path) -> None:
    for side in ("train", "val"):
        (tmp_path / side).mkdir()
    for seed in range(30):
        picture(seed, (120, 90)).save(tmp_path / "train" / f"{seed}.jpg", quality=95)
        picture(seed + 1000, (120, 90)).save(tmp_path / "val" / f"{seed}.jpg", quality=95)
    smaller = ImageEnhance.Brightness(picture(7, (120, 90)).resize((77, 58))).enhance(1.15)
    smaller.save(tmp_path / "val" / "copy.jpg", quality=50)
    Image.new("RGB", (50, 50), (9, 9, 9)).save(tmp_path / "train" / "flat.png")
    Image.new("RGB", (50, 50), (99, 9, 9)).save(tmp_path / "val" / "flat.png")
    paths = [sorted((tmp_path / side).iterdir()) for side in ("train", "val")]
    found = twins(fingerprints(paths[0], None), fingerprints(paths[1], None))
    assert [(paths[0][twin.train].name, paths[1][twin.val].name) for twin in found] == [("7.jpg", "copy.jpg")]
    sampled = fingerprints(paths[0], 10)
    assert sampled.asked == 10 and sampled.total == 31


def test_bits_are_counted() -> None:
    words = np.array([0, 1, 3, 2**63, 2**64 - 1, 0x5555555555555555], dtype=np.uint64)
    assert ones(words).tolist() == [0, 1, 2, 1, 64, 32]


def test_training_is_refused_with_the_faults_and_goes_on_with_warnings(tmp_path: Path) -> None:
    good = config(one=dataset(tmp_path / "one", 1, ["dog"], [[(0, BOX)]]) | {"labelled": {"det": "all"}})
    assert refuse_faults(good, tmp_path, "mix.yaml", {"det": "det"}) == []
    (tmp_path / "one" / "0.png").unlink()
    with pytest.raises(DataError, match=r"images\[0\] \(id 0\)\.file_name: '0\.png' is not in"):
        refuse_faults(good, tmp_path, "mix.yaml", {"det": "det"})
    bad = dataset(tmp_path / "two", 2, ["dog"], [[(0, [k, k, 0, 0])] for k in range(30)])
    with pytest.raises(DataError) as error:
        refuse_faults(config(two={**bad, "labelled": {"det": "all"}}), tmp_path, "mix.yaml", {"det": "det"})
    lines = str(error.value).splitlines()
    assert lines[0].startswith("30 faults in the data; unified-lint mix.yaml") and lines[-1] == "and 20 more"


def test_the_repaired_copy_is_clean_and_the_source_is_untouched(tmp_path: Path) -> None:
    boxes: list[Any] = [[-9, 4, 20, 20], [9, 9, 9, -4], ["1", "2", "9", "9"], [float("nan"), 0, 5, 5], [1, 1, 0, 5]]
    part = dataset(tmp_path / "one", 1, ["dog", "dogs "], [[(k % 2, box)] for k, box in enumerate(boxes)])
    given = config(one={**part, "labelled": {"det": ["dog"]}})
    before = {path: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    report = lint(given, tmp_path, "mix.yaml")
    assert report.findings.refused
    changes = write_repaired(report, given, tmp_path, tmp_path / "fixed")
    assert {path: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before
    from unified.contracts.document import load_data

    again, base = load_data(str(tmp_path / "fixed" / "data.yaml"))
    clean = lint(again, base, "fixed")
    assert faults(clean) == [], [finding.line for finding in clean.findings]
    document = json.loads((tmp_path / "fixed" / "one-train.json").read_text())
    found = {record["id"]: record for record in document["annotations"]}
    assert found[0]["bbox"] == [0, 4, 11, 20] and found[1]["bbox"] == [9, 5, 9, 4] and found[2]["bbox"] == [1, 2, 9, 9]
    assert found[3]["bbox"] == [0, 0, SIDE, SIDE] and found[3]["iscrowd"] == 1  # somewhere in it: not background
    assert set(found) == {0, 1, 2, 3} and [c["name"] for c in document["categories"]] == ["dog"]
    for k in (0, 1, 2, 3, 4):
        assert any(f"annotations[{k}] (id {k}): " in change for change in changes), k


def test_the_copy_goes_to_a_new_folder_outside_the_data(tmp_path: Path) -> None:
    given = config(one=dataset(tmp_path / "one", 1, ["dog"], [[(0, BOX)]]) | {"labelled": {"det": "all"}})
    report = lint(given, tmp_path, "mix.yaml")
    for out, said in ((tmp_path / "one" / "fixed", "lies inside the data set"), (tmp_path, "already holds something")):
        with pytest.raises(DataError, match=said):
            write_repaired(report, given, tmp_path, out)
    assert not (tmp_path / "one" / "fixed").exists()


def test_the_page_is_whole_and_asks_nobody(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'"
    part = dataset(tmp_path / "one", 1, [hostile, "cat"], [[(0, BOX), (1, BOX)], [(0, [1, 1, 0, 5])]])
    report = lint(config(one={**part, "labelled": {"det": "all", hostile: "all"}}), tmp_path, f"mix{hostile}.yaml")
    write_page(report, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"' >)]+)", text)
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "://" not in re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    for word in ("box-no-area", "box aspect", "Class balance", "Seen together", "Label states", "default-src 'none'"):
        assert word in text


def test_every_fault_of_the_catalogue_says_what_will_be_done() -> None:
    assert all(fault.action and fault.severity in ("error", "warning", "note") for fault in FAULTS.values())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in FAULTS)


@pytest.mark.parametrize("name", ["coco-mini", "fod", "raccoon"])
def test_real_data_is_taken(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.contracts.document import load_data

    monkeypatch.setenv("UNIFIED_TEST_DATA", str(shared))
    given, base = load_data(name)
    assert refuse_faults(given, base, name, {"det": "det", "cls": "cls", "emb": "emb"}) == []


def test_other_formats_are_looked_at_through_their_readers(tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / "zoo" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / "labels").mkdir(exist_ok=True)
        picture(k).save(tmp_path / "zoo" / "images" / f"{k}.png")
        (tmp_path / "zoo" / "labels" / f"{k}.txt").write_text("1 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n"[: 18 * (k + 1)])
    given: dict[str, Any] = {"format": "yolo", "path": str(tmp_path / "zoo"), "train": {"images": "images"}}
    given |= {"options": {"names": ["cat", "dogs"]}, "labelled": {"det": "all"}}
    report = lint(config(zoo=given), tmp_path, "mix.yaml")
    assert faults(report) == ["box-twice"]
    assert [(row.word, row.boxes, row.images) for row in report.counts[0].rows] == [
        ("cat", 0, (0, 0, 2, 0, 0)),
        ("dogs", 3, (0, 0, 0, 2, 0)),
    ]
    other = dataset(tmp_path / "coco", 1, ["dog"], [[(0, BOX)]]) | {"labelled": {"det": "all"}}
    with pytest.raises(DataError, match="differ only in being plural"):
        refuse_faults(config(zoo=given, coco=other), tmp_path, "mix.yaml", {"det": "det"})
    (tmp_path / "zoo" / "labels" / "1.txt").write_text("7 0.5 0.5 0.5 0.5\n")
    broken = lint(config(zoo=given), tmp_path, "mix.yaml")
    assert faults(broken) == ["class-unknown"]
    assert "labels/1.txt: line 1.class: class 7 is none of the 2" in next(iter(broken.findings)).line
