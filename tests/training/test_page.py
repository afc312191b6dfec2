# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from page_runs import HOSTILE, a_run, jpeg, record, section, write_log

from unified.contracts.errors import CheckpointError
from unified.contracts.section import Column, Gallery, Line, Picture, Section, Table, View
from unified.contracts.structures import Annotations, Frame, Sample
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary
from unified.training.page import write_report
from unified.training.page.album import developed
from unified.training.page.chart import chart
from unified.training.page.drift import drifts
from unified.training.page.gallery import gallery
from unified.training.page.latents import read_values
from unified.training.page.log import read_log
from unified.training.page.record import LatentNote, Record, read_record, write_record
from unified.training.page.scale import Scale, number, ticks
from unified.training.page.story import Story
from unified.training.run import train

WORD = "document.title"


class Reader(HTMLParser):
    """Collects tags and attributes; knows which tags end themselves."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "input", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        last = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last}>"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text())
    reader.close()
    return reader


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(a_run(tmp_path_factory.mktemp("run") / HOSTILE[4].replace("/", "_")))


ALLOWED = {"href": ("#", "data:"), "src": (), "action": (), "data": (), "poster": (), "srcset": (), "xlink:href": ()}


def faults(reader: Reader) -> list[str]:
    """Whatever would run, or ask for something outside the page."""
    found = []
    for tag, attributes in reader.tags:
        found += [tag] if tag in ("iframe", "object", "embed", "base", "form", "img", "marquee") else []
        for name, value in attributes.items():
            found += [f"{tag} {name}"] if name.startswith("on") else []
            found += (
                [f"{tag} {name}={value}"] if name in ALLOWED and not value.startswith(ALLOWED[name] or "#none") else []
            )
            found += [f"{tag} {name}={value}"] if name == "style" and "url(" in value else []
    found += ["two scripts"] if sum(tag == "script" for tag, _ in reader.tags) != 1 else []
    return found


def test_nothing_on_the_page_runs_or_asks_but_what_we_wrote(page: Path) -> None:
    reader = read(page)
    assert faults(reader) == []
    assert reader.open == []  # every tag is closed where it belongs
    text = page.read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!data:)", text)
    script = re.findall(r"<script>(.*?)</script>", text, re.S)[0]
    secret = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{secret}'" in text
    assert WORD not in script


def test_the_check_sees_what_it_looks_for() -> None:
    """The control: the same words, not escaped."""
    for word in HOSTILE[:5]:
        reader = Reader()
        try:
            reader.feed(f"<script></script><div title='{word}'>{word}</div>")
        except AssertionError:
            continue  # it broke out of where it stood
        assert faults(reader), word


def test_hostile_names_are_read_as_words(page: Path) -> None:
    text = "".join(read(page).text)
    for word in HOSTILE[:6]:
        assert word in text
    values = {value for _, attributes in read(page).tags for value in attributes.values()}
    assert set(HOSTILE[:4]) <= values  # data-name, title and the like


def test_the_page_holds_everything(page: Path) -> None:
    reader = read(page)
    identities = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert identities == ["scores", "progress", "predictions", "task-0", "latents", "pace", "data", "run", "notes"]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links == [f"#{identity}" for identity in identities]
    text = "".join(reader.text)
    for words in (f"unified-train --out '{HOSTILE[0]}'", "resumed at step 20", "unreadable", "step 7 left out", "2.13"):
        assert words in text, words
    assert "1.3 M" in text
    assert page.stat().st_size < 200_000


def test_a_log_alone_makes_a_page(tmp_path: Path) -> None:
    write_log(tmp_path)
    text = write_report(tmp_path).read_text()
    assert 'id="progress"' in text
    assert 'id="predictions"' not in text
    with pytest.raises(CheckpointError, match=r"no run at '.*'; it holds neither|no run at"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 99}', b'{"look": {"step": "x"}}', b"\x80\x04cos\nsystem\n"])
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, damage: bytes) -> None:
    run = a_run(tmp_path / "run")
    (run / "report.json").write_bytes(damage)
    with pytest.raises(CheckpointError) as caught:
        write_report(run)
    assert "report.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    (run / "report.json").unlink()
    (run / "report.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"report\.safetensors"):
        read_values(run)


def test_a_record_is_read_back_and_a_newer_ones_fields_are_passed_over(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    assert read_record(tmp_path) == record()
    newer = {**json.loads(record().model_dump_json()), "tomorrow": 1}
    (tmp_path / "report.json").write_text(json.dumps(newer))
    assert read_record(tmp_path) == record()
    assert read_record(tmp_path / "none") == Record(state="")


def test_pixels_that_are_no_base64_are_left_out() -> None:
    good = Picture(jpeg=jpeg(), width=32, height=32, scale=(1, 1), offset=(0, 0))
    bad = good.model_copy(update={"jpeg": '"/><script>'})
    views = [View(image_id="1", picture=picture) for picture in (good, bad)]
    assert gallery(Gallery(title="", rows=(tuple(views),))).count("<image ") == 1
    assert gallery(Gallery(title="", rows=((views[1],),))) == ""


def test_places_lead_back_to_numbers() -> None:
    line = Line(label="a", x=(0.0, 40.0, 100.0), y=(2.0, 8.0, 4.0))
    text = chart(section().parts[1].model_copy(update={"lines": (line,)}))  # type: ignore[arg-type]
    x, y = (Scale(*map(float, re.findall(f'data-{axis}="([^"]+)"', text)[0].split(","))) for axis in ("x", "y"))
    points = re.findall(r'points="([^"]+)"', text)[0].split()
    for point, a, b in zip(points, (0, 40, 100), (2, 8, 4), strict=True):
        left, top = map(float, point.split(","))
        assert x.low + (left - x.start) / (x.end - x.start) * (x.high - x.low) == pytest.approx(a, abs=0.01)
        assert y.low + (top - y.start) / (y.end - y.start) * (y.high - y.low) == pytest.approx(b, abs=0.01)


def test_numbers_in_few_characters() -> None:
    told = {12345: "12,345", 0.6149: "0.615", 3.2e-5: "3.2e-05", 0.5: "0.5", 17.25: "17.25", None: "", float("nan"): ""}
    assert {value: number(value) for value in told} == told
    assert ticks(0, 1, 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert ticks(0, 2959, 5) == pytest.approx([0, 1000, 2000])
    assert ticks(3, 3, 5) == [3]


def test_a_look_at_a_part_finds_its_place_again() -> None:
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image[:, 40:60, 100:140] = 255
    sample = Sample(image, Annotations(), Frame("7", (200, 400), (0.5, 0.5)))  # read at half its size
    picture = developed(sample, (180.0, 60.0, 320.0, 140.0), side=280)
    (sx, sy), (ox, oy) = picture.scale, picture.offset
    assert (picture.width, picture.height) == (280, 160)
    corners = [200 * sx + ox, 80 * sy + oy, 280 * sx + ox, 120 * sy + oy]  # the white box, in original pixels
    assert corners == pytest.approx([40, 40, 200, 120])
    with pytest.raises(ValueError, match="nothing"):
        developed(sample, (500.0, 0.0, 600.0, 50.0), side=64)


def test_how_far_a_z_went_by_hand() -> None:
    note = LatentNote(key="k", task="t", site="s", latent="vector", operator="mul")
    values = {"after/k": torch.tensor([4.0, 5.0]), "before/k": torch.ones(2), "identity/k": torch.ones(2)}
    (found,) = drifts([note], values)
    assert found.away == pytest.approx((12.5) ** 0.5)  # root of (9 + 16) / 2
    assert found.moved == pytest.approx((12.5) ** 0.5)
    assert drifts([note], {}) == []
    (late,) = drifts([note], {name: value for name, value in values.items() if name != "before/k"})
    assert late.moved is None


class Ear(Monitor):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ear]:
    place = tmp_path_factory.mktemp("page")
    tiny.cache_at(place)
    config, base = tiny.config(place, "evaluate_every=0.5")
    ear = Ear()
    train(config, base, out=place / "run", monitor=ear, command="unified-train --size 96")
    return place / "run", ear


def test_a_run_explains_itself(run: tuple[Path, Ear]) -> None:
    folder, ear = run
    found = read_record(folder)
    assert (found.state, found.steps, found.size) == ("finished", 6, 96)
    assert ear.messages == []
    assert [sitting.command for sitting in found.sittings] == ["unified-train --size 96"]
    assert found.look is not None
    assert found.look.step == 6
    assert set(found.look.sections) == {"det", "cls", "emb"}
    assert found.look.predictions is not None
    assert all(view.picture for row in found.look.predictions.rows for view in row)
    assert {(note.dataset, note.split, note.images) for note in found.data} == {
        ("shapes", "train", 24),
        ("shapes", "val", 8),
    }
    text = (folder / "report.html").read_text()
    assert 'id="latents"' in text
    assert "unified-train --size 96" in text
    assert len(text) < 5e6
    before = text
    assert write_report(folder).read_text() == before  # all of it lies in the folder
    assert faults(read(folder / "report.html")) == []


def test_every_z_is_kept_as_it_was_and_as_it_is(run: tuple[Path, Ear]) -> None:
    from unified.trained import load_trained

    folder, _ = run
    values, notes = read_values(folder), read_record(folder).latents
    assert {name.partition("/")[0] for name in values} == {"before", "after", "identity"}
    for note, entry in zip(notes, load_trained(folder).network.bank.entries(), strict=True):
        assert (note.task, note.site) == (entry.task, entry.site)
        if RunFolder.open(folder).pointed("best") == RunFolder.open(folder).pointed("last"):
            assert torch.equal(values[f"after/{note.key}"], entry.latent().detach())
        assert not torch.equal(values[f"before/{note.key}"], values[f"after/{note.key}"])


def test_a_run_without_a_page_gets_one_by_looking_again(run: tuple[Path, Ear], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from unified.cli.eval import app

    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    for name in ("report.html", "report.json", "report.safetensors"):
        (folder / name).unlink()
    done = CliRunner().invoke(app, [str(folder), "--report"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "report.html")
    found, before = read_record(folder), read_record(run[0])
    assert found.look is not None
    assert before.look is not None
    assert set(found.look.sections) == {"det", "cls", "emb"}
    assert found.data == before.data
    assert {name.partition("/")[0] for name in read_values(folder)} == {"after", "identity"}
    assert CliRunner().invoke(app, [str(folder), "--report", "--limit", "3"]).exit_code != 0


class Talks:
    """A stranger's metric."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def sections(self) -> list[Section]:
        if self.broken:
            raise ZeroDivisionError("no evidence")
        table = Table(title="Depth of <b>water</b>", columns=(Column(name="pool"),), rows=(("deep",),))
        return [Section(title="Mine", parts=(table,))]


