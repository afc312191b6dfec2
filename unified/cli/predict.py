# SPDX-License-Identifier: Apache-2.0
"""``unified-predict``: pictures and videos in; drawn ones, one JSON file and, if asked, COCO's out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from unified.contracts.structures import Prediction

Entry = dict[str, Any]

app = make_app()


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a model.")],
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="Files, folders, patterns, videos, or camera:0.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For drawn pictures and predictions.json.")] = Path(
        "predictions"
    ),
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Only these tasks.")] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", "--conf", min=0, max=1, metavar="SHARE", help="Least score of a box."),
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures a pass; more than 1 pays on a GPU.")] = 1,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many of a video or camera.")
    ] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Write whole vectors.")] = False,
    coco: Annotated[bool, typer.Option("--coco", help="Write coco.json too: boxes as COCO annotations.")] = False,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Whether to draw.")] = True,
    fuse: Annotated[bool, typer.Option("--fuse", help="Quicker; answers equal to rounding.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict boxes, tags and embeddings of pictures in one pass each."""
    import unified
    from unified.cli.progress import Bar

    stills, films = sorted_out(pictures, out)
    targets = dict(named_apart(stills, out))
    asked = {"tasks": split_names(tasks), "confidence": confidence, "size": size}
    options = {name: value for name, value in asked.items() if value is not None}
    job = _Job(unified.load(folder, fuse=fuse), out, options, embeddings, draw)
    with Bar("pictures", len(targets) or None, quiet=as_json or not len(targets) > 1) as bar:
        for some in _groups(list(targets.items()), batch):
            lines = job.pictures(some)
            bar.add(len(some))
            for line in lines if not as_json else ():
                print(line)
    for film, name in films:
        with Bar(f"frames of {name}", frames, quiet=as_json) as bar:
            told = job.film(film, name, frames, bar.add)
        if told and not as_json:
            print(told)
    _finish(job, coco, as_json)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _finish(job: _Job, coco: bool, as_json: bool) -> None:
    """The files of the whole call, and its exit code."""
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "predictions.json").write_text(json.dumps(job.entries, indent=1), encoding="utf-8")
    if coco:
        (job.out / "coco.json").write_text(json.dumps(as_coco(job.entries, job.names), indent=1), encoding="utf-8")
    if as_json:
        print(json.dumps(job.entries))
    else:
        what = "pictures" if not any("frames" in entry for entry in job.entries) else "pictures and videos"
        print(f"{len(job.entries)} {what} in {job.out}, all numbers in {job.out / 'predictions.json'}")
    if job.failed:
        raise typer.Exit(1)


def sorted_out(words: Sequence[str], out: Path) -> tuple[list[Path], list[tuple[Any, str]]]:
    """Pictures, each once and in order, and videos or cameras with their names.

    Raises:
        DataError: a word that names nothing, or a URL.
    """
    from unified.inference.source import files_at, is_video, pictures_in

    stills: dict[Path, None] = {}
    films: dict[Path | int, str] = {}
    for word in words:
        if word.startswith("camera:") and word[7:].isdigit():
            films[int(word[7:])] = f"camera-{word[7:]}"
            continue
        path = Path(word)
        found = pictures_in(path, without=out) if path.is_dir() else files_at(word)
        if not found:
            raise DataError(f"no picture at '{word}'; give files, folders or patterns such as 'photos/*.jpg'")
        films.update({p: p.stem for p in found if is_video(p)})
        stills.update({p: None for p in found if not is_video(p)})
    return list(stills), list(films.items())


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


