# SPDX-License-Identifier: Apache-2.0
"""``unified-embed``: many pictures in; shards of vectors out, and the next call goes on where one was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, suggestion

LEVELS, ENGINES = ("image", "box"), ("local", "ray")
PRECISIONS = ("float32", "float16", "int8", "binary")

app = make_app()


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a model.")],
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders, files, patterns; a list of paths (.txt); or Parquet files."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the shards.")],
    level: Annotated[
        str, typer.Option(metavar="NAME", help="image or box: a vector a picture, or a found box.")
    ] = "image",
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="parquet, lance, safetensors; auto: Parquet with pyarrow.")
    ] = "auto",
    precision: Annotated[str, typer.Option(metavar="NAME", help="float32, float16, int8 or binary.")] = "float32",
    truncate: Annotated[
        int | None, typer.Option(min=1, metavar="D", help="Keep the first D numbers of a vector, at unit length.")
    ] = None,
    calibrate: Annotated[
        int, typer.Option(min=0, metavar="N", help="For int8: take the ranges from the first N pictures.")
    ] = 0,
    confidence: Annotated[
        float, typer.Option("--confidence", "--conf", min=0, max=1, metavar="SHARE", help="Least score of a box.")
    ] = 0.25,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a Parquet file: paths, or pictures' bytes.")
    ] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures a pass.")] = 16,
    shard: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures a shard.")] = 10_000,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads that read pictures; by the cores if not given.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="local, or ray: one machine or a cluster.")] = "local",
    actors: Annotated[int, typer.Option(min=1, metavar="N", help="Models at work, with --engine ray.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda:0 ...")] = "auto",
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Quicker; vectors equal to rounding, of the same space.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Embed pictures, or the boxes found in them, into shards."""
    for option, word, known in (
        ("--level", level, LEVELS),
        ("--precision", precision, PRECISIONS),
        ("--engine", engine, ENGINES),
    ):
        if word not in known:
            raise ConfigError(f"{option}: unknown word '{word}'{suggestion(word, known)}")
    from unified.cli.progress import Bar
    from unified.inference.bulk import Job
    from unified.inference.bulk import embed as run_job
    from unified.inference.shards import pick_format

    words: dict[str, Any] = {"level": level, "precision": precision, "form": pick_format(form)}
    job = Job(
        str(folder),
        tuple(sources),
        str(out),
        column=column,
        size=size,
        confidence=confidence,
        truncate_dim=truncate,
        shard_size=shard,
        batch=batch,
        device=device,
        workers=workers,
        fuse=fuse,
        **words,
    )
    with Bar("pictures", quiet=as_json) as bar:
        done = run_job(job, engine, actors, calibrate, begin=bar.of, say=bar.add)
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        rate = f", {done.pictures / done.seconds:.0f} pictures a second" if done.made == done.shards else ""
        made = f"{done.made} of {done.shards} shards made{rate}"
        print(f"{done.rows:,} vectors of {done.pictures:,} pictures in {out} ({made})")
        print(f"space {done.space}")
    if done.failed:
        typer.echo(f"error: {done.failed} pictures cannot be read; see {out / 'failed.jsonl'}", err=True)
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
