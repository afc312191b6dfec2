# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.contracts.config import AugmentConfig, DataConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState, Vocabulary
from unified.data.mixing import Mixture, open_mixture

U, I, N, P, E = (int(state) for state in LabelState)  # noqa: E741
LABELS: dict[str, Any] = {"det": "boxes", "cls": "tags", "emb": "identities"}
SIDE = 64


def write(folder: Path, name: str, categories: list[str], images: list[dict[str, Any]]) -> None:
    """A dataset of 64-pixel pictures; an image's ``boxes`` are (category, crowd) or (category, crowd, who)."""
    root = folder / name
    root.mkdir()
    records, annotations = [], []
    for k, image in enumerate(images):
        Image.new("RGB", (SIDE, SIDE), (40 + k, 60, 80)).save(root / f"{k}.png")
        extra = {key: value for key, value in image.items() if key != "boxes"}
        records.append({"id": k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE, **extra})
        for j, (category, crowd, *who) in enumerate(image.get("boxes", [])):
            box = [16 + 2 * j, 16, 24, 24]
            record = {"image_id": k, "category_id": categories.index(category) + 1, "bbox": box, "iscrowd": int(crowd)}
            annotations.append(record | ({"who": who[0]} if who else {}))
    names = [{"id": k + 1, "name": word} for k, word in enumerate(categories)]
    (root / "all.json").write_text(json.dumps({"images": records, "annotations": annotations, "categories": names}))


def mixed(folder: Path, labels: dict[str, Any] | None = None, **given: Any) -> Mixture:
    """A mixture of datasets that :func:`write` made; ``given``: dataset name -> keys of its configuration."""
    vocabulary = given.pop("vocabulary", None)
    split = given.pop("split", "train")
    part = {"images": ".", "annotations": "all.json"}
    config = {name: {"path": name, "train": part, "val": part, **keys} for name, keys in given.items()}
    return open_mixture(
        DataConfig.model_validate({"datasets": config}),
        LABELS if labels is None else labels,
        split=split,
        size=SIDE,
        base=folder,
        vocabulary=vocabulary,
    )


def states(mixture: Mixture, dataset: str, index: int, augment: AugmentConfig | None = None) -> dict[str, list[int]]:
    found = mixture.sample(dataset, index, 0, augment)[0].annotations
    return {task: row.tolist() for task, row in found.states.items()}


IMAGES: list[dict[str, Any]] = [
    {"boxes": [("cat", 0, "tom"), ("cow", 0)], "sky": "dry"},
    {"boxes": [("dog", 1)], "sky": "wet"},
    {"boxes": []},
    {"boxes": [("dog", 0), ("dog", 1)], "sky": ["dry", "wet"]},
]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    write(tmp_path, "zoo", ["cat", "dog", "cow"], IMAGES)
    write(tmp_path, "farm", ["cow", "hen"], [{"boxes": [("hen", 0, "tom")]}, {"boxes": []}])
    return tmp_path


ALL: dict[str, Any] = {
    "labelled": {"det": "all", "cls": "all", "emb": "all"},
    "identity": {"boxes": "who"},
    "tags": "categories",
}


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ("all", [[P, N, P], [N, N, N], [N, N, N], [N, P, N]]),
        ("empty", [[P, N, P], [N, N, N], [E, E, E], [N, P, N]]),
        (["cat", "dog"], [[P, N, U], [N, N, U], [N, N, U], [N, P, U]]),
        (["cow"], [[U, U, P], [U, U, N], [U, U, N], [U, U, N]]),
    ],
)
def test_box_states(zoo: Path, said: Any, rows: list[list[int]]) -> None:
    mixture = mixed(zoo, {"det": "boxes"}, zoo={"labelled": {"det": said}})
    assert [states(mixture, "zoo", k)["det"] for k in range(4)] == rows


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ("all", [[P, N, P], [N, I, N], [N, N, N], [N, P, N]]),
        ("empty", [[P, N, P], [N, I, N], [E, E, E], [N, P, N]]),
        (["dog", "cow"], [[U, N, P], [U, I, N], [U, N, N], [U, P, N]]),
    ],
)
def test_tag_states_from_categories(zoo: Path, said: Any, rows: list[list[int]]) -> None:
    mixture = mixed(zoo, {"cls": "tags"}, zoo={"labelled": {"cls": said}, "tags": "categories"})
    assert mixture.vocabulary.tags == ("cat", "dog", "cow")
    assert [states(mixture, "zoo", k)["cls"] for k in range(4)] == rows


def test_tag_states_from_fields(zoo: Path) -> None:
    mixture = mixed(zoo, {"cls": "tags"}, zoo={"labelled": {"cls": "all"}, "tags": {"fields": ["sky"]}})
    assert mixture.vocabulary.tags == ("dry", "wet")
    assert [states(mixture, "zoo", k)["cls"] for k in range(4)] == [[P, N], [N, P], [U, U], [P, P]]


