# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unified.contracts import document, protocols
from unified.contracts.config import RunConfig
from unified.contracts.document import check_options, dump_run_config, load_data, load_run_config, read_run_config
from unified.contracts.errors import ConfigError
from unified.contracts.source import dump_yaml, parse_source

GOOD = """\
path: photos
train: {images: train, annotations: train.json}
labelled:
  det: all
  cls: [indoor, no]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and the three kinds of tasks whether or not the package is installed."""
    monkeypatch.chdir(tmp_path)
    kinds = {name: type(name, (), {}) for name in ("det", "cls", "emb")}
    monkeypatch.setattr(protocols.tasks, "_local", kinds)
    monkeypatch.setattr(protocols.tasks, "_installed", {})
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def load(**words: Any) -> RunConfig:
    return load_run_config(**{"model": "unified-n", "data": "good.yaml", "tasks": ["det"], **words})[0]


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


# file text -> the whole first line of the error
BAD_DATA = {
    "datasets:\n  fod:\n    path: x\n\n    labeled: {det: all}\n": (
        "bad.yaml:5: unknown key 'labeled' in datasets.fod; known: aliases, breaks, format, identity, keeps, labelled, "
        "options, path, sampler, tags, train, val (did you mean 'labelled'?)"
    ),
    "path: x\nlabeled: {det: all}\n": (
        "bad.yaml:2: unknown key 'labeled'; known: aliases, breaks, datasets, format, identity, keeps, labelled, "
        "options, path, recipe, sampler, schedule, tags, train, val (did you mean 'labelled'?)"
    ),
    "path: 3\n": "bad.yaml:1: path: got 3; expected a text",
    "path: x\npath: y\n": "bad.yaml:2: key 'path' stands twice (first in line 1); remove one",
    "train:\n  image: x\n": (
        "bad.yaml:2: unknown key 'image' in train; known: annotations, captions, images, keypoints, labels, panoptic, "
        "panoptic_images (did you mean 'images'?)"
    ),
    "train: [x]\n": "bad.yaml:1: train: got a list of 1; expected a mapping",
    "labelled:\n  det: al\n": (
        "bad.yaml:2: labelled.det: got 'al'; expected 'all', 'none' or 'empty', or a list (did you mean 'all'?)"
    ),
    "labelled:\n  cls:\n  - dog\n  - 7\n": ("bad.yaml:4: labelled.cls[1]: got 7; expected a text"),
    "tags:\n  fields: weather\n": "bad.yaml:2: tags.fields: got 'weather'; expected a list",
    "tags: {categories: yes}\n": "bad.yaml:1: tags.categories: got 'yes'; expected true or false",
    "options: 3\n": "bad.yaml:1: options: got 3; expected a mapping",
    "datasets: {a: {path: x}}\nschedule: {temperature: 2}\n": (
        "bad.yaml:2: key 'name' is missing in schedule; known: name, options"
    ),
    "datasets:\n": "bad.yaml:1: datasets: got nothing; expected a mapping",
    "datasets: {}\n": "bad.yaml:1: datasets: names no dataset; write at least one, by a name of your choice",
    "a: [1\n": "bad.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'",
    "path: !!python/object:os.system x\n": (
        "bad.yaml:1: tag '!!python/object:os.system' is not allowed; plain data only"
    ),
    "path: x\n1: y\n": "bad.yaml:2: the key '1' is not a text; put it in quotes",
    "options: {x: .inf}\n": "bad.yaml:1: '.inf' is not a finite number",
    "- a\n": "bad.yaml:1: expected a dataset, or 'datasets:', written in lines such as 'key: value'",
    "": "bad.yaml: is empty; expected a dataset, or 'datasets:'",
    "path: x\nrecipe: 3\n": "bad.yaml:2: recipe: expected a name or a path, got 3",
}


@pytest.mark.parametrize("text", BAD_DATA)
def test_a_bad_data_file_is_told_by_file_line_and_remedy(text: str, place: Path) -> None:
    (place / "bad.yaml").write_text(text)
    assert refused(lambda: load(data="bad.yaml")).splitlines()[0] == BAD_DATA[text]


