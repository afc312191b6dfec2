# SPDX-License-Identifier: Apache-2.0
"""``unified-export``: a trained network as a file that other programs run, with the proof that it answers the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from unified.export.job import Exported

PLACES = ("inside", "outside")
PRECISIONS = ("fp32", "fp16", "int8")

app = make_app()


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, a checkpoint or a model.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    form: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="onnx, openvino, torch_export, aot_inductor, torchscript ..."),
    ] = "onnx",
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Only these tasks.")] = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help="fp32, fp16 or int8, as the format can.")] = "fp32",
    decode: Annotated[
        str, typer.Option(metavar="WHERE", help="inside: boxes in pixels, scores in 0..1; outside: what heads say.")
    ] = "inside",
    nms: Annotated[
        str, typer.Option(metavar="WHERE", help="inside: only the best boxes, without repeats; outside: all.")
    ] = "outside",
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", "--conf", min=0, max=1, metavar="SHARE", help="Least score, with NMS inside."),
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="Overlap of a repeat, with NMS inside.")
    ] = None,
    max_boxes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of an image, with NMS inside.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Usual input side; the run's own if not given.")
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="For int8: data file, or a dataset's folder.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Training pictures to calibrate with.")] = 300,
    scored: Annotated[
        int, typer.Option(min=0, metavar="N", help="For int8: validation pictures to score both on; 0: none.")
    ] = 500,
    drop: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="How much a score may fall with int8.")
    ] = 0.01,
    tolerance: Annotated[
        float | None, typer.Option(min=0, metavar="ERROR", help="Greatest error of an output; 1e-4 with fp32.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a trained network as ONNX, OpenVINO, torch.export or TorchScript; nothing is kept unless it agrees."""
    for option, word, known in (("--decode", decode, PLACES), ("--nms", nms, PLACES)):
        if word not in known:
            raise ConfigError(f"{option}: unknown word '{word}'{suggestion(word, known)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision: unknown word '{precision}'{suggestion(precision, PRECISIONS)}")
    rules = {"confidence": confidence, "nms_iou": nms_iou, "max_boxes": max_boxes}
    if nms == "outside" and any(value is not None for value in rules.values()):
        raise ConfigError("--confidence, --nms-iou and --max-boxes become part of the graph only with --nms inside")
    from unified.cli.progress import Bar
    from unified.export.accuracy import Watch
    from unified.export.job import Job
    from unified.export.job import export as run_job

    job = Job(
        run=folder,
        out=out,
        form=form,
        tasks=split_names(tasks),
        precision=precision,
        decode=decode == "inside",
        suppress=nms == "inside",
        size=size,
        rules=rules,
        calibrate=calibrate,
        samples=samples,
        scored=scored,
        drop=drop,
        tolerance=tolerance,
    )
    told = (lambda line: None) if as_json else (lambda line: typer.echo(f"{line} ...", err=True))
    bar = Bar("batches", quiet=as_json)
    with ExitStack() as shown:

        def begin(total: int) -> None:  # not before: nncf draws a bar of its own
            shown.enter_context(bar).of(total)

        made = run_job(job, told, Watch(begin, bar.add))
    print(json.dumps(made.told())) if as_json else _print(made)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _print(made: Exported) -> None:
    from rich.console import Console
    from rich.table import Table

    parity = made.parity
    limit = "" if parity.tolerance == float("inf") else f"; at most {parity.tolerance:g}"
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.inputs)
    table = Table("output", "shape", "largest", "difference", "error", title=f"{parity.runtime}: {shapes}{limit}")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in parity.rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.output, shape, f"{row.largest:.3f}", f"{row.difference:.1e}", f"{row.error:.1e}")
    Console().print(table)
    for score in made.scores:
        print(f"{score.name}: {score.before:.4f} in FP32, {score.after:.4f} in INT8, of {score.images} pictures")
    print(f"{made.file}: {made.size / 1e6:.1f} MB in {made.seconds:.0f} s")
    print(f"try it: unified-predict {made.file} PICTURES")