def test_half_labelled_datasets_share_words_and_not_silence(zoo: Path) -> None:
    half = {"labelled": {"det": ["hen"], "cls": "none"}}
    mixture = mixed(zoo, {"det": "boxes", "cls": "tags"}, zoo={**ALL}, farm={**half})
    assert mixture.vocabulary.boxes == ("cat", "dog", "cow", "hen")
    assert mixture.serves == {"zoo": ("det", "cls"), "farm": ("det",)} and mixture.images == 6
    assert states(mixture, "zoo", 0) == {"det": [P, N, P, U], "cls": [P, N, P]}
    assert states(mixture, "farm", 0) == {"det": [U, U, U, P]}
    assert mixture.sample("farm", 0)[0].annotations.box_labels.tolist() == [3]


def test_boxes_nobody_labelled_are_ignored_boxes(zoo: Path) -> None:
    mixture = mixed(zoo, {"det": "boxes", "cls": "tags"}, zoo={**ALL, "labelled": {"det": ["cat"], "cls": "all"}})
    found = mixture.sample("zoo", 0)[0].annotations
    assert found.box_labels.tolist() == [0, 2] and found.box_states.tolist() == [P, I]
    assert found.states["cls"].tolist() == [P, N, P]  # what was not looked for as a box may still be a tag
    only_tags = mixed(zoo, {"cls": "tags"}, zoo={**ALL})
    assert only_tags.sample("zoo", 0)[0].annotations.box_states.tolist() == [P, P]


def test_identity_states(zoo: Path) -> None:
    mixture = mixed(zoo, {"emb": "identities"}, zoo={**ALL})
    assert [states(mixture, "zoo", k)["emb"] for k in range(3)] == [[P], [U], [U]]
    found = mixture.sample("zoo", 0)[0].annotations
    assert found.box_identities.tolist() == [0, -1] and mixture.vocabulary.identities == ("tom",)
    both = mixed(zoo, {"emb": "identities"}, zoo={**ALL}, farm={**ALL})
    assert any("share 1 identities, such as 'tom'" in text for text in both.warnings)


def test_crowds_stay_crowds(zoo: Path) -> None:
    found = mixed(zoo, zoo={**ALL}).sample("zoo", 3)[0].annotations
    assert found.box_crowd.tolist() == [False, True] and found.box_states.tolist() == [P, I]


def test_a_given_vocabulary_rules(zoo: Path) -> None:
    known = Vocabulary(boxes=("hen", "dog"), tags=("dog",), identities=("felix",))
    train = mixed(zoo, zoo={**ALL}, vocabulary=known)
    found = train.sample("zoo", 0)[0].annotations
    assert train.vocabulary is known and len(found) == 0  # cats and cows are not this network's business
    assert states(train, "zoo", 3) == {"det": [U, P], "cls": [P], "emb": [U]}
    lost = " ".join(train.warnings)
    assert "2 of its boxes; left out: cat, cow" in lost and "left out: tom" in lost
    whole = Vocabulary(boxes=("cat", "dog", "cow"), identities=("felix",))
    val = mixed(zoo, zoo={**ALL}, vocabulary=whole, split="val")
    assert val.sample("zoo", 0)[0].annotations.box_identities.tolist() == [1, -1]  # told apart, past the proxies


def test_views_share_an_identity_past_all_named_ones(zoo: Path) -> None:
    views = {**ALL, "identity": {"image": "views"}}
    mixture = mixed(zoo, zoo=views)
    first, second = mixture.sample("zoo", 2, 0, AugmentConfig(value=0.9, mosaic=1.0))
    assert first.annotations.identity == second.annotations.identity == 2
    assert not np.array_equal(first.image.numpy(), second.image.numpy())
    assert first.annotations.states["emb"].tolist() == [P]
    assert len(mixture.sample("zoo", 2)) == 1
    assert len({mixture.sample("zoo", k)[0].annotations.identity for k in range(4)}) == 4


@pytest.mark.parametrize("given", [{}, {"mosaic_images": 9}, {"mixup": 1.0}])
def test_a_mosaic_speaks_only_of_what_it_shows(zoo: Path, given: dict[str, Any]) -> None:
    sky = {"tags": {"fields": ["sky"], "categories": True}, "identity": {"boxes": "who", "image": "sky"}}
    mixture = mixed(zoo, zoo={**ALL, **sky})
    assert mixture.sample("zoo", 0)[0].annotations.identity == 0
    tags = mixture.vocabulary.tags
    for epoch in range(30):
        found = mixture.sample("zoo", 0, epoch, AugmentConfig(mosaic=1.0, **given))[0].annotations
        assert found.identity == -1
        cls = dict(zip(tags, found.states["cls"].tolist(), strict=True))
        assert cls["dry"] == cls["wet"] == U
        names = mixture.vocabulary.boxes
        shown = {names[c] for c, s in zip(found.box_labels.tolist(), found.box_states.tolist(), strict=True) if s == P}
        assert {word for word in names if cls[word] == P} == shown
        assert all(cls[word] in (N, I) for word in names if word not in shown)
        assert [s == P for s in found.states["det"].tolist()] == [word in shown for word in names]