BAD_OVERRIDES = {
    "train.lrr=1": "--set train.lrr=1: unknown key 'lrr' in train; known: ",
    "lrr=1": "--set lrr=1: unknown key 'lrr' (did you mean 'lr'?)",
    "lr": "--set lr: expected key=value, such as lr=0.01",
    "lr=abc": "--set lr=abc: train.lr: got 'abc'; expected a number",
    "lr=-1": "--set lr=-1: train.lr: got -1; expected a number greater than 0",
    "lr=[1": "--set lr=[1: not valid YAML: ",
    "batch=1.5": "--set batch=1.5: train.batch: got 1.5; expected a whole number",
    "batch=true": "--set batch=true: train.batch: got true; expected a whole number",
    "batch='16'": "--set batch='16': train.batch: got '16'; expected a whole number",
    "optimizer=adam": (
        "--set optimizer=adam: train.optimizer: got 'adam'; expected 'adamw', 'sgd' or 'muon' (did you mean 'adamw'?)"
    ),
    "augment.mosaic=0": "--set augment.mosaic=0: unknown key 'augment.mosaic'; it must begin with ",
    "tasks.ppe.weight=2": "--set tasks.ppe.weight=2: this run has no task 'ppe'; known: det",
    "data.datasets.god.path=x": (
        "--set data.datasets.god.path=x: this run has no dataset 'god'; known: good (did you mean 'good'?)"
    ),
    "model.latents.9.site=a": "--set model.latents.9.site=a: '9' is not a position in a list of 2; they count from 0",
    "model.name.x=1": "--set model.name.x=1: model.name is 'unified-n' and has no 'x'",
    "model=x": "--set model=x: model is chosen with --model",
    "balance=3": "--set balance=3: balance: got 3; expected a name, or a mapping with a name and options",
}


@pytest.mark.parametrize("text", BAD_OVERRIDES)
def test_a_bad_override_is_told_as_it_was_written(text: str) -> None:
    assert refused(lambda: load(overrides=[text])).startswith(BAD_OVERRIDES[text])


def test_an_option_is_told_by_its_flag() -> None:
    line = refused(lambda: load(options={"train.max_steps": -5}))
    assert line == "--max-steps -5: train.max_steps: got -5; expected a number greater than 0"


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ([], "--tasks: no task given; known: cls, det, emb"),
        (["dett"], "--tasks: unknown task 'dett'; known: cls, det, emb (did you mean 'det'?)"),
        (["det", "det"], "--tasks: 'det' stands twice; give the second a name of its own, such as det2:det"),
        (["a b"], "--tasks: 'a b' is not a task's name; write det, or my_name:det"),
    ],
)
def test_a_bad_task_is_refused(tasks: list[str], line: str) -> None:
    assert refused(lambda: load(tasks=tasks)) == line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"model": "unifed-n"}, "unknown model 'unifed-n'; known: unified-l, unified-m, unified-n, unified-s, "),
        ({"recipe": "defalt"}, "unknown recipe 'defalt'; known: "),
        ({"data": "no/where.yaml"}, "data file 'no/where.yaml' does not exist (looked from "),
    ],
)
def test_an_unknown_file_is_refused(words: dict[str, str], line: str) -> None:
    assert refused(lambda: load(**words)).startswith(line)


def test_a_folder_of_no_known_format_is_answered_with_a_data_file_that_works(place: Path) -> None:
    (place / "instances.json").write_text("[]")
    for given in (place, place / "instances.json"):
        first, _, example = refused(lambda given=given: load(data=str(given))).partition("\n")
        assert str(given) in first
        assert len(example.splitlines()) == 7
        (place / "mine.yaml").write_text(example)
        assert load(data="mine.yaml").data.datasets["mine"].labelled == {"det": "all"}


def test_every_fault_has_a_line_and_five_are_told(place: Path) -> None:
    (place / "bad.yaml").write_text("".join(f"wrong{i}: 1\n" for i in range(7)))
    lines = refused(lambda: load(data="bad.yaml")).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"bad.yaml:{i}" for i in range(1, 6)]


def test_faults_of_every_file_are_told_together(place: Path) -> None:
    (place / "m.yaml").write_text("backbone: csp\nnek: pan\n")
    (place / "r.yaml").write_text("lr: 0.1\ntasks: {det: {wieght: 2}}\nlrr: 2\n")
    lines = refused(lambda: load(model="m.yaml", recipe="r.yaml", overrides=["batch=0"])).splitlines()
    assert [line.split(": ")[0] for line in sorted(lines)] == ["--set batch=0", "m.yaml:2", "r.yaml:2", "r.yaml:3"]


def test_a_file_of_one_dataset_is_named_after_itself(place: Path) -> None:
    config, base = load_data("good.yaml")
    assert list(config.datasets) == ["good"]
    assert config.datasets["good"].labelled == {"det": "all", "cls": ("indoor", "no")}
    assert base == place


def test_a_file_of_several_datasets_and_its_recipe(place: Path) -> None:
    (place / "fast.yaml").write_text(
        "lr: 5e-2\nbalance: {name: fixed, x: 1}\ntasks: {det: {weight: 3}, emb: {weight: 9}}\n"
    )
    (place / "mix.yaml").write_text(
        "recipe: fast.yaml\ndatasets:\n  a: {path: x}\n  b: {path: y}\nschedule: {name: temperature, value: 2}\n"
    )
    config = load(data="mix.yaml")
    assert list(config.data.datasets) == ["a", "b"]
    assert config.data.schedule.options == {"value": 2}
    assert config.train.lr == 0.05
    assert config.balance.options == {"x": 1}
    assert config.tasks["det"].weight == 3
    assert list(config.tasks) == ["det"]
    assert load(data="mix.yaml", recipe="default").train.lr != 0.05


