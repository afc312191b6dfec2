# SPDX-License-Identifier: Apache-2.0
"""``unified-search``: an index of a folder's pictures; what is like a picture or a box; duplicates and clusters."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from unified.index.protocol import VectorIndex
    from unified.index.tile import Section
    from unified.inference.model import UnifiedModel

LEVELS, BACKENDS = ("image", "box"), ("exact", "lance")
PRECISIONS = ("float32", "float16", "int8", "binary")

Where = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or a LanceDB address.")]
Model = Annotated[
    Path | None, typer.Option("--model", metavar="RUN", help="The model; where the index says it lay if not given.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda:0 ...")]
Sheet = Annotated[Path | None, typer.Option("--sheet", metavar="FILE", help="Draw what was found (.png, .jpg).")]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Show what was found on a page.")]

app = make_app()


@app.callback()
def search() -> None:
    """Find pictures by what they show.

    ``unified-search --text "a dog on a sofa" INDEX`` is short for the command ``text``.
    """


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a model.")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Folders, files, patterns, lists (.txt).")],
    out: Annotated[str, typer.Option(metavar="INDEX", help="A folder; for LanceDB also s3://bucket/name and alike.")],
    level: Annotated[
        str, typer.Option(metavar="NAME", help="image or box: a row a picture, or a found box.")
    ] = "image",
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="exact, or lance (extra 'index').")] = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help="float32, float16, int8 or binary.")] = "float32",
    truncate: Annotated[int | None, typer.Option(min=1, metavar="D", help="Keep the first D numbers.")] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", "--conf", min=0, max=1, metavar="SHARE", help="Least score of a box.")
    ] = 0.25,
    tags: Annotated[
        float, typer.Option("--tag-score", min=0, max=1, metavar="SHARE", help="Least score of a tag to search by.")
    ] = 0.5,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove pictures that are gone from the folders.")] = False,
    state: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For what is known of the pictures; with the index.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures a pass.")] = 16,
    shard: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures added at once.")] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads that read pictures.")] = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Bring pictures into an index. Call it again when there are more: only what is new or changed is looked at."""
    _known(("--level", level, LEVELS), ("--precision", precision, PRECISIONS), ("--backend", backend, BACKENDS))
    from unified.cli.progress import Bar
    from unified.index.folder import Order, index_folder

    place = None if state is None else str(state)
    words: dict[str, Any] = {"level": level, "precision": precision, "size": size, "confidence": confidence}
    words |= {"tags": tags, "truncate_dim": truncate, "prune": prune, "state": place, "backend": backend}
    words |= {"batch": batch, "shard_size": shard, "workers": workers, "device": device}
    with Bar("pictures", quiet=as_json) as bar:
        done = index_folder(Order(str(folder), tuple(sources), out, **words), begin=bar.of, say=bar.add)
    if as_json:
        print(json.dumps({k: v for k, v in asdict(done).items() if k != "why"}))
    else:
        gone = f", {done.removed:,} gone" if done.removed else ""
        print(f"{done.rows:,} rows in {out}: {done.pictures:,} pictures, {done.looked_at:,} of them new{gone}")
        print(f"{done.seconds:.1f} s; space {done.space}")
    if done.failed:
        name, why = done.why[0]
        typer.echo(f"error: {done.failed} pictures cannot be read, such as {name}: {why}", err=True)
        raise typer.Exit(1)