@pytest.mark.parametrize("given", [{}, {"mosaic_images": 9}, {"mixup": 1.0}])
def test_a_mosaic_is_verified_empty_only_where_all_its_pictures_are(tmp_path: Path, given: dict[str, Any]) -> None:
    """And a class nobody looked for stays unlabelled, whichever pictures meet."""
    write(tmp_path, "bare", ["cat", "dog"], [{"boxes": []}] * 5)
    write(tmp_path, "some", ["cat", "dog"], [{"boxes": [("cat", 0)]}, *[{"boxes": []}] * 5])
    augment, said = AugmentConfig(mosaic=1.0, **given), {"labelled": {"det": "empty"}}
    bare, some = (mixed(tmp_path, {"det": "boxes"}, **{name: said}) for name in ("bare", "some"))
    assert {tuple(states(bare, "bare", k, augment)["det"]) for k in range(5)} == {(E, E)}
    seen = set()
    for epoch in range(40):
        found = some.sample("some", 1, epoch, augment)[0].annotations
        seen.add(tuple(found.states["det"].tolist()))
    assert seen == {(E, E), (P, N), (N, N)}  # the last: the cat's picture is there, the cat is outside the window
    half = mixed(tmp_path, {"det": "boxes"}, some={"labelled": {"det": ["cat"]}})
    assert {half.sample("some", 0, e, augment)[0].annotations.states["det"][1].item() for e in range(20)} == {U}


def test_an_object_cut_to_a_splinter_is_not_called_absent(tmp_path: Path) -> None:
    write(tmp_path, "zoo", ["cat"], [{"boxes": [("cat", 0)]}])
    mixture = mixed(tmp_path, {"cls": "tags"}, zoo={"labelled": {"cls": "all"}, "tags": "categories"})
    seen = set()
    for epoch in range(300):
        found = mixture.sample("zoo", 0, epoch, AugmentConfig(translate=1.0))[0].annotations
        state = int(found.states["cls"][0])
        assert (state == P) == (len(found) == 1)
        seen.add(state)
    assert seen == {P, N, I}


@pytest.mark.parametrize(
    ("labels", "config", "words"),
    [
        ({"det": "boxes"}, {"labelled": {"det": ["cat", "dgo"]}}, ("'dgo'", "did you mean 'dog'")),
        ({"cls": "tags"}, {"labelled": {"cls": "all"}}, ("zoo", "'cls'", "no tags")),
        ({"emb": "identities"}, {"labelled": {"emb": "all"}}, ("zoo", "'emb'", "no identities", "image: views")),
        ({"emb": "identities"}, {**ALL, "labelled": {"emb": ["cat"]}}, ("'all' or 'none'",)),
        ({"det": "boxes"}, {"labelled": {"cls": "all"}}, ("'zoo' serves none", "det", "labels cls")),
        ({"det": "boxes"}, {"labelled": {"det": "none"}}, ("'zoo' serves none", "labels nothing")),
        ({"det": "boxes", "x": "tags"}, {"labelled": {"det": "all"}}, ("task 'x' is labelled by no", "zoo labels det")),
        ({"det": "boxes"}, {"labelled": {"det": "all"}, "train": None}, ("no dataset has a 'train' split",)),
    ],
)
def test_what_cannot_be_served_is_one_line(zoo: Path, labels: Any, config: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        mixed(zoo, labels, zoo=config)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_a_split_that_one_dataset_lacks_is_a_remark(zoo: Path) -> None:
    both = {"zoo": {**ALL}, "farm": {"labelled": {"det": "all"}, "val": None}}
    val = mixed(zoo, split="val", **both)
    assert list(val.sources) == ["zoo"] and any("'farm' has no 'val' split" in text for text in val.warnings)
    silent = mixed(zoo, {"det": "boxes", "cls": "tags"}, split="val", farm={"labelled": {"det": "all"}})
    assert any("task 'cls' is labelled by no dataset (farm labels det)" in text for text in silent.warnings)
    tags = mixed(zoo, {"cls": "tags"}, split="val", zoo={**ALL}, farm={"labelled": {"det": "all"}})
    assert list(tags.serves) == ["zoo"] and any("'farm' serves none of the tasks" in text for text in tags.warnings)
    with pytest.raises(DataError, match="'farm' serves none"):
        mixed(zoo, {"cls": "tags"}, split="val", farm={"labelled": {"det": "all"}})