class _Job:
    """What one call of the command has to do, and what became of it."""

    def __init__(self, model: Any, out: Path, options: dict[str, Any], embeddings: bool, draw: bool) -> None:
        self.model, self.out, self.options = model, out, options
        self.embeddings, self.draw = embeddings, draw
        self.entries: list[Entry] = []
        self.names: tuple[str, ...] = ()  # of the box classes
        self.failed = 0

    def pictures(self, some: Sequence[tuple[Path, Path]]) -> list[str]:
        """Looks at pictures in one pass; returns a line about each. A damaged one costs one line on standard error."""
        opened = [(path, target, image) for path, target in some if (image := self._open(path)) is not None]
        if not opened:
            return []
        images = [image for _, _, image in opened]
        found = (
            [self.model.predict(images[0], **self.options)]
            if len(images) == 1
            else self.model.predict(images, batch_size=len(images), **self.options)
        )
        return [self._told(*each, prediction) for each, prediction in zip(opened, found, strict=True)]

    def film(self, source: Path | int, name: str, most: int | None, done: Any) -> str | None:
        """Looks at every frame; writes a line of JSON for each and, if asked, a drawn video."""
        from contextlib import nullcontext

        from unified.inference.results import as_dict
        from unified.inference.video import DEFAULT_RATE, VideoWriter, frame_rate

        lines, drawn, count = self.out / f"{name}.jsonl", self.out / f"{name}.mp4", 0
        if isinstance(source, Path) and drawn.resolve() == source.resolve():
            raise DataError(f"--out {self.out}: would overwrite {source}; choose another folder")
        try:
            rate = frame_rate(source) if isinstance(source, Path) else DEFAULT_RATE
            self.out.mkdir(parents=True, exist_ok=True)
            with (
                lines.open("w", encoding="utf-8") as file,
                VideoWriter(drawn, rate) if self.draw else nullcontext() as writer,
            ):
                for result in islice(self.model.predict(source, stream=True, **self.options), most):
                    self.names = self.names or result.box_names
                    entry = {"frame": count, "seconds": result.origin.seconds, **as_dict(result, self.embeddings)}
                    file.write(json.dumps(entry) + "\n")
                    if writer is not None:
                        writer.add(result.plot())
                    count += 1
                    done(1)
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            self.failed += 1
        if not count:
            return None
        said: Entry = {"file": str(source), "frames": count, "predictions": str(lines)}
        self.entries.append({**said, "drawn": str(drawn)} if self.draw else said)
        return f"{name}: {count} frames in {lines}{f', drawn in {drawn}' if self.draw else ''}"

    def _open(self, path: Path) -> Image.Image | None:
        """Upright RGB, as the camera meant it; None, and one line said, where it cannot be read."""
        from unified.data.transforms import to_image
        from unified.inference.source import as_pixels

        try:
            return to_image(as_pixels(path))
        except DataError as error:
            print(f"error: {path}: cannot be read as a picture: {error}", file=sys.stderr)
            self.failed += 1
            return None

    def _told(self, path: Path, target: Path, image: Image.Image, prediction: Prediction) -> str:
        from unified.contracts.answer import captions
        from unified.inference.drawing import draw
        from unified.inference.results import as_dict

        entry: Entry = {"file": str(path)}
        if self.draw:
            target.parent.mkdir(parents=True, exist_ok=True)  # here, so that a wrong word leaves no empty folder
            draw(image, prediction).save(target, quality=92)
            entry["drawn"] = str(target)
        entry |= as_dict(prediction, self.embeddings)
        self.names = self.names or prediction.box_names
        self.entries.append(entry)
        return f"{path}: {_sentence(entry, captions(prediction))}"


def as_coco(entries: Sequence[Entry], names: Sequence[str]) -> Entry:
    """Boxes of pictures as a COCO file that annotation tools open; ``annotations`` alone are COCO's results format."""
    ids = {name: number for number, name in enumerate(names, 1)}
    images: list[Entry] = []
    annotations: list[Entry] = []
    for entry in entries:
        if "size" not in entry:  # a video
            continue
        images.append({"id": len(images) + 1, "file_name": entry["file"], **entry["size"]})
        for box in entry.get("boxes", ()):
            x0, y0, x1, y1 = box["box_xyxy"]
            said = {"id": len(annotations) + 1, "image_id": len(images), "category_id": ids[box["name"]]}
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append({**said, **shape, "score": box["score"]})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _groups(pairs: list[tuple[Path, Path]], size: int) -> Iterator[list[tuple[Path, Path]]]:
    return (pairs[start : start + size] for start in range(0, len(pairs), size))


def _sentence(entry: Entry, captions: Mapping[str, str]) -> str:
    """One line about one picture; ``captions``: what other tasks say in their own words."""
    parts = []
    if "boxes" in entry:
        counts: dict[str, int] = {}
        for box in entry["boxes"]:
            counts[box["name"]] = counts.get(box["name"], 0) + 1
        parts.append(", ".join(f"{n} {name}" for name, n in counts.items()) or "no boxes")
    likely = [name for name, score in entry.get("tags", {}).items() if score >= 0.5]
    parts += [f"tags {', '.join(likely)}"] if likely else []
    parts += ["1 embedding"] if "embedding" in entry else []
    told = {name: captions.get(name, "in extras") for name in entry.get("extras", {})}
    parts += [f"{name}: {words}" for name, words in told.items() if words]
    return "; ".join(parts) or "nothing asked for"
