# SPDX-License-Identifier: Apache-2.0
"""A dataset's own words by the run's names: what merges, what is then known, and what is refused."""

from pathlib import Path
from typing import Any

import menagerie
import pytest
from menagerie import Picture

from unified.contracts.config import AugmentConfig, DataConfig
from unified.contracts.document import load_data
from unified.contracts.errors import ConfigError, DataError
from unified.contracts.structures import LabelState
from unified.data.mixing import Mixture, open_mixture

U, I, N, P = (int(state) for state in list(LabelState)[:4])  # noqa: E741
LABELS: dict[str, Any] = {"det": "boxes", "cls": "tags"}
ALL = {"labelled": {"det": "all", "cls": "all"}, "tags": {"fields": ["weather"], "categories": True}}


def mixed(tmp_path: Path, labels: dict[str, Any] | None = None, **given: Any) -> Mixture:
    root = tmp_path / "zoo"
    if not root.exists():
        root.mkdir()
        menagerie.coco(root)
    part = {"train": {"images": "images", "annotations": "train.json"}}
    datasets = {name: {"path": "zoo", **part, **ALL, **more} for name, more in given.items()}
    config = DataConfig.model_validate({"datasets": datasets})
    return open_mixture(config, labels or LABELS, split="train", size=64, base=tmp_path)


def states(mixture: Mixture, k: int, name: str = "zoo") -> dict[str, dict[str, int]]:
    found = mixture.sample(name, k)[0].annotations.states
    words = {"det": mixture.vocabulary.boxes, "cls": mixture.vocabulary.tags}
    return {task: dict(zip(words[task], row.tolist(), strict=True)) for task, row in found.items()}


def test_an_alias_renames_a_class_and_its_presence(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, zoo={"aliases": {"owl": "bird", "wet": "rainy"}})
    assert mixture.vocabulary.boxes == ("cat", "dog", "bird")
    assert set(mixture.vocabulary.tags) == {"rainy", "dry", "cat", "dog", "bird"}
    found = states(mixture, 0)
    assert found["det"] == {"cat": N, "dog": P, "bird": N}  # the owl is difficult
    assert found["cls"] == {"rainy": P, "dry": N, "cat": N, "dog": P, "bird": I}


def test_two_classes_of_one_name_are_one(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, zoo={"aliases": {"boxes": {"dog": "pet", "cat": "pet"}}})
    assert mixture.vocabulary.boxes == ("pet", "owl")
    assert [states(mixture, k)["det"]["pet"] for k in range(4)] == [P, P, N, P]
    assert [states(mixture, k)["cls"]["pet"] for k in range(4)] == [P, P, N, P]
    assert mixture.sample("zoo", 3)[0].annotations.box_labels.tolist() == [0, 0]
    for epoch in range(10):
        found = mixture.sample("zoo", 0, epoch, AugmentConfig(mosaic=1.0))[0].annotations
        assert (found.states["det"][0] == P) == bool(((found.box_labels == 0) & (found.box_states == P)).any())


