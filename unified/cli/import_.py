# SPDX-License-Identifier: Apache-2.0
"""``unified-import``: an official YOLOR file becomes a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError

app = make_app()


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Official .pt (main branch) or DarkNet .weights.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    arch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which network, such as yolor-p6; recognised if not given.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names, one a line; COCO's for 80 classes.")
    ] = None,
    anchors: Annotated[
        str | None,
        typer.Option(
            metavar="W,H,...", help="As in the cfg, where the network was not trained with the published ones."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn an official YOLOR file into a model folder for predicting, evaluating and fine-tuning.

    Nothing in the file is run. Every tensor finds its place, or nothing is written.
    """
    from unified.official.importer import import_yolor, save_model

    model = import_yolor(file, names, arch, _levels(anchors) if anchors else None)
    save_model(model, out)
    told = _told(model, out)
    print(json.dumps(told) if as_json else _sentence(told))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _levels(text: str) -> list[list[tuple[float, float]]]:
    """``12,16, 19,36, ...`` as a cfg writes them: three anchors a level, four where only that divides them."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(f"--anchors: {error}; write widths and heights in pixels, such as 12,16, 19,36") from error
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    count = {9: 3, 12: 3, 16: 4, 20: 4}.get(len(pairs))
    if count is None or len(numbers) % 2:
        raise ConfigError(f"--anchors: got {len(numbers)} numbers; the networks have 18, 24, 32 or 40 of them")
    return [pairs[i : i + count] for i in range(0, len(pairs), count)]


def _told(model: Any, out: Path) -> dict[str, Any]:
    trained = model.trained
    return {
        "folder": str(out),
        "model": trained.config.model.name,
        "classes": len(trained.vocabulary.boxes),
        "parameters": sum(p.numel() for p in trained.network.parameters()),
        "tensors": len(trained.network.state_dict()),
        "size": model.size,
    }


def _sentence(told: dict[str, Any]) -> str:
    return (
        f"{told['model']}, {told['classes']} classes, {told['parameters']:,} parameters: all {told['tensors']} tensors "
        f"placed in {told['folder']}\ntry it: unified-predict {told['folder']} PICTURES"
    )
