# SPDX-License-Identifier: Apache-2.0
"""A place for every file that the project reads, and every way that leads to it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import menagerie
import tiny
from specimen import specimen

import unified
from unified.checkpoint import load_checkpoint
from unified.contracts.config import DatasetConfig
from unified.contracts.document import load_run_config, read_run_config
from unified.contracts.errors import UnifiedError
from unified.data.formats.store import read_table, write_table
from unified.data.picture import read_picture
from unified.data.shapes.store import ShapesStore, intact
from unified.data.source import open_source
from unified.disk import write_new
from unified.manifest import MANIFEST, STATE, Entry, Manifest
from unified.shelf import Shelf
from unified.trained import load_trained, trained_config
from unified.training.folder import RunFolder

Load = Callable[[], object]


@dataclass(frozen=True)
class Slot:
    """A file that is read, and who reads it."""

    file: Path
    loads: Mapping[str, Load]
    seal: Callable[[], object] = lambda: None  # makes sums fit again, as one who forges a file would


def command(name: str, *words: object) -> Load:
    """A command of the project with its words; what it prints is not shown."""

    def call() -> None:
        main = importlib.import_module(f"unified.cli.{name}").main
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            try:
                main([str(word) for word in words])
            except SystemExit as end:
                if "internal error" in quiet.getvalue() or end.code not in (0, 1, 2):
                    raise RuntimeError(quiet.getvalue()[-200:]) from end

    return call


def forge(folder: Path) -> None:
    """A manifest, and pointers, that fit whatever now lies in the folder of a checkpoint."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    import hashlib

    sums = {name: Entry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    (folder / MANIFEST).unlink(missing_ok=True)
    digest, _ = write_new(folder / MANIFEST, [Manifest(sums, folder.name).dump()])
    for pointer in ("last", "best"):
        (folder.parent / pointer).write_text(json.dumps({pointer: folder.name, "manifest": digest}) + "\n")


def a_run(root: Path) -> list[Slot]:
    """The files of a run's folder."""
    run = RunFolder(root / "run", say=lambda line: None)
    (root / "files").mkdir()
    config, _ = tiny.config(root / "files")
    run.path.mkdir()
    run.write_config(config)
    run.log({"step": 1})
    run.write_metrics({"det/AP50": 0.5})
    step = run.save(1, specimen(1), best=True)
    picture = root / "picture.png"
    menagerie.draw(root, menagerie.PICTURES[:1])
    (root / "a.png").rename(picture)
    loads: dict[str, Load] = {
        "load_checkpoint": lambda: load_checkpoint(step),
        "RunFolder.load": lambda: run.load("last"),
        "Shelf.load, best": lambda: Shelf(run.checkpoints).load("best", ("ema",), say=lambda line: None),
        "unified.load": lambda: unified.load(run.path),
        "load_trained": lambda: load_trained(step),
        "trained_config": lambda: trained_config(run.path),
        "unified-train --resume": command("train", "--resume", run.path, "--quiet"),
        "unified-train --resume --dry-run": command("train", "--resume", run.path, "--dry-run"),
        "unified-train --from": command("train", "--from", run.path, "--dry-run"),
        "unified-predict": command("predict", run.path, picture, "--out", root / "drawn"),
        "unified-eval": command("eval", run.path),
        "unified-inspect": command("inspect", run.path),
    }
    sealed = {
        file: lambda: forge(step) for file in (step / "ema.safetensors", step / "model.safetensors", step / STATE)
    }
    open_ = [step / MANIFEST, run.checkpoints / "last", run.checkpoints / "best"]
    slots = [Slot(file, loads, seal) for file, seal in sealed.items()] + [Slot(file, loads) for file in open_]
    of_config = {"read_config": run.read_config, "read_run_config": lambda: read_run_config(run.path / "config.yaml")}
    resumes = {name: load for name, load in loads.items() if "resume" in name}
    slots += [Slot(run.path / "config.yaml", of_config | resumes)]
    slots += [Slot(run.path / "log.jsonl", {"trim_log": lambda: run.trim_log(1)})]
    slots += [Slot(run.path / "metrics.json", {"read_metrics": run.read_metrics})]
    return slots


def documents(root: Path) -> list[Slot]:
    """Model, data and recipe files."""
    files = root / "documents"
    files.mkdir()
    model, data, recipe = tiny.write_model(files), tiny.write_data(files), tiny.write_recipe(files)
    words = ("--model", model, "--data", data, "--recipe", recipe, "--tasks", "det", "--dry-run", "--no-lint")
    loads: dict[str, Load] = {
        "load_run_config": lambda: load_run_config(model=model, data=data, tasks=("det",), recipe=recipe),
        "unified-train --dry-run": command("train", *words),
    }
    slots = [Slot(Path(recipe), loads)]
    slots += [Slot(Path(model), loads | {"unified-inspect": command("inspect", model)})]
    slots += [Slot(Path(data), loads | {"unified-lint": command("lint", data)})]
    return slots


ANNOTATIONS = {
    "coco": ("train.json",),
    "voc": ("Annotations/a.xml", "ImageSets/Main/train.txt"),
    "yolo": ("labels/train/a.txt", "data.yaml"),
    "sheet": ("train.csv",),
    "openimages": ("train-annotations-bbox.csv", "class-descriptions.csv"),
}
PICTURE = {"coco": "images/a.png"}


def datasets(root: Path) -> list[Slot]:
    """Annotations of every format, a picture, and an index kept of a dataset."""
    slots = []
    for kind, names in ANNOTATIONS.items():
        place = root / kind
        place.mkdir()
        said = {"path": ".", **getattr(menagerie, kind)(place), "labelled": {"det": "all"}}
        document = place / "described.yaml"
        document.write_text(json.dumps(said))
        loads: dict[str, Load] = {
            "open_source": _reader(said, place),
            "unified-lint": command("lint", document),
            "a folder as data": command("train", "--data", place, "--tasks", "det", "--dry-run"),
        }
        slots += [Slot(place / name, loads) for name in names]
        if kind in PICTURE:
            picture = place / PICTURE[kind]
            slots += [Slot(picture, loads | {"read_picture": lambda picture=picture: read_picture(picture)})]
    return slots


def _reader(said: dict[str, Any], place: Path) -> Load:
    def read() -> None:
        source = open_source("zoo", DatasetConfig.model_validate(said), "train", place)
        for index in range(len(source)):
            with contextlib.suppress(UnifiedError):
                source.read(index)

    return read


def caches(root: Path) -> list[Slot]:
    """Rendered scenes and indexes in the cache folder, whose sums are forged too."""
    place = root / "table"
    place.mkdir()
    said = {"path": ".", **menagerie.coco(place)}
    source: Any = open_source("zoo", DatasetConfig.model_validate(said), "train", place)
    index = root / "index"
    write_table(index, source.table)
    loads: dict[str, Load] = {"read_table": lambda: read_table(index)}
    slots = [Slot(index / name, loads) for name in ("table.json",)]
    slots += [Slot(index / "offsets.npy", loads, lambda: _forge_table(index, "offsets"))]
    shapes = ShapesStore.open("train", count=2, size=64, root=root, processes=1).folder
    what = json.loads((shapes / "meta.json").read_text())["what"]
    kept: dict[str, Load] = {"ShapesStore": lambda: ShapesStore(shapes)[0], "intact": lambda: intact(shapes, what)}
    slots += [Slot(shapes / name, kept) for name in ("images.npy", "captions.npy", "labels.npy", "meta.json")]
    return slots


def _forge_table(folder: Path, name: str) -> None:
    import zlib

    _, text = json.loads((folder / "table.json").read_text())
    meta = json.loads(text)
    meta["sums"][name] = zlib.crc32((folder / f"{name}.npy").read_bytes())
    text = json.dumps(meta)
    (folder / "table.json").write_text(json.dumps([zlib.crc32(text.encode()), text]))


def models(root: Path) -> list[Slot]:
    """Files of other projects, a file where a folder belongs, and a model that was handed on."""
    slots = []
    for name in ("official.pt", "official.weights"):
        file = root / name
        file.write_bytes(b"x")
        loads: dict[str, Load] = {
            "import_yolor": lambda file=file: unified.import_yolor(file),
            "unified-import": command("import_", file, "--out", root / "imported"),
            "unified.load of a file": lambda file=file: unified.load(file),
            "unified-train --from a file": command("train", "--from", file, "--dry-run"),
        }
        slots.append(Slot(file, loads))
    pack = root / "pack"
    pack.mkdir()
    (pack / "config.json").write_text(json.dumps({"format": 1}))
    (pack / "model.safetensors").write_bytes(b"x")
    handed: dict[str, Load] = {
        "unified.load of a pack": lambda: unified.load(pack),
        "unified-train --from a pack": command("train", "--from", pack, "--dry-run"),
    }
    return [*slots, Slot(pack / "config.json", handed), Slot(pack / "model.safetensors", handed)]


def house(root: Path) -> list[Slot]:
    """Everything, below ``root``."""
    os.environ["UNIFIED_CACHE"] = str(root / "cache")
    return [*a_run(root), *documents(root), *datasets(root), *caches(root), *models(root)]