def a_story(folder: Path, ear: Ear) -> Story:
    (folder / "config.yaml").write_text("model: {name: m}\n")
    network: Any = SimpleNamespace(bank=SimpleNamespace(entries=lambda: iter(())))
    data: Any = SimpleNamespace(sources={}, serves={})
    story = Story(RunFolder(folder), SimpleNamespace(tasks={}), {}, data, data, network, tell=ear.message)  # type: ignore[arg-type]
    story.start(Plan(folder, (), {}, 1, 10, 1, 32, "cpu", "fp32"))
    parts: Any = {"pools": Talks(), "bad": Talks(broken=True), "plain": object()}
    story.look(network, Evaluation(parts=parts))
    story.evaluation(EvaluationRecord(5, {"pools/depth": 0.5}, 1, 0.1, best=True))
    return story


def test_a_strangers_task_shows_what_it_has_and_a_broken_one_costs_nobody_else(tmp_path: Path) -> None:
    ear = Ear()
    story = a_story(tmp_path, ear)
    assert ear.messages == ["report.html shows nothing of task 'bad': ZeroDivisionError: no evidence"]
    text = (tmp_path / "report.html").read_text()
    assert "Depth of &lt;b&gt;water&lt;/b&gt;" in text
    assert "<h2>pools</h2>" in text
    story.end(RunSummary(tmp_path, interrupted=True))
    assert read_record(tmp_path).state == "interrupted"


