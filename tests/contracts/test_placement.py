# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from unified.contracts.config import LatentConfig
from unified.contracts.document import (
    dump_run_config,
    list_configs,
    load_model_config,
    load_run_config,
    read_run_config,
)
from unified.contracts.errors import ConfigError


def rules(words: str, folder: Path) -> list[dict[str, Any]]:
    found = load_model_config(tiny.write_model(folder), words).latents
    return [short(rule) for rule in found]


def short(rule: LatentConfig) -> dict[str, Any]:
    """What a rule says beyond the defaults."""
    said = {"site": rule.site, "operator": rule.operator.name, "latent": rule.latent.name, "only": rule.only}
    plain = {"latent": "vector", "only": ()}
    return {k: v for k, v in said.items() if plain.get(k) != v}


PRE, POST = {"site": "pre.*", "operator": "add"}, {"site": "post.*", "operator": "mul"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("yolor", [PRE, POST]),
        ("none", []),
        ("", []),
        ("pre.*=add", [PRE]),
        ("pre.*=add post.*=mul", [PRE, POST]),
        (" pre.*=add,  post.*=mul,", [PRE, POST]),
        ("yolor,feature-selection", [PRE, POST, {"site": "align.*", "operator": "select"}]),
        ("pre.*=add:neural yolor", [{**PRE, "latent": "neural"}, PRE, POST]),
        ("post.p?=mul[w,h]", [{"site": "post.p?", "operator": "mul", "only": ("w", "h")}]),
        (
            "post.p[0-9]=mul[w, h]:factorized,yolor",
            [{"site": "post.p[0-9]", "operator": "mul", "only": ("w", "h"), "latent": "factorized"}, PRE, POST],
        ),
        ("anchor-refinement", [{"site": "post.p[0-9]", "operator": "mul", "only": ("w", "h")}]),
    ],
)
def test_few_words_become_rules(tmp_path: Path, words: str, expected: list[dict[str, Any]]) -> None:
    assert rules(words, tmp_path) == expected


def test_the_papers_named_uses_are_there() -> None:
    named = {"feature-alignment", "prediction-refinement", "offset-refinement", "anchor-refinement"}
    named |= {"feature-selection", "manifold-reduction", "multi-task", "yolor", "none", "adapters"}
    assert named <= set(list_configs("latents"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latents: yolor", [PRE, POST]),
        ("latents: pre.*=add", [PRE]),
        ("latents: [post.*=mul, none, {site: 'pre.*'}, 'pre.*=add post.*=mul']", [POST, PRE, PRE, POST]),
    ],
)
def test_a_model_file_may_say_it_so_too(tmp_path: Path, text: str, expected: list[dict[str, Any]]) -> None:
    path = tiny.write_model(tmp_path, f"name: t\n{text}\n")
    assert [short(rule) for rule in load_model_config(path).latents] == expected


def test_a_block_of_ones_own_is_a_file(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("latents: [yolor, {site: 'align.*', operator: affine, tasks: [det]}]\n")
    found = load_model_config(tiny.write_model(tmp_path), f"{own} pre.*=add").latents
    assert [short(rule) for rule in found] == [PRE, POST, {"site": "align.*", "operator": "affine"}, PRE]
    assert found[2].tasks == ("det",)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("yolr", "--latents yolr: unknown latents 'yolr'; known: .*did you mean 'yolor'.*or a rule such as"),
        ("pre.*=", "'pre.*=' is no rule; expected SITE=OPERATOR or SITE=OPERATOR:LATENT"),
        ("=add", "'=add' is no rule"),
        ("pre.*=add:", "'pre.*=add:' is no rule"),
        ("pre.*=add[w", r"--latents pre.*=add\[w"),
        ("no/where.yaml", "latents file 'no/where.yaml' does not exist"),
    ],
)
def test_words_that_cannot_be_read_are_one_line(tmp_path: Path, words: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        rules(words, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "expected one key, 'latents'"),
        ("latents: []\nname: x", "expected one key, 'latents', with a list of rules"),
        ("latents: 3", r"bad.yaml:1: latents: expected a list of rules"),
        ("latents: [{site: a, operater: mul}]", "bad.yaml:1: unknown key 'operater'.*did you mean 'operator'"),
        ("latents:\n  - {site: a}\n  - {operator: mul}", r"bad.yaml:3: key 'site' is missing in latents\[1\]"),
        ("latents: [PATH]", "holds itself"),
    ],
)
def test_a_block_that_cannot_be_read_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace("PATH", str(path)))
    with pytest.raises(ConfigError, match=line) as caught:
        rules(str(path), tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def run(folder: Path, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    given = {"model": tiny.write_model(folder), "data": tiny.write_data(folder), "tasks": ("det",)}
    config, _ = load_run_config(**given, overrides=overrides, options=options.get("options"))
    (folder / "saved.yaml").write_text(dump_run_config(config))
    assert read_run_config(folder / "saved.yaml") == config
    return [short(rule) for rule in config.model.latents]


def test_the_command_lines_word_counts_more_than_the_models(tmp_path: Path) -> None:
    align = {"site": "align.*", "operator": "mul"}
    assert run(tmp_path) == [align, PRE]
    assert run(tmp_path, options={"model.latents": "yolor"}) == [PRE, POST]
    assert run(tmp_path, "model.latents=yolor") == [PRE, POST]
    assert run(tmp_path, "model.latents.0=yolor") == [PRE, POST, PRE]
    changed = run(tmp_path, "model.latents.1.operator=add", options={"model.latents": "yolor"})
    assert changed == [PRE, {**POST, "operator": "add"}]
