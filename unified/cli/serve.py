# SPDX-License-Identifier: Apache-2.0
"""``unified-serve``: a model over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.cli.command import Debug, make_app, run, split_names
from unified.contracts.errors import needs

_WHO, _MUCH, _LONG, _SCREEN = "Who may ask", "How much at once", "How long", "Screen"

app = make_app()


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a run or of a model.")],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of this machine; one that others reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0: any that is free.")] = 8000,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Load only these tasks.")] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side; the run's own if not given.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda:0 ...")] = "auto",
    precision: Annotated[str, typer.Option(metavar="NAME", help="auto, fp32, bf16 or fp16.")] = "auto",
    fuse: Annotated[bool, typer.Option("--fuse", help="Quicker; answers equal to rounding.")] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token; else UNIFIED_SERVE_TOKEN does.", rich_help_panel=_WHO),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name of a server without a token.", rich_help_panel=_WHO),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures a pass.", rich_help_panel=_MUCH)] = 8,
    max_wait: Annotated[
        float,
        typer.Option(min=0, metavar="MS", help="A pass waits so long for more pictures.", rich_help_panel=_MUCH),
    ] = 5.0,
    queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pictures taken and not yet answered.", rich_help_panel=_MUCH)
    ] = 64,
    connections: Annotated[int, typer.Option(min=1, metavar="N", help="Open at a time.", rich_help_panel=_MUCH)] = 256,
    max_body: Annotated[
        float, typer.Option(min=0.001, metavar="MIB", help="Of a request.", rich_help_panel=_MUCH)
    ] = 16.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=50, metavar="N", help="Of a picture.", rich_help_panel=_MUCH)
    ] = 50.0,
    read_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="For a request to arrive.", rich_help_panel=_LONG)
    ] = 10.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="From there to the answer.", rich_help_panel=_LONG)
    ] = 30.0,
    grace: Annotated[
        float, typer.Option(min=1, metavar="S", help="To finish in, once told to stop.", rich_help_panel=_LONG)
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log JSON lines on standard output.", rich_help_panel=_SCREEN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Log only warnings and errors.", rich_help_panel=_SCREEN)
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP: bytes in, JSON out; stops on SIGTERM or Ctrl-C when all it accepted is answered."""
    import unified

    server, settings_of = _parts()
    settings = settings_of(
        token_file,
        host=host,
        port=port,
        hosts=tuple(allow_host or ()),
        size=size,
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        queue=queue,
        connections=connections,
        body=round(max_body * (1 << 20)),
        pixels=round(max_megapixels * 1e6),
        read_timeout=read_timeout,
        timeout=timeout,
        grace=grace,
    )
    place = server.bind(settings)
    log = server.start_log(as_json, quiet)
    model = unified.load(folder, device=device, precision=precision, tasks=split_names(tasks), fuse=fuse)

    def begun(url: str) -> None:
        fields = {"url": url, "model": folder.resolve().name, "tasks": list(model.tasks), "token": bool(settings.token)}
        log.info("listening", extra={"fields": fields})

    if not server.serve(model, settings, place, folder.resolve().name, begun):
        print(f"error: not all that was accepted could be answered within {grace:g} seconds", file=sys.stderr)
        raise typer.Exit(1)


def _parts() -> tuple[Any, Any]:
    """The server's room; what it is built on belongs to an extra."""
    try:
        from unified.serve import server
    except ImportError as error:
        raise needs("unified-serve", (error.name or "starlette").partition(".")[0], "serve") from None
    from unified.serve.settings import Settings, token_from

    return server, lambda file, **limits: Settings(token=token_from(file), **limits)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