def test_a_run_that_stops_by_an_error_says_so_and_one_that_cannot_write_goes_on(tmp_path: Path) -> None:
    ear = Ear()
    story = a_story(tmp_path, ear)
    with pytest.raises(ValueError, match="sick"), story:
        raise ValueError("the loss is sick")
    assert "stopped by ValueError: the loss is sick" in (tmp_path / "report.html").read_text()
    story.folder.path = tmp_path / "config.yaml" / "below a file"
    story.end(RunSummary(tmp_path))
    assert "report.html is not up to date" in ear.messages[-1]


def test_a_resumed_story_goes_on(tmp_path: Path) -> None:
    a_story(tmp_path, Ear()).message("first")
    network: Any = SimpleNamespace(bank=SimpleNamespace(entries=lambda: iter(())))
    data: Any = SimpleNamespace(sources={}, serves={})
    config: Any = SimpleNamespace(tasks={})
    again = Story(RunFolder(tmp_path), config, {}, data, data, network, resumed=5)
    again.start(Plan(tmp_path, (), {}, 1, 10, 1, 32, "cpu", "fp32", command="again"))
    assert [sitting.command for sitting in read_record(tmp_path).sittings] == ["", "again"]
    assert [sitting.step for sitting in again.record.sittings] == [0, 5]


def test_the_log_is_read_whatever_stands_in_it(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "losses": {"a": NaN, "b": 2, "c": "x"}}\n[1]\n\xff\xfe\n'
        b'{"metrics": 3, "step": "x"}\n{"step": 2, "x": {}}'
    )
    log = read_log(tmp_path)
    assert log.series("losses") == {"b": ([1.0], [2.0])}
    assert log.series("metrics") == {}
    assert [list(event) for event in log.events] == [["step", "x"]]
    assert write_report(tmp_path).is_file()
