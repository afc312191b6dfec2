# SPDX-License-Identifier: Apache-2.0
import csv
import json
import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError, UnifiedError
from unified.data.picture import FOLLOW_LINKS, read_picture
from unified.data.source import open_source

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OPENED: list[str] = []
WATCHING = threading.Event()


def _hear(event: str, told: tuple[Any, ...]) -> None:
    if event == "open" and WATCHING.is_set() and isinstance(told[0], str | bytes):
        OPENED.append(os.fsdecode(told[0]))


sys.addaudithook(_hear)  # cannot be taken away again; it hears nothing unless somebody watches


@contextmanager
def watching(*allowed: Path) -> Iterator[list[str]]:
    """Gives, in the end, the files that were opened outside the allowed folders and this Python's own."""
    own = [Path(sysconfig.get_paths()[key]) for key in ("stdlib", "purelib", "platlib")]
    own += map(Path, sys.path)
    tops = [os.path.realpath(path) for path in (*allowed, REPOSITORY, *own)]
    outside: list[str] = []
    OPENED.clear()
    WATCHING.set()
    try:
        yield outside
    finally:
        WATCHING.clear()
        real = [os.path.realpath(path) for path in OPENED]
        outside += [path for path in real if not any(path == top or path.startswith(top + os.sep) for top in tops)]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset ``zoo`` with everything in it that leads out or should not be opened, and secrets around it."""
    top = tmp_path_factory.mktemp("farm")
    images = top / "zoo" / "images"
    (images / "sub").mkdir(parents=True)
    for folder in (top / "outside", top / "zoo" / "images2"):
        folder.mkdir()
    secret = top / "outside" / "secret.png"
    for path in (secret, top / "zoo" / "secret.png", top / "zoo" / "images2" / "secret.png", images / "good.png"):
        Image.new("RGB", (8, 8)).save(path)
    for folder in (top / "outside", top / "zoo", top / "zoo" / "images2"):
        (folder / "secret.xml").write_text("<annotation><filename>secret.png</filename></annotation>")
        (folder / "secret.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    for name in ("link", "chain", "relative"):
        (images / f"{name}.txt").symlink_to(top / "outside" / "secret.txt")
    links = {
        "link.png": secret,
        "chain.png": Path("link.png"),
        "folder": secret.parent,
        "up": Path(".."),
        "loop.png": Path("loop.png"),
        "dangling.png": top / "outside" / "nothing.png",
        "passwd.png": Path("/etc/passwd"),
        "zero.png": Path("/dev/zero"),
        "environ.png": Path("/proc/self/environ"),
        "away-pipe.png": top / "outside" / "pipe",
        "relative.png": Path("../../outside/secret.png"),
        "home": Path("/proc/self/root"),
        "inner.png": Path("good.png"),
    }
    for name, target in links.items():
        (images / name).symlink_to(target)
    os.mkfifo(images / "pipe.png")
    os.mkfifo(top / "outside" / "pipe")
    (images / "folder.png").mkdir()
    here = Path.cwd()
    os.chdir(images)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)
    return top


def hostile(top: Path) -> list[str]:
    secret = str(top / "outside" / "secret.png")
    climbing = [
        "../secret.png", "../../outside/secret.png", "sub/../../secret.png", "./../secret.png", ".//..//secret.png",
        "sub/../../../outside/secret.png", "../images2/secret.png", "../images/../secret.png", "gone/../../secret.png",
        "sub/sub/../../../secret.png", ".../../../secret.png", "..", ".", "", "./", "sub/..", "sub", "../images",
        "../" * 500 + "etc/passwd",
    ]  # fmt: skip
    absolute = [
        secret, f"/{secret}", f"/..{secret}", "/", "/etc/passwd", "//etc/passwd", "/etc/../etc/passwd", "/dev/zero",
        "/dev/stdin", "/dev/fd/0", "/proc/self/environ", "/proc/self/root/etc/passwd", f"/proc/self/root{secret}",
    ]  # fmt: skip
    linked = [
        "link.png", "chain.png", "folder/secret.png", "up/secret.png", "loop.png", "dangling.png", "passwd.png",
        "zero.png", "environ.png", "away-pipe.png", "relative.png", "home/etc/passwd", f"home{secret}",
    ]  # fmt: skip
    odd = ["pipe.png", "socket.png", "folder.png", "sub/", "up", "folder"]
    encoded = [
        "%2e%2e/secret.png", "..%2fsecret.png", "%2e%2e%2fsecret.png", "..%5csecret.png", "..\\secret.png",
        "..\\..\\outside\\secret.png", "C:\\secret.png", "\\\\host\\secret.png", "．．/secret.png",
        "..\u2215secret.png", "..;/secret.png", "~/secret.png", "$HOME/secret.png", "file:///etc/passwd", "http://127.0.0.1/secret.png",
        "data:image/png;base64,AAAA", "|cat /etc/passwd",
    ]  # fmt: skip
    impossible = [
        "a\0.png", "\0", "../secret.png\0.png", "\ud800.png", "a\udcff.png", "../\ud800.png", "a" * 300 + ".png",
        "a/" * 3000 + "x.png", "x" * 70_000, "\n.png", "a\r\nb.png", "\x1b[31mred.png", "\u202egnp.png",
    ]  # fmt: skip
    return [*climbing, *absolute, *linked, *odd, *encoded, *impossible]


def test_no_hostile_name_opens_anything_outside(farm: Path) -> None:
    names, root = hostile(farm), farm / "zoo" / "images"
    assert len(names) >= 60 and read_picture("good.png", root).shape == read_picture("inner.png", root).shape
    with watching(root) as outside:
        for name in names:
            with pytest.raises(DataError) as error:
                read_picture(name, root)
            text = str(error.value)
            assert text.isprintable() and len(text) < 900 and text.encode(), repr(name)
    assert outside == []
    print(f"{len(names)} hostile names: 0 opens outside the root")


def test_the_watch_sees_what_is_opened_outside(farm: Path) -> None:
    secret = farm / "outside" / "secret.png"
    with watching(farm / "zoo" / "images") as outside:
        read_picture(secret)
        with (farm / "zoo" / "images" / "link.png").open("rb"):
            pass
    assert outside == [os.path.realpath(secret)] * 2


def test_links_that_lead_out_may_be_trusted(farm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    root = farm / "zoo" / "images"
    for name in ("link.png", "chain.png", "folder/secret.png", "up/secret.png", "relative.png"):
        assert read_picture(name, root).shape == (3, 8, 8)
    for name in ("../secret.png", "zero.png", "environ.png", "away-pipe.png", "loop.png", "dangling.png"):
        with pytest.raises(DataError):
            read_picture(name, root)


def coco(zoo: Path, name: str) -> dict[str, Any]:
    image = {"id": 1, "file_name": name, "width": 8, "height": 8}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    whole = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (zoo / "all.json").write_text(json.dumps(whole))
    return {"format": "coco", "train": {"images": "images", "annotations": "all.json"}}


def sheet(zoo: Path, name: str) -> dict[str, Any]:
    with (zoo / "all.csv").open("w", newline="", errors="surrogatepass") as file:
        csv.writer(file).writerows([["image", "label"], ["good.png", "cat"], [name, "cat"]])
    return {"format": "csv", "train": {"images": "images", "annotations": "all.csv"}}


def voc(zoo: Path, name: str) -> dict[str, Any]:
    folder = zoo / "Annotations"
    folder.mkdir(exist_ok=True)
    for link in ("link.xml", "chain.xml", "relative.xml"):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(zoo.parent / "outside" / "secret.xml")
    box = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object>"
    text = f"<annotation><filename>{name}</filename>{box}</annotation>"
    (folder / "good.xml").write_text(text, errors="surrogatepass")
    (zoo / "train.txt").write_text(f"good\n{name.removesuffix('.png')}\n", errors="surrogatepass")
    return {"format": "voc", "train": {"images": "images", "annotations": "train.txt"}}


def yolo(zoo: Path, name: str) -> dict[str, Any]:
    (zoo / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    (zoo / "train.txt").write_text(f"images/good.png\n./images/{name}\n{name}\n", errors="surrogatepass")
    return {"format": "yolo", "train": {"images": "images", "annotations": "train.txt"}}


def openimages(zoo: Path, name: str) -> dict[str, Any]:
    with (zoo / "boxes.csv").open("w", newline="", errors="surrogatepass") as file:
        head = ["ImageID", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]
        csv.writer(file).writerows([head, [name.removesuffix(".png"), "cat", 1, 0.1, 0.5, 0.1, 0.5]])
    return {"format": "openimages", "train": {"images": "images", "annotations": "boxes.csv"}}


@pytest.mark.parametrize("write", [coco, sheet, voc, yolo, openimages], ids=lambda write: write.__name__)
def test_no_format_lets_a_hostile_name_out(
    farm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], dict[str, Any]]
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    zoo, refused = farm / "zoo", 0
    for name in hostile(farm):
        config = DatasetConfig.model_validate(write(zoo, name))
        with watching(zoo, tmp_path) as outside:
            try:
                source = open_source("zoo", config, "train", farm / "zoo")
                for index in range(len(source)):
                    source.read(index)
            except UnifiedError as error:
                refused += 1
                assert str(error).isprintable(), repr(name)
        assert outside == [], repr(name)
    assert refused > 0
