# SPDX-License-Identifier: Apache-2.0
"""``unified-track``: videos in; MOTChallenge lines, JSON and a drawn video of their tracks out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, DataError

if TYPE_CHECKING:
    from unified.inference.track_scores import TrackScores
    from unified.inference.tracker import TrackerSettings

Entry = dict[str, Any]

app = make_app()


@app.command()
def track(
    folder: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run or of a model.")] = None,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="VIDEO...", help="Videos, folders of frames, patterns, or camera:0.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the tracks and drawn videos.")] = Path("tracks"),
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", "--conf", min=0, max=1, metavar="SHARE", help="Least score that begins a track."),
    ] = None,
    memory: Annotated[
        int | None, typer.Option(min=0, metavar="FRAMES", help="For which a lost object may be found again.")
    ] = None,
    appearance: Annotated[
        float | None,
        typer.Option(min=0, max=2, metavar="DISTANCE", help="Greatest cosine distance of one object's boxes."),
    ] = None,
    across_classes: Annotated[
        bool, typer.Option("--across-classes", help="A track's boxes may be of different classes.")
    ] = False,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Frames a pass; more than 1 pays on a GPU.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many of each video.")] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, metavar="N", help="Frames a second of pictures and cameras, for the drawing.")
    ] = 25.0,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Whether to draw.")] = True,
    mot: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A benchmark's folder: track its detections (with RUN its frames); score."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Follow the objects of videos: boxes and appearances in one pass a frame, one number an object."""
    import unified
    from unified.inference.tracker import TrackerSettings

    given = {"confidence": confidence, "memory": memory, "appearance": appearance}
    words: Entry = {name: value for name, value in given.items() if value is not None}
    if confidence is not None:
        words["low"] = min(TrackerSettings.low, confidence)
    asked: Entry = {"settings": TrackerSettings(across_classes=across_classes, **words)}
    asked |= {"size": size, "batch_size": batch}
    if (mot is None) == (not sources) or (folder is None and mot is None):
        raise ConfigError("give RUN and VIDEO..., or --mot FOLDER with or without RUN; see --help")
    videos = videos_in(sources or ())
    model = None if folder is None else unified.load(folder)
    job = _Job(out, frames, rate if draw else None, quiet=as_json)
    scores = [] if mot is None else _benchmark(mot, model, job, asked)
    if mot is None:
        job.videos(model, videos, asked)
    _told(job, as_json, scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def videos_in(words: Sequence[str]) -> list[tuple[Any, str]]:
    """What each word holds, and its name: videos, each for itself, and pictures, which follow each other.

    Raises:
        DataError: a word that names nothing, or a URL; or two videos of one name.
    """
    from unified.inference.source import files_at, is_video
    from unified.inference.video import VIDEOS

    found: list[tuple[Any, str]] = []
    for word in words:
        if word.startswith("camera:") and word[7:].isdigit():
            found.append((int(word[7:]), f"camera-{word[7:]}"))
            continue
        path = Path(word)
        films = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEOS) if path.is_dir() else []
        files = films or files_at(word)
        found += [(p, p.stem) for p in files if is_video(p)]
        stills = [p for p in files if not is_video(p)]
        found += [(stills, (path if path.is_dir() else stills[0].absolute().parent).resolve().name)] if stills else []
    names = [name for _, name in found]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{names.count(name)} videos are called '{name}', and so would be their tracks; one a call")
    return found