def test_two_tags_of_one_name_are_absent_only_where_both_are(tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    root.mkdir()
    menagerie.draw(root)
    (root / "t.csv").write_text("image,rain,snow\na.png,0,0\nb.png,0,1\nc.png,0,\nd.png,,1\n")
    said = {"path": "zoo", "format": "csv", "train": {"annotations": "t.csv"}, "tags": {"fields": ["rain", "snow"]}}
    aliases = {"tags": {"rain": "wet", "snow": "wet"}}
    config = DataConfig.model_validate({"datasets": {"zoo": {**said, "aliases": aliases, "labelled": {"cls": "all"}}}})
    mixture = open_mixture(config, {"cls": "tags"}, split="train", size=64, base=tmp_path)
    assert [states(mixture, k)["cls"]["wet"] for k in range(4)] == [N, P, U, P]


def test_a_claim_may_use_either_word_and_half_of_a_merger_is_no_claim(tmp_path: Path) -> None:
    aliases = {"aliases": {"dog": "pet", "cat": "pet"}}
    for claimed, known in ((["pet"], True), (["dog", "cat"], True), (["dog"], False)):
        mixture = mixed(tmp_path, {"det": "boxes"}, zoo={**aliases, "labelled": {"det": claimed}})
        assert [states(mixture, k)["det"]["pet"] for k in range(4)] == ([P, P, N, P] if known else [U] * 4)
        assert {states(mixture, k)["det"]["owl"] for k in range(4)} == {U}
    with pytest.raises(DataError, match=r"labelled class 'pets' .*did you mean 'pet'"):
        mixed(tmp_path, zoo={**aliases, "labelled": {"det": ["pets"]}})


def test_two_datasets_meet_under_one_name(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, zoo={}, ark={"aliases": {"dog": "cat", "cat": "dog"}})  # a swap, not a chain
    assert mixture.vocabulary.boxes == ("cat", "dog", "owl")
    assert states(mixture, 1)["det"] == {"cat": P, "dog": N, "owl": N}
    assert states(mixture, 1, "ark")["det"] == {"cat": N, "dog": P, "owl": N}


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ({"dgo": "pet"}, ("zoo", "'dgo' is none of its boxes or tags", "did you mean 'dog'")),
        ({"boxes": {"wet": "x"}}, ("'wet' is none of its boxes",)),
        ({"tags": {"wett": "x"}}, ("'wett' is none of its tags", "did you mean 'wet'")),
    ],
)
def test_an_alias_of_a_word_that_is_not_there_is_refused(aliases: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        mixed(tmp_path, zoo={"aliases": aliases})
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_aliases_are_written_short_or_by_table(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("path: x\naliases: {auto: car}\nlabelled: {det: all}\n")
    (tmp_path / "long.yaml").write_text("path: x\naliases:\n  boxes: {auto: car}\n  tags: {wet: rainy}\n")
    (tmp_path / "bad.yaml").write_text("path: x\naliases: {boxes: {auto: 3}}\n")
    short, long = (load_data(str(tmp_path / f"{n}.yaml"))[0].datasets[n].aliases for n in ("short", "long"))
    assert short.both == {"auto": "car"} and long.boxes == {"auto": "car"} and long.tags == {"wet": "rainy"}
    with pytest.raises(ConfigError, match=r"bad\.yaml:2: aliases\.boxes\.auto: got 3; expected a text"):
        load_data(str(tmp_path / "bad.yaml"))


def test_image_by_image_silence_survives_merging_and_mosaics(tmp_path: Path) -> None:
    """A picture nobody labelled, in a mosaic, makes its classes unknown in the whole of it."""
    root = tmp_path / "zoo"
    root.mkdir()
    many = tuple(Picture(f"p{k}", 64, 64, (("cat", 0, 0, 30, 30, False),)) for k in range(6))
    said = menagerie.yolo(root, many)
    (root / "labels" / "train" / "p0.txt").unlink()
    dataset = {"path": "zoo", **said, "labelled": {"det": "all"}, "aliases": {"dog": "pet", "owl": "pet"}}
    mixture = open_mixture(
        DataConfig.model_validate({"datasets": {"zoo": dataset}}), LABELS_DET, split="train", size=64, base=tmp_path
    )
    assert states(mixture, 0)["det"] == {"cat": U, "pet": U} and states(mixture, 1)["det"] == {"cat": P, "pet": N}
    seen = set()
    for epoch in range(40):
        found = mixture.sample("zoo", 0, epoch, AugmentConfig(mosaic=1.0))[0].annotations
        assert found.states["det"][1] in (U, I) and found.states["det"][0] in (U, I)
        assert {*found.box_states.tolist()} <= {I}
        seen |= {
            tuple(mixture.sample("zoo", 1, epoch, AugmentConfig(mosaic=1.0))[0].annotations.states["det"].tolist())
        }
    assert any(row[1] == N for row in seen) and any(row[1] in (U, I) for row in seen)


LABELS_DET: dict[str, Any] = {"det": "boxes"}
