# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from unified.checkpoint import Checkpoint, save_checkpoint
from unified.cli import bench, inspect, train
from unified.model.build import EXAMPLE_VOCABULARY, assemble, create_model
from unified.training import run
from unified.training.monitor import Monitor, Plan


def call(capsys: pytest.CaptureFixture[str], command: Any, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        command.main(list(words))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def stock(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = call(capsys, inspect, *words, "--json")
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def test_a_line_for_every_latent_and_a_sum_for_every_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path)
    found = stock(capsys, model, "--latents", "align.*=concat:neural post.*=mul trunk.s8=add", "--tasks", "det,cls")
    lines = {(line["task"], line["site"]): line for line in found["latents"]}
    z = lines["det", "align.p3"]
    assert (z["latent"], z["operator"], z["shape"], z["foldable"]) == ("neural", "concat", [16], True)
    assert z["parameters"] == 32 + (32 * 16 + 16) + (32 * 16 + 16)  # prior, W and b, the 1x1 of [z, x]
    assert "trunk" in lines["cls", "trunk.s8"]["reason"]
    assert not lines["cls", "trunk.s8"]["foldable"]
    assert not lines["cls", "post.tags"]["foldable"]
    network = create_model(model, ("det", "cls"), latents="align.*=concat:neural post.*=mul trunk.s8=add")
    assert found["parameters"]["total"] == sum(p.numel() for p in network.parameters())
    assert found["parameters"]["latents"] == sum(line["parameters"] for line in found["latents"])
    assert set(found["parameters"]) == {"backbone", "neck", "latents", "head of det", "head of cls", "total"}
    assert found["trunk_passes"] == 2
    assert "sites" not in found


def test_free_sites_on_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = stock(capsys, tiny.write_model(tmp_path), "--tasks", "emb", "--latents", "pre.*=add", "--sites")
    free = {(site["site"], site["channels"]) for site in found["sites"]}
    assert {("post.map", 128), ("align.p3", 16), ("trunk.s8", 16)} <= free
    assert not any(site.startswith("pre.") for site, _ in free)


def test_the_table_names_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--latents", "post.*.box=mul[left]:factorized", "--tasks", "det"]
    code, out, _ = call(capsys, inspect, tiny.write_model(tmp_path), *words)
    assert code == 0
    for word in ("det", "post.p3.box", "factorized", "mul[left]", "yes", "backbone", "neck", "head of det", "total"):
        assert word in out
    code, out, _ = call(capsys, inspect, tiny.write_model(tmp_path), "--latents", "none", "--tasks", "cls", "--sites")
    assert "has no latents" in out
    assert "post.tags" in out


def test_a_run_is_inspected_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config, base = tiny.config(tmp_path, "model.latents=yolor", tasks=("cls",))
    network = assemble(config.model, config.tasks, EXAMPLE_VOCABULARY).network
    words = {name: list(values) for name, values in vars(EXAMPLE_VOCABULARY).items()}
    state = {"config": config.model_dump(mode="json"), "base": str(base), "vocabulary": words}
    save_checkpoint(tmp_path / "run", Checkpoint({"ema": network.state_dict()}, state))
    found = stock(capsys, str(tmp_path / "run"))
    assert {line["site"] for line in found["latents"]} == {"pre.p3", "pre.p4", "pre.p5", "post.tags"}
    code, _, err = call(capsys, inspect, str(tmp_path / "run"), "--latents", "none")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "leave out --latents" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("unified-x",), "error: unknown model 'unified-x'; known: "),
        (("unified-n", "--latents", "align.*=mul[w]"), "error: latents: only [w] does not fit site 'align.p3'"),
        (("unified-n", "--latents", "algin.*=mul"), "error: latents: no site matches 'algin.*'; known: align.p3"),
        (("unified-n", "--tasks", "dett"), "error: unknown task 'dett'"),
        (("no/such.yaml",), "error: model file 'no/such.yaml' does not exist"),
    ],
)
def test_bad_words_are_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    code, out, err = call(capsys, inspect, *words)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("latents", ["yolr", "align.*=ad", "post.p3.box=mul[top,botom]", "none pre.*=add:vectr"])
def test_training_refuses_latents_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, latents: str) -> None:
    words = ["--model", tiny.write_model(tmp_path), "--data", tiny.write_data(tmp_path), "--out", str(tmp_path / "run")]
    tiny.cache_at(tmp_path)
    code, out, err = call(capsys, train, *words, "--recipe", tiny.write_recipe(tmp_path), "--latents", latents)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "did you mean" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


class BegunError(Exception):
    """Ends a run at its start."""


class Listener(Monitor):
    def start(self, plan: Plan) -> None:
        raise BegunError(*plan.notes)


def test_training_says_at_its_start_what_a_z_inside_the_trunk_costs(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    for latents, said in (("trunk.s8=mul", ["3 trunk passes instead of 1"]), ("align.*=mul", [])):
        config, base = tiny.config(tmp_path, f"model.latents={latents}")
        with pytest.raises(BegunError) as begun:
            run.train(config, base, out=tmp_path / latents, monitor=Listener())
        notes = [note for note in begun.value.args if "trunk" in note]
        assert len(notes) == len(said)
        assert all(part in note for part, note in zip(said, notes, strict=True))


def test_folding_is_measured_beside_no_latents(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["fold", "--model", tiny.write_model(tmp_path), "--size", "64", "--repeats", "2"]
    code, out, err = call(capsys, bench, *words, "--latents", "align.*=concat post.*=mul", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert set(result["milliseconds"]) == {"no latents", "latents", "latents, folded"}
    plain, unfolded, folded = result["parameters"].values()
    assert plain <= folded < unfolded
    times = result["milliseconds"]
    expected = times["latents, folded"] / times["no latents"]
    assert result["ratios"]["latents, folded / no latents"] == pytest.approx(expected, rel=0.01)
    assert result["kept"] == ["cls post.tags mul: no convolution stands directly beside the site"]
    code, out, _ = call(capsys, bench, *words)
    assert "latents, folded / no latents" in out
    code, _, err = call(capsys, bench, *words, "--latents", "none")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "has no latents to fold" in err


def test_calls_are_timed_in_turn() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b", "c")}
    times = bench.interleaved(calls, 30, torch.device("cpu"))
    assert {name: len(values) for name, values in times.items()} == {"a": 30, "b": 30, "c": 30}
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 3  # none always runs in the wake of the same neighbour