@app.command()
def image(
    where: Where,
    pictures: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Pictures to find the like of.")],
    box: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Ask about this part of the picture (pixels).")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--count", min=1, metavar="N", help="Neighbours.")] = 10,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only with this tag; may be repeated.")] = None,
    no_tag: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only without this tag.")] = None,
    name: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only boxes of this class.")] = None,
    least_score: Annotated[float | None, typer.Option(metavar="SHARE", help="Only boxes of this score.")] = None,
    least_side: Annotated[float | None, typer.Option(metavar="PIXELS", help="Only boxes of this side.")] = None,
    itself: Annotated[bool, typer.Option("--itself/--not-itself", help="Whether the query may be found.")] = False,
    confidence: Annotated[
        float, typer.Option("--confidence", "--conf", min=0, max=1, help="Of boxes found in the query.")
    ] = 0.25,
    model: Model = None,
    device: Device = "auto",
    sheet: Sheet = None,
    html: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find what is like a picture, or like a box in it.

    An index of boxes answers for every box that is found in the query, or for the one given.
    """
    from unified.index import Filter
    from unified.index.query import ask
    from unified.index.tile import answers, shown

    found_in, there = _opened(where), _corners(box)
    asked = Filter(tuple(tag or ()), tuple(no_tag or ()), tuple(name or ()), least_score, least_side)
    network = _loaded(found_in, where, model, device)
    found = [
        answer
        for picture in pictures
        for answer in ask(found_in, network, picture, there, k, asked, confidence, itself)
    ]
    if as_json:
        print(json.dumps([answer.to_dict() for answer in found]))
    else:
        for answer in found:
            corners = "" if answer.box is None else f" at {', '.join(f'{v:.0f}' for v in answer.box)}"
            print(f"{f'{answer.name} in ' if answer.name else ''}{shown(answer.picture)}{corners}")
            for hit in answer.hits:
                print(f"  {hit.score:.4f}  {hit.row.name or '':12s} {shown(hit.path)}".replace(" " * 13, " "))
        if not found:
            print("no box was found in the query; give --box, or a lower --confidence")
    _show(answers(found), "Search", where, sheet, html, as_json)


@app.command()
def text(
    where: Where,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What the pictures should show, in quotes.")],
    k: Annotated[int, typer.Option("-k", "--count", min=1, metavar="N", help="Neighbours.")] = 10,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only with this tag; may be repeated.")] = None,
    no_tag: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only without this tag.")] = None,
    model: Model = None,
    device: Device = "auto",
    sheet: Sheet = None,
    html: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the pictures that show what a text says, with a model that learned from captions (extra 'text')."""
    from unified.index import Filter
    from unified.index.text import search_texts
    from unified.index.tile import Section, shown, tile_of

    found_in = _opened(where)
    network = _loaded(found_in, where, model, device)
    found = search_texts(found_in, network, texts, k, Filter(tuple(tag or ()), tuple(no_tag or ())))
    if as_json:
        told = zip(texts, found, strict=True)
        print(json.dumps([{"query": said, "hits": [hit.to_dict() for hit in hits]} for said, hits in told]))
    else:
        for said, hits in zip(texts, found, strict=True):
            print(f'"{said}"')
            for hit in hits:
                print(f"  {hit.score:.4f}  {shown(hit.path)}")
    sections = [
        Section(f'"{said}"', f"{len(hits)} nearest", [tile_of(hit.row, f"{hit.score:.3f}") for hit in hits])
        for said, hits in zip(texts, found, strict=True)
    ]
    _show(sections, "Search", where, sheet, html, as_json)