class _Job:
    """What one call of the command has to do, and what became of it."""

    def __init__(self, out: Path, frames: int | None, rate: float | None, quiet: bool) -> None:
        self.out, self.frames, self.quiet = out, frames, quiet
        self.rate = rate  # frames a second where a source does not say; None: nothing is drawn
        self.entries: list[Entry] = []
        self.failed = 0

    def videos(self, model: Any, videos: Sequence[tuple[Any, str]], asked: Entry) -> None:
        """Follows one video after another; a damaged one costs one line on standard error, and keeps its good frames.

        Raises:
            DataError: there is only one, and not one frame of it can be read.
        """
        for source, name in videos:
            before = len(self.entries)
            try:
                self.video(model, source, name, asked)
            except DataError as error:
                kept = len(self.entries) > before
                if len(videos) == 1 and not kept:
                    raise
                told = f"; the tracks of {self.entries[-1]['frames']} frames are kept" if kept else ""
                print(f"error: {error}{told}", file=sys.stderr)
                self.failed += 1

    def video(self, model: Any, source: Any, name: str, asked: Entry) -> None:
        """Follows one video and notes what was written, also where it ends in an error.

        Raises:
            DataError: it is damaged.
        """
        from unified.cli.progress import Bar
        from unified.inference.trackfiles import TrackFiles

        files = TrackFiles(self.out, name, self._rate(source))
        if isinstance(source, Path) and source.resolve() in [path.resolve() for path in files.paths]:
            raise ConfigError(f"--out {self.out}: would overwrite {source}; choose another folder")
        start = time.perf_counter()
        try:
            with Bar(f"frames of {name}", self._length(source), quiet=self.quiet) as bar, files:
                for result in islice(model.track(source, **asked), self.frames):
                    files.add(result)
                    bar.add(1)
        finally:
            if files.frames:
                rate = round(files.frames / (time.perf_counter() - start), 2)
                counts = {"frames": files.frames, "tracks": len(files.tracks), "rate": rate}
                self.entries.append({"name": name, **counts, **files.told()})

    def _rate(self, source: Any) -> Fraction | None:
        from unified.inference.video import frame_rate

        if self.rate is None:
            return None
        return frame_rate(source) if isinstance(source, Path) else Fraction(self.rate).limit_denominator(1001)

    def _length(self, source: Any) -> int | None:
        from unified.inference.video import frame_count

        count = frame_count(source) if isinstance(source, Path) else len(source) if isinstance(source, list) else None
        return count if self.frames is None else min(self.frames, count or self.frames)


def _told(job: _Job, as_json: bool, scores: Sequence[TrackScores] = ()) -> None:
    """What was done, and the exit code."""
    if as_json:
        told: Entry = {"videos": job.entries}
        print(json.dumps({**told, "scores": [asdict(each) for each in scores]} if scores else told))
    else:
        for entry in job.entries:
            drawn = f", drawn in {entry['drawn']}" if "drawn" in entry else ""
            counts = f"{entry['tracks']} tracks in {entry['frames']} frames, {entry['rate']:.1f} frames a second"
            print(f"{entry['name']}: {counts}: {entry['mot']}{drawn}")
            if not entry["tracks"]:
                print(f"note: {entry['name']}: no track; lower --confidence if scores are low", file=sys.stderr)
        _table(scores)
    if job.failed:
        raise typer.Exit(1)


def _table(scores: Sequence[TrackScores]) -> None:
    if not scores:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    heads = ("IDF1", "MOTA", "precision", "recall", "switches", "misses", "false", "objects", "mostly tracked")
    table = Table("sequence", *heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in scores:
        shares = (each.idf1, each.mota, each.precision, each.recall)
        counts = (each.switches, each.misses, each.false_positives, each.objects, each.mostly_tracked)
        table.add_row(each.name, *(f"{share:.3f}" for share in shares), *(str(count) for count in counts))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _benchmark(folder: Path, model: Any, job: _Job, asked: Entry) -> list[TrackScores]:
    """Follows every sequence of a benchmark's folder; scores where there is a truth to all of them."""
    from unified.inference.motchallenge import read_tracks, sequences_in
    from unified.inference.source import pictures_in
    from unified.inference.track_scores import score_tracks

    sequences = sequences_in(folder)
    for each in sequences:
        if model is not None and each.pictures is None:
            raise DataError(f"sequence '{each.name}' has no frames in img1, on which a model could look")
        if model is None and each.detections is None:
            raise DataError(f"sequence '{each.name}' has no det.txt; give a RUN, which finds its own boxes")
    for each in sequences:
        if model is not None and each.pictures is not None:
            job.videos(model, [(pictures_in(each.pictures), each.name)], asked)
        elif each.detections is not None:
            job.entries.append(_from_detections(each.name, each.detections, job, asked["settings"]))
    truths = {each.name: read_tracks(each.truth, truth=True) for each in sequences if each.truth is not None}
    if len(truths) < len(sequences):
        return []
    return score_tracks({e["name"]: (truths[e["name"]], read_tracks(Path(e["mot"]))) for e in job.entries})


def _from_detections(name: str, path: Path, job: _Job, settings: TrackerSettings) -> Entry:
    from unified.disk import write_bytes
    from unified.inference.motchallenge import as_text, read_tracks, track_detections

    found, start = read_tracks(path), time.perf_counter()
    tracks = track_detections(found, settings, job.frames)
    rate = round(found.last / max(time.perf_counter() - start, 1e-9), 2)
    target = job.out / f"{name}.txt"
    write_bytes(target, as_text(tracks).encode())
    return {
        "name": name,
        "frames": found.last,
        "tracks": len(set(tracks.ids.tolist())),
        "rate": rate,
        "mot": str(target),
    }
