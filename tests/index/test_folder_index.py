# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distinct import distinct_model, noise
from PIL import Image

from unified.cli import search as command
from unified.contracts.errors import UnifiedError
from unified.index import Filter, folder
from unified.index import open as open_index
from unified.index.folder import Order, index_folder
from unified.index.query import ask
from unified.inference.model import UnifiedModel


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search") / "model"
    distinct_model().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(model_folder: Path) -> UnifiedModel:
    return UnifiedModel.from_pretrained(model_folder, device="cpu", precision="fp32")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight pictures."""
    monkeypatch.chdir(tmp_path)
    for k in range(8):
        draw(f"photos/{'deep/' if k % 2 else ''}{k}.png", k)
    return tmp_path


def draw(path: str, seed: int) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed=seed)).save(path)
    return Path(path)


def order(model_folder: Path, **words: Any) -> Order:
    given: dict[str, Any] = {"out": "INDEX", "sources": ("photos",), "shard_size": 3, "device": "cpu", "workers": 1}
    return Order(str(model_folder), **{**given, "tags": 0.0, "confidence": 0.0, **words})


def sums(place: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(place).iterdir() if p.is_file()}


def test_an_index_holds_what_encode_says(here: Path, model_folder: Path, model: UnifiedModel) -> None:
    done = index_folder(order(model_folder))
    assert (done.pictures, done.looked_at, done.failed, done.rows) == (8, 8, 0, 8)
    index = open_index("INDEX")
    assert (index.layout.space, index.layout.dim, index.layout.level) == (model.space, 16, "image")
    for path in sorted(Path("photos").rglob("*.png")):
        hit = index.search(model.encode(path), 1, space=model.space)[0][0]
        assert hit.path == str(path.absolute())
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert hit.row.size == (80, 48)
        assert set(hit.row.tags) >= {"indoor", "night", "rain", "snow"}  # all: of a score of 0 or more
    assert not list(Path("INDEX/pictures").glob("pending-*"))


def test_twice_is_once_and_only_news_are_looked_at(here: Path, model_folder: Path) -> None:
    index_folder(order(model_folder))
    before = sums("INDEX")
    assert index_folder(order(model_folder)).looked_at == 0
    assert sums("INDEX") == before
    draw("photos/new.png", 20)
    draw("photos/0.png", 21)  # another picture under an old name
    done = index_folder(order(model_folder))
    assert (done.pictures, done.looked_at, done.rows) == (9, 2, 9)
    Path("photos/2.png").unlink()
    done = index_folder(order(model_folder))
    assert (done.removed, done.rows) == (0, 9)  # a folder that is not mounted today costs nothing
    done = index_folder(order(model_folder, prune=True))
    assert (done.removed, done.rows) == (1, 8)
    Path("INDEX/pictures/seen.jsonl").unlink()  # known from the rows, too
    assert index_folder(order(model_folder)).looked_at == 0


def test_a_picture_that_cannot_be_read_is_told_and_tried_again(here: Path, model_folder: Path) -> None:
    Path("photos/broken.png").write_text("no picture")
    done = index_folder(order(model_folder))
    assert (done.looked_at, done.failed, done.rows) == (9, 1, 8)
    assert done.why[0][0].endswith("photos/broken.png")
    told = json.loads(Path("INDEX/pictures/failed.jsonl").read_text())
    assert "broken.png is damaged" in told["why"]
    assert index_folder(order(model_folder)).looked_at == 1
    draw("photos/broken.png", 30)
    done = index_folder(order(model_folder))
    assert (done.looked_at, done.failed, done.rows) == (1, 0, 9)


@pytest.mark.parametrize("level", ["image", "box"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_call_that_was_stopped_goes_on(
    here: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, after: int, level: Any
) -> None:
    """Stopped after so many files of the disk's; what had been embedded is not embedded again."""
    index_folder(order(model_folder, out="WHOLE", level=level))
    calls, takes = 0, folder._take

    def stop(*words: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after // 2 and after % 2:
            raise KeyboardInterrupt  # the shard is written, and not yet added
        takes(*words)
        if calls > after // 2 - 1 and not after % 2:
            raise KeyboardInterrupt  # it is added, and not yet cleared away

    monkeypatch.setattr(folder, "_take", stop)
    with pytest.raises(KeyboardInterrupt):
        index_folder(order(model_folder, level=level))
    monkeypatch.setattr(folder, "_take", takes)
    done = index_folder(order(model_folder, level=level))
    assert done.looked_at == 8 - min(8, 3 * ((after + 1) // 2))
    one, two = open_index("INDEX"), open_index("WHOLE")
    assert {row.id for row in one.rows()} == {row.id for row in two.rows()}
    assert index_folder(order(model_folder, level=level)).looked_at == 0


def test_shards_of_another_model_are_not_added(here: Path, model_folder: Path) -> None:
    index_folder(order(model_folder))
    stale = Path("INDEX/pictures/pending-x")
    stale.mkdir()
    (stale / "plan.json").write_text(json.dumps({"space": "0" * 64, "level": "image", "shard_size": 3, "pictures": []}))
    torn = Path("INDEX/pictures/pending-y")
    torn.mkdir()
    (torn / "plan.json").write_text("{")
    assert index_folder(order(model_folder)).rows == 8
    assert not stale.exists()
    assert not torn.exists()


def test_boxes_of_a_picture_that_changed_give_way(here: Path, model_folder: Path, model: UnifiedModel) -> None:
    index_folder(order(model_folder, level="box", confidence=0.0))
    index = open_index("INDEX")
    first = str(Path("photos/0.png").absolute())
    own = [row for row in index.rows() if row.path == first]
    boxes = model.predict("photos/0.png", confidence=0.0).boxes
    assert [row.id for row in own] == [f"{first}#{k}" for k in range(len(boxes))]
    assert own[0].box == pytest.approx(boxes.xyxy[0].tolist(), abs=1e-2)
    assert (own[0].name, own[0].score) == (boxes.names[0], pytest.approx(float(boxes.scores[0]), abs=1e-4))
    index_folder(order(model_folder, level="box", confidence=1.0, out="NONE"))
    assert len(open_index("NONE")) == 0
    assert index_folder(order(model_folder, level="box", confidence=1.0, out="NONE")).looked_at == 0
    draw("photos/0.png", 40)
    index_folder(order(model_folder, level="box", confidence=1.0))
    assert not [row for row in open_index("INDEX").rows() if row.path == first]


def test_a_question_is_embedded_as_the_index_was(here: Path, model_folder: Path, model: UnifiedModel) -> None:
    index_folder(order(model_folder, truncate_dim=8, precision="int8", size=96))
    index = open_index("INDEX")
    answer = ask(index, model, "photos/2.png", k=3)[0]
    assert answer.hits[0].path == str(Path("photos/2.png").absolute())
    assert answer.hits[0].score > 0.99
    more, others = ask(index, model, "photos/2.png", k=4), ask(index, model, "photos/2.png", k=3, itself=False)
    assert others[0].hits == more[0].hits[1:]
    part = ask(index, model, "photos/2.png", box=(8, 8, 40, 40), k=1)[0]
    assert part.box == (8, 8, 40, 40)
    assert part.hits[0].score < answer.hits[0].score
    with pytest.raises(UnifiedError, match="shows nothing of a picture of 80 x 48"):
        ask(index, model, "photos/2.png", box=(100, 8, 140, 40))


def test_an_index_of_boxes_answers_for_every_box(here: Path, model_folder: Path, model: UnifiedModel) -> None:
    index_folder(order(model_folder, level="box"))
    index = open_index("INDEX")
    answers = ask(index, model, "photos/2.png", k=2, confidence=0)
    boxes = model.predict("photos/2.png", confidence=0).boxes
    assert len(answers) == len(boxes)
    assert all(answer.hits[0].score > 0.999 for answer in answers)
    assert [answer.name for answer in answers] == boxes.names
    one = ask(index, model, "photos/2.png", box=answers[0].box, k=1)[0]
    assert one.hits[0].score == pytest.approx(answers[0].hits[0].score, abs=1e-4)
    others = ask(index, model, "photos/2.png", k=2, confidence=0, itself=False)
    assert all(hit.path != str(Path("photos/2.png").absolute()) for answer in others for hit in answer.hits)
    assert all(len(answer.hits) == 2 for answer in others)
    assert ask(index, model, "photos/2.png", confidence=1.0) == []


def test_another_models_index_is_refused(here: Path, model_folder: Path, tmp_path: Path) -> None:
    index_folder(order(model_folder))
    other = distinct_model(seed=7)
    with pytest.raises(UnifiedError, match="the model's vectors are of another model"):
        ask(open_index("INDEX"), other, "photos/0.png")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UnifiedError, match="is an index of another kind: space"):
        index_folder(order(tmp_path / "other"))
    with pytest.raises(UnifiedError, match="another kind: precision float32, now float16"):
        index_folder(order(model_folder, precision="float16"))


# --- the command -----------------------------------------------------------------------------------------------------


def code_of(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_the_whole_way_by_commands(here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = here / "photos" / "copy.png"
    copy.write_bytes((here / "photos" / "0.png").read_bytes())
    words = ("--device", "cpu", "--json")
    assert code_of("index", model_folder, "photos", "--out", "INDEX", "--tag-score", "0", *words) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 9
    assert code_of("image", "INDEX", "photos/0.png", "-k", 3, "--sheet", "s.png", "--html", "s.html", *words) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["hits"][0]["path"] == str(copy)
    assert len(found["hits"]) == 3
    assert Image.open("s.png").size[1] > 200
    page = Path("s.html").read_text()
    assert page.count("<img ") == 4
    assert "://" not in page
    assert code_of("image", "INDEX", "photos/0.png", "--box", "0,0,40,40", "--tag", "rain", *words) == 0
    assert json.loads(capsys.readouterr().out)[0]["box_xyxy"] == [0, 0, 40, 40]
    assert code_of("image", "INDEX", "photos/0.png", "--no-tag", "rain", *words) == 0
    assert json.loads(capsys.readouterr().out)[0]["hits"] == []
    assert code_of("duplicates", "INDEX", "--html", "d.html", "--json") == 0
    groups = json.loads(capsys.readouterr().out)
    assert [{Path(row["path"]).name for row in group["rows"]} for group in groups] == [{"copy.png", "0.png"}]
    assert code_of("clusters", "INDEX", "--count", 2, "--sheet", "c.jpg", "--json") == 0
    assert sum(len(c["rows"]) for c in json.loads(capsys.readouterr().out)["clusters"]) == 9
    assert code_of("remove", "INDEX", str(copy), "nobody", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 1}
    assert code_of("info", "INDEX", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["backend"], told["model"]) == (8, "ExactIndex", str(model_folder))
    assert code_of("image", "INDEX", "photos/0.png", "photos/2.png", "--device", "cpu", "--sheet", "two.png") == 0
    assert "photos/0.png\n  " in capsys.readouterr().out
    assert code_of("clusters", "INDEX", "--least", 2) == 0
    assert code_of("duplicates", "INDEX", "--threshold", 0.1, "--no-confirm") == 0
    assert code_of("info", "INDEX") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "MODEL", "nothing", "--out", "X"], "picture 'nothing' is missing"),
        (["index", "MODEL", "photos", "--out", "photos"], "no index at 'photos'"),
        (["index", "MODEL", "photos", "--out", "X", "--level", "boxes"], "--level: unknown word 'boxes'"),
        (["index", "MODEL", "photos", "--out", "X", "--backend", "faiss"], "--backend: unknown word 'faiss'"),
        (["index", "MODEL", "photos", "--out", "X", "--truncate", "99"], "truncate_dim 99 does not fit"),
        (["index", "MODEL", "photos", "--out", "X", "--size", "70"], "size 70"),
        (["image", "nowhere", "photos/0.png"], "no index at 'nowhere'"),
        (["image", "INDEX", "gone.png"], "picture gone.png is missing"),
        (["image", "INDEX", "photos/0.png", "--box", "1,2,3"], "--box: '1,2,3' is not X0,Y0,X1,Y1"),
        (["image", "INDEX", "photos/0.png", "--model", "nowhere"], "nowhere"),
        (["image", "INDEX", "photos/0.png", "--sheet", "s.gif"], "unknown suffix"),
        (["image", "INDEX", "photos/0.png", "-k", "0"], "-k"),
        (["duplicates", "INDEX", "--threshold", "2"], "--threshold"),
        (["clusters", "INDEX", "--count", "99"], "99 clusters do not fit 8 rows"),
        (["info", "nowhere"], "no index at 'nowhere'"),
    ],
)
def test_a_wrong_word_is_one_line(
    here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    index_folder(order(model_folder))
    there = set(here.iterdir())
    assert code_of(*[model_folder if word == "MODEL" else word for word in words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert set(here.iterdir()) == there


def test_a_model_that_moved_is_said(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distinct_model().save_pretrained("moved")
    index_folder(order(Path("moved")))
    Path("moved").rename("elsewhere")
    assert code_of("image", "INDEX", "photos/0.png") == 2
    assert "is not where it was" in capsys.readouterr().err
    assert code_of("image", "INDEX", "photos/0.png", "--model", "elsewhere", "--device", "cpu") == 0


def test_text_of_a_sentence_encoder_would_be_searched_as_any_vector(here: Path, model_folder: Path) -> None:
    index_folder(order(model_folder))
    found = open_index("INDEX").search(torch.randn(2, 16), 3, Filter(level="image"))
    assert [len(hits) for hits in found] == [3, 3]