@app.command()
def duplicates(
    where: Where,
    threshold: Annotated[float, typer.Option(min=-1, max=1, metavar="COSINE", help="From which two count.")] = 0.9,
    confirm: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Look at the pictures' fine structure, too.")
    ] = True,
    sheet: Sheet = None,
    html: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find pictures that are in an index more than once: copies, rescaled and recompressed ones."""
    from unified.cli.progress import Bar
    from unified.index.duplicates import duplicates as groups_of
    from unified.index.tile import groups, shown

    found_in = _opened(where)
    with Bar("rows", len(found_in), quiet=as_json) as bar:
        found = groups_of(found_in, threshold, confirm, say=bar.add)
    if as_json:
        print(json.dumps([group.to_dict() for group in found]))
    else:
        for group in found:
            print(f"{group.least:.4f}  {'  '.join(shown(row.path) for row in group.rows)}")
        more = sum(len(group.rows) - 1 for group in found)
        print(f"{len(found):,} groups among {len(found_in):,} rows; {more:,} rows could go")
    _show(groups(found), "Near-duplicates", where, sheet, html, as_json)


@app.command()
def clusters(
    where: Where,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many; as many as there are if not given.")
    ] = None,
    least: Annotated[int, typer.Option(min=2, metavar="N", help="Rows of the smallest, without --count.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", help="Of k-means, with --count.")] = 0,
    sheet: Sheet = None,
    html: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sort the rows of an index into clusters of pictures or boxes that are alike."""
    from unified.index.clusters import clusters as clusters_of
    from unified.index.tile import clustered, shown

    found = clusters_of(_opened(where), count, least, seed)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        for k, cluster in enumerate(found.clusters):
            names = "  ".join(shown(row.path) for row in cluster.rows[:3])
            print(f"{k + 1:4d}  {len(cluster.rows):6,} rows  closeness {cluster.closeness:.3f}  {names}")
        print(f"{len(found.clusters)} clusters; {len(found.loose):,} rows in none")
    _show(clustered(found), "Clusters", where, sheet, html, as_json)


@app.command()
def info(where: Where, as_json: Json = False, debug: Debug = False) -> None:
    """Tell what an index holds, and whether all of it is as it was written."""
    found = _opened(where)
    layout = {key: value for key, value in asdict(found.layout).items() if value is not None and key != "ranges"}
    told = {"index": where, "backend": type(found).__name__, "rows": len(found), **layout}
    print(json.dumps(told) if as_json else "\n".join(f"{key:10s} {value}" for key, value in told.items()))


@app.command()
def remove(
    where: Where,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Rows, as --json tells them.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove rows from an index."""
    gone = _opened(where).delete(ids)
    print(json.dumps({"removed": gone}) if as_json else f"{gone} of {len(ids)} rows removed")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, _with_command(sys.argv[1:] if argv is None else argv))


def _with_command(words: Sequence[str]) -> list[str]:
    """``--text TEXT`` without a command before it, as words of the command ``text``; others as they are."""
    commands = {each.name or each.callback.__name__ for each in app.registered_commands if each.callback}
    rest, texts = list(words), []
    if not commands & set(rest[:1]):
        while "--text" in rest[:-1]:
            at = rest.index("--text")
            texts.append(rest.pop(at + 1))
            rest.pop(at)
    return ["text", *rest, "--", *texts] if texts else rest


def _opened(where: str) -> VectorIndex:
    from unified.index import open as open_index

    return open_index(where)


def _loaded(index: VectorIndex, where: str, given: Path | None, device: str) -> UnifiedModel:
    """The model that made an index, checked."""
    from unified.index.query import check_model
    from unified.inference.model import load

    place = given or (Path(index.layout.model) if index.layout.model else None)
    if place is None or (given is None and not place.exists()):
        was = f" (it was {place})" if place else ""
        raise ConfigError(f"the model of {where} is not where it was{was}; give --model RUN")
    model = load(place, device)
    check_model(index.layout, model)
    return model


def _show(sections: list[Section], title: str, where: str, sheet: Path | None, html: Path | None, quiet: bool) -> None:
    if sheet is not None:
        from unified.index.sheet import save_sheet

        save_sheet(sections, sheet)
    if html is not None:
        from unified.index.page import save_page

        save_page(f"{title}: {where}", f"{len(sections)} sections", sections, html)
    for path in (sheet, html):
        if path is not None and not quiet:
            print(f"see {path}")


def _corners(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--box: '{text}' is not X0,Y0,X1,Y1 in pixels, such as 10,20,200,180") from None
    return x0, y0, x1, y1


def _known(*options: tuple[str, str | None, tuple[str, ...]]) -> None:
    for option, word, known in options:
        if word is not None and word not in known:
            raise ConfigError(f"{option}: unknown word '{word}'{suggestion(word, known)}")
