# SPDX-License-Identifier: Apache-2.0
"""``unified-predict``: pictures in; drawn pictures and one JSON file out."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from unified.contracts.structures import Prediction

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}

app = make_app()


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURES...", help="Files, folders or patterns.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For drawn pictures and predictions.json.")] = Path(
        "predictions"
    ),
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Only these tasks.")] = None,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="Least score of a box, 0 to 1.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Write whole vectors.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict boxes, tags and embeddings of pictures in one pass each."""
    import unified

    targets = dict(named_apart(find_pictures(pictures, out), out))
    asked = {"tasks": split_names(tasks), "confidence": confidence, "size": size}
    options = {name: value for name, value in asked.items() if value is not None}
    model = unified.load(folder)
    entries, failed = [], 0
    for path, target in targets.items():
        entry = _one(model, path, target, options, embeddings)
        failed += entry is None
        entries += [entry] if entry else []
        if entry and not as_json:
            print(f"{path}: {_sentence(entry)}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    if as_json:
        print(json.dumps(entries))
    else:
        print(f"{len(entries)} pictures in {out}, all numbers in {out / 'predictions.json'}")
    if failed:
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def find_pictures(words: Sequence[str], out: Path) -> list[Path]:
    """Files of the words a person gave: files, folders (searched to the bottom) and patterns; each once, in order.

    Raises:
        DataError: a word that names nothing.
    """
    found: dict[Path, None] = {}
    for word in words:
        paths = list(_matching(word, out))
        if not paths:
            raise DataError(f"no picture at '{word}'; give files, folders or patterns such as 'photos/*.jpg'")
        found.update(dict.fromkeys(paths))
    return list(found)


def _matching(word: str, out: Path) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        inside = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        yield from sorted(p for p in inside if path == out or out not in p.parents)  # not what an earlier call drew
    elif path.is_file():
        yield path
    else:
        yield from (Path(match) for match in sorted(glob.glob(word, recursive=True)) if Path(match).is_file())  # noqa: PTH207


def named_apart(files: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Each file with its drawn picture's path; files of one name in different folders stay apart.

    Raises:
        DataError: a drawn picture would take the place of a given one.
    """
    given, taken = {path.resolve() for path in files}, set[str]()
    for path in files:
        suffix = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = path.stem + suffix, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        taken.add(name)
        if (out / name).resolve() in given:
            raise DataError(f"--out {out}: would overwrite {path}; choose another folder")
        yield path, out / name


def _one(model: Any, path: Path, target: Path, options: dict[str, Any], embeddings: bool) -> dict[str, Any] | None:
    """One picture's entry; None, and one line said, where the picture is damaged."""
    from unified.inference.drawing import draw

    try:
        image = _open(path)
    except (OSError, SyntaxError, ValueError, MemoryError) as error:  # what Pillow's readers raise on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"error: {path}: cannot be read as a picture: {reason}", file=sys.stderr)
        return None
    prediction = model.predict(image, **options)
    target.parent.mkdir(parents=True, exist_ok=True)  # here, so that a wrong word leaves no empty folder
    draw(image, prediction).save(target, quality=92)
    return {"file": str(path), "drawn": str(target), **as_entry(prediction, embeddings)}


def _open(path: Path) -> Image.Image:
    """Upright RGB, as the camera meant it."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def as_entry(prediction: Prediction, embeddings: bool) -> dict[str, Any]:
    """A prediction in plain JSON: boxes in pixels of the upright picture, tags, and the lengths of the vectors."""
    height, width = prediction.size
    entry: dict[str, Any] = {"size": {"width": width, "height": height}}
    if prediction.boxes_xyxy is not None and prediction.labels is not None and prediction.scores is not None:
        rows = zip(prediction.boxes_xyxy.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
        entry["boxes"] = [
            {"name": prediction.box_names[label], "score": round(score, 4), "box_xyxy": [round(v, 2) for v in box]}
            for box, label, score in rows
        ]
    if prediction.tag_scores is not None:
        entry["tags"] = {name: round(score, 4) for name, score in prediction.tags.items()}
    if prediction.embedding is not None:
        vector = prediction.embedding.tolist()
        entry["embedding"] = vector if embeddings else len(vector)
    if prediction.box_embeddings is not None:
        vectors = prediction.box_embeddings
        entry["box_embeddings"] = vectors.tolist() if embeddings else list(vectors.shape)
    return entry


def _sentence(entry: dict[str, Any]) -> str:
    """One line about one picture."""
    parts = []
    if "boxes" in entry:
        counts: dict[str, int] = {}
        for box in entry["boxes"]:
            counts[box["name"]] = counts.get(box["name"], 0) + 1
        parts.append(", ".join(f"{n} {name}" for name, n in counts.items()) or "no boxes")
    likely = [name for name, score in entry.get("tags", {}).items() if score >= 0.5]
    parts += [f"tags {', '.join(likely)}"] if likely else []
    parts += ["1 embedding"] if "embedding" in entry else []
    return "; ".join(parts) or "nothing asked for"