def test_overrides_reach_every_place() -> None:
    config = load(
        tasks=["det", "ppe:det"],
        options={"train.lr": 0.5, "train.batch": 8, "train.size": None},
        overrides=[
            "lr=1e-2",
            "mosaic=0",
            "train.augment.scale=0.25",
            "model.backbone.width=0.5",
            "model.latents.1.site=align.p3",
            "tasks.ppe.weight=2",
            "tasks.ppe.head.name=detect_anchor",
            "data.datasets.good.labelled.det=[dog, cat]",
            "data.schedule.temperature=3",
            "model.neck={name: identity}",
        ],
    )
    assert (config.train.lr, config.train.batch, config.train.size) == (0.01, 8, 640)
    assert (config.train.augment.mosaic, config.train.augment.scale) == (0, 0.25)
    assert config.model.backbone.options["width"] == 0.5
    assert config.model.latents[1].site == "align.p3"
    assert (config.tasks["ppe"].task, config.tasks["ppe"].weight) == ("det", 2)
    assert config.tasks["ppe"].head is not None
    assert config.tasks["ppe"].head.name == "detect_anchor"
    assert config.data.datasets["good"].labelled["det"] == ("dog", "cat")
    assert (config.data.schedule.name, config.data.schedule.options) == ("proportional", {"temperature": 3})
    assert config.model.neck.name == "identity"
    assert config.model.neck.options == {}


def test_the_last_override_counts() -> None:
    assert load(overrides=["lr=1", "lr=2"]).train.lr == 2


def test_a_saved_run_reads_back_equal(place: Path) -> None:
    config = load(
        tasks=["det", "c2:cls"],
        overrides=["model.backbone.text='no'", "model.backbone.version='010'", "lr=1e-7", "tasks.c2.head=multilabel"],
    )
    (place / "config.yaml").write_text(dump_run_config(config))
    assert read_run_config(place / "config.yaml") == config


def test_a_damaged_saved_run_is_told(place: Path) -> None:
    (place / "config.yaml").write_text(dump_run_config(load()).replace("batch: 16", "batch: many"))
    line = (place / "config.yaml").read_text().splitlines().index("  batch: many") + 1
    expected = f"config.yaml:{line}: train.batch: got 'many'; expected a whole number"
    assert refused(lambda: read_run_config(place / "config.yaml")) == expected


@pytest.mark.parametrize("kind", ["models", "train", "data"])
def test_every_shipped_file_is_valid(kind: document.Kind) -> None:
    words = {"models": "model", "train": "recipe", "data": "data"}
    for name in document.list_configs(kind):
        load(**{words[kind]: name})


def test_yaml_is_read_as_it_looks() -> None:
    text = "[no, on, 010, 1e-3, 2024-01-01, 1_0, 12:30, true, ~, -3, 0.5]"
    expected = ["no", "on", "010", 0.001, "2024-01-01", "1_0", "12:30", True, None, -3, 0.5]
    assert parse_source(text, "x").value == expected
    assert parse_source(dump_yaml(expected), "x").value == expected


def test_dumped_texts_mean_the_same_to_other_yaml_readers() -> None:
    yaml = pytest.importorskip("yaml")
    values = ["no", "on", "010", "1e-3", "2024-01-01", "12:30", "a: b", "", "~", "é"]
    assert yaml.safe_load(dump_yaml(values)) == values


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: " + "[" * 1500,
        "\n".join([f"a0: &a0 [{'1,' * 9}1]"] + [f"a{i}: &a{i} [{f'*a{i - 1},' * 9}*a{i - 1}]" for i in range(1, 9)]),
    ],
    ids=["endless", "deep", "wide"],
)
def test_hostile_yaml_ends_quickly_in_one_line(text: str) -> None:
    assert "\n" not in refused(lambda: parse_source(text, "x.yaml"))


class Part:
    def __init__(self, spec: object, outputs: int, width: int = 3, *, depth: int) -> None: ...


class Open:
    def __init__(self, **options: object) -> None: ...


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"widht": 1, "depth": 1},
            "unknown option 'widht' of head 'embed'; known: depth, width (did you mean 'width'?)",
        ),
        ({"spec": 1, "depth": 1}, "unknown option 'spec' of head 'embed'; known: depth, width"),
        ({"width": 1}, "option 'depth' of head 'embed' is missing; write embed: {depth: ...}"),
    ],
)
def test_options_are_those_of_the_constructor(options: dict[str, int], line: str) -> None:
    assert refused(lambda: check_options("head", "embed", Part, options, ("spec", "outputs"))) == line


def test_fitting_options_pass() -> None:
    check_options("head", "embed", Part, {"width": 1, "depth": 2}, ("spec", "outputs"))
    check_options("head", "open", Open, {"anything": 1})
