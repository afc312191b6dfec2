# SPDX-License-Identifier: Apache-2.0
"""``unified-app``: a page in the browser that shows what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, make_app, run, split_names
from unified.contracts.errors import needs

if TYPE_CHECKING:
    from unified.index.protocol import VectorIndex
    from unified.inference.model import UnifiedModel

app = make_app()


@app.command(name="app")
def show(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a run or of a model.")],
    pictures: Annotated[list[str] | None, typer.Argument(metavar="[PICTURES]...", help="To choose from.")] = None,
    index: Annotated[
        str | None, typer.Option(metavar="INDEX", help="Show nearest pictures: what unified-search index made.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Of loopback.")] = 8501,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Load only these tasks.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda:0 ...")] = "auto",
    max_upload: Annotated[int, typer.Option(min=1, metavar="MB", help="The largest picture.")] = 16,
    debug: Debug = False,
) -> None:
    """Open a page on loopback that shows what a model sees in a picture."""
    launch = _launch()
    import unified
    from unified.app.sitting import Sitting, hold
    from unified.inference.source import files_at, is_video

    launch.check_port(port)
    found = tuple(path for word in pictures or () for path in files_at(word) if not is_video(path))
    model = unified.load(folder, device=device, tasks=split_names(tasks))
    hold(Sitting(folder.resolve().name, model, _index(index, model), found))
    model.warmup()
    print(f"http://{launch.ADDRESS}:{port}  (Ctrl-C ends it)", flush=True)
    launch.launch(port, max_upload)


def _index(where: str | None, model: UnifiedModel) -> VectorIndex | None:
    if where is None:
        return None
    from unified import index
    from unified.index.query import check_model

    opened = index.open(where)
    check_model(opened.layout, model)
    return opened


def _launch() -> Any:
    """Streamlit belongs to an extra."""
    try:
        from unified.app import launch
    except ImportError as error:
        raise needs("unified-app", (error.name or "streamlit").partition(".")[0], "app") from None
    return launch


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
