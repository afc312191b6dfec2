# SPDX-License-Identifier: Apache-2.0
"""The page without a browser: Streamlit's own test runner runs the script and shows what it put where."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="needs streamlit (extra 'app')")
from live import lively_model
from spare import noise

from unified import index as indexes
from unified.app import launch, sitting
from unified.app.panels import bar, icon
from unified.app.sitting import Sitting, hold, look
from unified.cli import app as command
from unified.contracts.errors import DataError
from unified.index import Row


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Sitting:
    """A model that boxes everything, five pictures and an index of them."""
    folder, model = tmp_path_factory.mktemp("app"), lively_model()
    paths = [folder / f"picture-{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        Image.fromarray(noise(40 + 4 * k, 90 - 5 * k, seed=k)).save(path)
    made = indexes.create(folder / "index", 16, model.space)
    made.add(
        model.encode([str(path) for path in paths]), [Row(str(path), str(path)) for path in paths], space=model.space
    )
    return Sitting("spare", model, made, tuple(paths))


@pytest.fixture
def page(shown: Sitting) -> Iterator[Any]:
    from streamlit.testing.v1 import AppTest

    hold(shown)
    yield AppTest.from_file(str(launch.PAGE), default_timeout=120)
    sitting._held.clear()


def test_a_chosen_picture_shows_everything(page: Any, shown: Sitting) -> None:
    page.run()
    assert not page.exception
    assert not page.error
    said = {metric.label: metric.value for metric in page.metric}
    assert said.keys() == {"Boxes", "Picture", "Decoding", "Network", "Search"}
    assert said["Picture"] == "90 x 40"
    assert all(said[name].endswith(" ms") for name in ("Decoding", "Network", "Search"))
    assert [each.value for each in page.subheader] == ["Tags", "Boxes", "Nearest to this picture"]
    captions = " ".join(caption.value for caption in page.caption)
    assert "Index of 5 rows" in captions
    assert "picture-0.png" not in captions  # the picture is not its own neighbour
    assert sum(f"picture-{k}.png" in captions for k in range(5)) == 4


def test_the_slider_of_confidence_moves_the_boxes(page: Any, shown: Sitting) -> None:
    page.run()
    counts = []
    for value in (0.0, 1.0):
        next(each for each in page.slider if "Confidence" in each.label).set_value(value).run()
        counts.append(int(next(m.value for m in page.metric if m.label == "Boxes")))
    truth = [len(shown.model.predict(shown.pictures[0], confidence=value).boxes) for value in (0.0, 1.0)]
    assert counts == truth
    assert counts[0] > counts[1] == 0
    assert "None at this confidence." in [caption.value for caption in page.caption]


def test_no_neighbours_are_shown_where_none_are_asked_for(page: Any) -> None:
    page.run()
    next(each for each in page.slider if "Nearest" in each.label).set_value(0).run()
    assert "Search" not in [metric.label for metric in page.metric]
    assert not any("Nearest" in each.value for each in page.subheader)


def test_an_upload_is_looked_at(page: Any, shown: Sitting) -> None:
    hold(replace(shown, index=None, pictures=()))
    page.run()
    assert {each.value for each in page.title} == {"Unified", "What does the network see?"}
    assert "cat, dog, hat" in [text.value for text in page.text]
    page.file_uploader[0].set_value(("mine.png", shown.pictures[2].read_bytes(), "image/png")).run()
    assert not page.exception
    assert next(m.value for m in page.metric if m.label == "Picture") == "80 x 48"


def test_a_damaged_upload_is_one_line(page: Any, shown: Sitting) -> None:
    hold(replace(shown, index=None, pictures=()))
    page.run()
    page.file_uploader[0].set_value(("mine.png", b"no picture", "image/png")).run()
    assert not page.exception
    assert "damaged or not one of JPEG, PNG, WEBP, BMP, TIFF" in page.error[0].value


def test_opened_by_another_way_it_says_how(page: Any) -> None:
    sitting._held.clear()
    page.run()
    assert page.error[0].value == "nothing to show: open this page with unified-app MODEL"


def test_what_is_seen_is_what_the_model_says(shown: Sitting) -> None:
    path = shown.pictures[1]
    seen = look(shown, path, 0.0, 3)
    truth = shown.model.predict(path, confidence=0.0)
    assert seen.result.to_dict()["boxes"] == truth.to_dict()["boxes"]
    assert max(seen.drawn.size) >= 480
    assert len(seen.hits) == len(seen.asked) == 1
    assert str(path) not in [hit.path for hit in seen.hits[0]]
    again = look(shown, path.read_bytes(), 0.0, 3)  # an upload has no name, so it may be found
    assert again.hits[0][0].path == str(path)
    assert again.hits[0][0].score == pytest.approx(1, abs=1e-4)
    with pytest.raises(DataError):
        look(shown, b"x", 0.5, 3)


@pytest.mark.parametrize("level", ["image", "box"])
@pytest.mark.parametrize("dim", [16, 8])
def test_the_search_needs_no_pass_of_its_own(shown: Sitting, tmp_path: Path, level: Any, dim: int) -> None:
    from unified.index.query import ask

    model, path = shown.model, shown.pictures[0]
    made = indexes.create(tmp_path / "other", dim, model.space, level=level, truncate=dim < 16)
    vectors = [model.encode(str(each), level=level, truncate_dim=dim, confidence=0.0) for each in shown.pictures]
    for k, each in enumerate(vectors):
        some = each.reshape(-1, dim)
        made.add(some, [f"{k}#{i}" for i in range(len(some))], space=model.space)
    passes: list[Any] = []
    watch = model.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    seen = look(replace(shown, index=made), path, 0.0, 3)
    watch.remove()
    assert len(passes) == 1
    truth = ask(made, model, path, k=3, confidence=0.0, itself=False)
    assert [[hit.id for hit in hits] for hits in seen.hits] == [[hit.id for hit in each.hits] for each in truth]


def test_an_index_of_another_size_is_asked_at_that_size(shown: Sitting, tmp_path: Path) -> None:
    model, path = shown.model, shown.pictures[0]
    made = indexes.create(tmp_path / "large", 16, model.space_at(96), side=96)
    made.add(model.encode([str(each) for each in shown.pictures], size=96), space=model.space_at(96))
    hits = look(replace(shown, index=made), path, 0.0, 1).hits[0]
    assert (hits[0].id, hits[0].score) == ("0", pytest.approx(1, abs=1e-4))


def test_names_of_tags_stay_text() -> None:
    assert bar("<script>alert(1)</script>", 2.0, True).count("<script") == 0
    assert "width:100.0%" in bar("a", 2.0, True)
    assert "width:0.0%" in bar("a", float("-inf"), False)


def test_the_sign_is_drawn_here() -> None:
    assert len(np.unique(np.asarray(icon()).reshape(-1, 4), axis=0)) > 2


def test_the_page_listens_on_loopback_and_tells_nobody() -> None:
    from streamlit import config

    words = launch.options(8501, 16)
    assert words["server_address"] == "127.0.0.1"
    assert words["browser_gatherUsageStats"] is False
    known = {key.replace(".", "_") for key in config._config_options_template}
    assert set(words) <= known, set(words) - known  # a word that Streamlit does not know would change nothing


def code_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    return int(caught.value.code or 0), capsys.readouterr().err.splitlines()


def test_wrong_words_are_one_line(shown: Sitting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(shown.model.save_pretrained(tmp_path / "run"))
    other = indexes.create(tmp_path / "other", 16, "0" * 64)
    other.add(np.ones((1, 16), np.float32), [Row("a")], space="0" * 64)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, lines = code_of(capsys, run, "--port", port)
    assert (code, lines) == (
        2,
        [f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another"],
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        free = str(found.getsockname()[1])
    for words in (
        ["gone"],
        [run, "http://host/a.png"],
        [run, "--index", "gone"],
        [run, "--index", str(tmp_path / "other")],
    ):
        code, lines = code_of(capsys, *words, "--port", free)
        assert (code, len(lines)) == (2, 1), lines


def test_the_guide_names_every_option_and_its_default() -> None:
    import typer

    guide = (Path(__file__).resolve().parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(--[a-z-]+) [A-Z,]+` \| (\S+) \|", guide, re.MULTILINE))
    parameters: Any = typer.main.get_command(command.app).params
    options = {word: each.default for each in parameters for word in each.opts if word.startswith("--")}
    assert set(rows) == set(options) - {"--debug", "--plugin", "--help", "--install-completion", "--show-completion"}
    assert {name: said for name, said in rows.items() if said not in ("–", "all")} == {
        name: str(options[name]) for name in ("--port", "--device", "--max-upload")
    }


def test_without_the_extra_one_line_names_it() -> None:
    code = "import sys; sys.modules['streamlit'] = None; from unified.cli.app import main; main(['x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["error: unified-app needs streamlit, which is not installed: pip install 'unified-networks[app]'"],
    )
