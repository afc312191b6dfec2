# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from unified.contracts.config import PartConfig
from unified.contracts.document import list_configs
from unified.contracts.errors import ConfigError
from unified.model.defaults import spelled_out
from unified.study.budget import Budget, alone, budget_of, opened, to_length
from unified.study.design import GridConfig, StudyConfig, load_study, multiplied, slug
from unified.study.expansion import expand
from unified.study.result import comparable, count_flops, rules

STUDY = """
data: {data}
model: {model}
recipe: {recipe}
tasks: [det, cls]
seeds: [0, 3]
steps: 5
baseline: single
arms:
  single: {{apart: true, latents: none}}
  joint: {{latents: none}}
  stressed: {{settings: [latent_lr=2]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("design")
    tiny.cache_at(folder)
    return folder


def written(place: Path, text: str = STUDY, name: str = "mine") -> str:
    recipe = Path(tiny.write_recipe(place))
    recipe.write_text("\n".join(line for line in recipe.read_text().splitlines() if "max_steps" not in line))
    path = place / f"{name}.yaml"
    path.write_text(text.format(data=tiny.write_data(place), model=tiny.write_model(place), recipe=recipe))
    return str(path)


def test_a_grid_is_a_product() -> None:
    grid = GridConfig(site=("align.*", "pre.*"), latent=("vector", "neural"), operator=("add", "mul"))
    arms = multiplied(grid)
    assert list(arms) == [
        f"{site}={operator}{latent}"
        for site in ("align.*", "pre.*")
        for operator in ("add", "mul")
        for latent in ("", ":neural")
    ]
    assert all(arm.latents == name for name, arm in arms.items())


def test_a_head_concerns_its_own_task_alone(place: Path) -> None:
    """A network for tags says nothing of the embedding head, as begun and as resolved; one of another width does."""
    joint, _ = tiny.config(place, tasks=("cls", "emb"))
    single, _ = tiny.config(place, tasks=("cls",))
    wide, _ = tiny.config(place, "model.heads.multilabel.width=32", tasks=("cls",))
    ours, own = comparable(spelled_out(joint)), comparable(single)
    assert ours.keys() > own.keys()
    assert {key: ours[key] for key in own} == own
    assert {key for key, value in comparable(wide).items() if value != own[key]} == {
        "tasks.cls.model.heads.multilabel.width"
    }


def test_files_are_looked_for_beside_the_study_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STUDY.replace("{data}", "data/shapes.yaml").replace("{model}", "tiny.yaml").replace("{recipe}", "shapes")
    path = written(place, text, "near")
    monkeypatch.chdir(tmp_path)
    study = load_study(path)
    assert (study.data, study.model) == (str(place / "data" / "shapes.yaml"), str(place / "tiny.yaml"))
    assert study.recipe == "shapes"  # a name
    (tmp_path / "tiny.yaml").write_text("name: other")
    assert load_study(path).model == "tiny.yaml"  # what stands here comes first


def test_jobs_are_every_arm_with_every_seed(place: Path) -> None:
    plan = expand(load_study(written(place)))
    assert [job.name for job in plan.jobs[:4]] == [
        "single (det), seed 0", "single (cls), seed 0", "joint, seed 0", "stressed, seed 0",
    ]  # fmt: skip
    assert len(plan.jobs) == 8 and len({job.slug for job in plan.jobs}) == 8
    assert [job.config.train.seed for job in plan.jobs] == [0] * 4 + [3] * 4
    assert [tuple(job.config.tasks) for job in plan.jobs[:3]] == [("det",), ("cls",), ("det", "cls")]
    assert [job.config.train.max_steps for job in plan.jobs[:3]] == [5, 5, 5]
    assert [rules(job.config) for job in plan.jobs[2:4]] == ["none", "align.*=mul pre.*=add"]
    assert plan.jobs[3].config.train.latent_lr == 2 and plan.jobs[2].config.train.latent_lr == 1
    assert plan.budget == Budget(5, 40, {"det": 40, "cls": 40})


def test_the_length_is_the_studys(place: Path) -> None:
    job = expand(load_study(written(place))).jobs[2]
    mixture = opened(job.config, job.base).train
    for steps in (1, 7, 400):
        config = to_length(job.config, steps, mixture)
        assert budget_of(config, mixture) == Budget(steps, 8 * steps, {"det": 8 * steps, "cls": 8 * steps})


def test_a_baseline_sees_its_labels_as_often_as_the_joint_network(place: Path) -> None:
    """Two sets, 3 : 1; boxes in both, tags in the small one. Tags alone get a quarter of the steps."""
    tiny.write_model(place)
    data = place / "two.yaml"
    options = "options: {level: easy, train: 24, val: 8, seed: 0, size: 96}"
    data.write_text(
        "datasets:\n"
        f"  large: {{format: shapes, labelled: {{det: all}}, {options}}}\n"
        f"  small: {{format: shapes, labelled: {{det: all, cls: all}}, {options}}}\n"
        "schedule: {name: proportional, ratios: {large: 3, small: 1}}\n"
    )
    text = STUDY.replace("{data}", str(data)).replace("steps: 5", "steps: 8")
    plan = expand(load_study(written(place, text)))
    assert plan.budget == Budget(8, 64, {"det": 64, "cls": 16})
    boxes, tags = plan.jobs[:2]
    assert (boxes.config.train.max_steps, tags.config.train.max_steps) == (8, 2)
    assert list(boxes.config.data.datasets) == ["large", "small"] and list(tags.config.data.datasets) == ["small"]
    assert tags.config.data.schedule == PartConfig(name="proportional", options={"ratios": {"small": 1}})
    assert budget_of(tags.config, opened(tags.config, tags.base).train).labelled == {"cls": 16}


def test_a_task_that_is_served_by_turns_is_counted_by_turns() -> None:
    from unified.contracts.config import DataConfig, DatasetConfig, ModelConfig, RunConfig, TaskConfig

    config = RunConfig(
        model=ModelConfig(),
        tasks={"a": TaskConfig(task="det"), "b": TaskConfig(task="cls")},
        data=DataConfig(datasets={"x": DatasetConfig(), "y": DatasetConfig()}),
    )
    cut, steps = alone(config, "b", {"x": ("a",), "y": ("a", "b")}, Budget(100, 800, {"a": 800, "b": 200}))
    assert steps == 25 and list(cut.data.datasets) == ["y"] and list(cut.tasks) == ["b"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("baseline: single", "baseline: singel"), "baseline: no arm 'singel'.*did you mean 'single'"),
        (("seeds: [0, 3]", "seeds: [0, 0]"), "seeds: 0, 0 has one twice"),
        (("seeds: [0, 3]", "seeds: []"), "mine.yaml"),
        (("steps: 5", "steps: 0"), "steps"),
        (("joint:", "joint!: {{}}\n  joint:"), "needs a name that differs"),
        (("apart: true", "appart: true"), "unknown key 'appart'"),
        (("data:", "date:"), "date"),
    ],
)
def test_a_bad_study_is_refused_with_its_file(place: Path, change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_study(written(place, STUDY.replace(*change)))
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("change", "overrides", "complaint"),
    [
        (("latents: none}}\n  stressed", "latents: nonne}}\n  stressed"), (), "arm 'joint'.*nonne"),
        (("latent_lr=2", "latent_rl=2"), (), "arm 'stressed'.*latent_rl"),
        (("", ""), ("max_minutes=3",), "max_minutes: a clock gives every run another budget"),
        (("", ""), ("max_steps=3",), "max_steps: a study has its own steps"),
    ],
)
def test_an_arm_that_cannot_be_built_is_named(
    place: Path, change: tuple[str, str], overrides: tuple[str, ...], complaint: str
) -> None:
    study = load_study(written(place, STUDY.replace(*change) if change[0] else STUDY))
    with pytest.raises(ConfigError, match=complaint):
        expand(study, overrides)


def test_an_unknown_study_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown study 'fod-joynt'.*did you mean 'fod-joint'"):
        load_study("fod-joynt")


@pytest.mark.parametrize("name", list_configs("studies"))
def test_shipped_studies_have_three_seeds_and_a_question(name: str) -> None:
    study: Any = load_study(name)
    assert isinstance(study, StudyConfig)
    assert len(study.seeds) >= 3 and study.question and study.title


def test_slugs_are_fit_for_paths() -> None:
    assert slug("align.*=mul, pre × z") == "align-mul-pre-z"


def test_flops_by_hand() -> None:
    """3x3 convolution, 3 -> 8 channels, at 4 x 4 places: 2 * 9 * 3 * 8 * 16."""
    import torch
    from torch import nn

    assert count_flops(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 4, 4)) == 2 * 9 * 3 * 8 * 16
