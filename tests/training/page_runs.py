# SPDX-License-Identifier: Apache-2.0
"""Run folders made by hand, with names as nobody should give them; for tests of the page."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import torch
from PIL import Image

from unified.contracts.section import (
    Chart,
    Column,
    Gallery,
    Histogram,
    Line,
    Mark,
    Matrix,
    Picture,
    Point,
    Scatter,
    Section,
    Series,
    Table,
    View,
)
from unified.training.page.latents import write_values
from unified.training.page.record import (
    LatentNote,
    Look,
    Message,
    Record,
    Sitting,
    SplitNote,
    TaskNote,
    WordNote,
    write_record,
)

HOSTILE = (
    "cat<script>document.title='HACKED'</script>",
    '"><img src=x onerror="document.title=\'HACKED\'">',
    "'onload='alert(1)",
    "</script><iframe src=http://evil.invalid></iframe>",
    "]]><!-- --><marquee>",
    "javascript:alert(1)",
    "\u202egnp.exe\ufffd\ud83d\ude48",
)


def jpeg(side: int = 32) -> str:
    held = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 60)).save(held, "JPEG")
    return base64.b64encode(held.getvalue()).decode()


def section() -> Section:
    """Every part there is, all words hostile."""
    a, b, c, d = HOSTILE[:4]
    picture = Picture(jpeg=jpeg(), width=32, height=32, scale=(1, 1), offset=(0, 0))
    marks = (
        Mark(box=(2, 2, 12, 12), text=a, kind="truth"),
        Mark(box=(4, 4, 20, 20), text=b, kind="said", score=0.4),
        Mark(box=(4, 4, 20, 20), text=c, kind="wrong", score=0.95),
        Mark(box=(1, 1, 9, 9), text=d, kind="missed"),
    )
    view = View(image_id=b, caption=d, marks=marks, verdict="query", picture=picture)
    columns = (Column(name=a, meaning=b), Column(name="n", kind="count"), Column(name=c, kind="share", bar=True))
    rows = tuple((word, k, k / 7) for k, word in enumerate(HOSTILE))
    curve = [
        Line(label=word, x=(0, 0.5, 1), y=(1, 0.5, k / 9), mark=(0.5, 0.5, word)) for k, word in enumerate(HOSTILE)
    ]
    lines = (Line(label="all", x=(0, 1), y=(1, 0), chief=True), *curve)
    return Section(
        title=a,
        text=b,
        parts=(
            Table(title=c, note=d, columns=columns, rows=rows),
            Chart(title=a, note=b, x_name=c, y_name=d, lines=lines, pick=True),
            Chart(title=b, x_name=c, y_name=d, lines=lines, pick=True),
            Histogram(title=a, note=b, x_name=c, edges=(0, 1, 2), series=(Series(label=d, counts=(3, 4)),)),
            Matrix(title=a, note=b, row_name=c, column_name=d, rows=(a, b), columns=(a, b), counts=((3, 1), (0, 2))),
            Scatter(title=a, note=b, points=tuple(Point(x=k, y=-k, group=w, text=w) for k, w in enumerate(HOSTILE))),
            Gallery(title=c, note=d, rows=((view, view),)),
            Gallery(title=c, note=d, rows=((view, view),), strip=True),
        ),
    )


def record() -> Record:
    a, b, c, d = HOSTILE[:4]
    metrics = {f"{a}/AP": 0.5, "cls/mAP": 0.25, f"{a}/{b}": 0.75}
    word = WordNote(task=a, word=b, boxes=7, images=(1, 2, 3, 4, 5))
    gallery = Gallery(title="", rows=section().parts[6].rows)  # type: ignore[union-attr]
    return Record(
        parameters=1_300_000,
        steps=60,
        batch=8,
        size=96,
        state=d,
        sittings=(
            Sitting(command=f"unified-train --out '{a}'", begun=b, step=0, environment={c: d}),
            Sitting(command="unified-train --resume x", begun="later", step=20, environment={"torch": "2.13", c: d}),
        ),
        tasks=(TaskNote(name=a, kind=b, primary="AP", scores={"AP": c, b: d}),),
        data=(SplitNote(dataset=a, split=b, images=15, looked=10, tasks=(c,), words=(word,)),),
        latents=(LatentNote(key="det/align.p3/0", task=a, site=b, latent=c, operator=d),),
        messages=(Message(step=3, text=c),),
        best=40,
        look=Look(step=60, images=15, seconds=1.5, metrics=metrics, sections={a: (section(),)}, predictions=gallery),
    )


def write_log(run: Path, steps: int = 60) -> None:
    a, b = HOSTILE[:2]
    lines = []
    for step in range(1, steps + 1):
        losses = {a: 3 / step, f"{a}/{b}": 1 / step, f"{a}/class": 2 / step, "cls": 0.5}
        lines.append({"step": step, "seconds": step / 2, "lr": 1e-3, "losses": losses, "images_per_second": 90.0})
        lines[-1] |= {"wait": 0.1, "memory_mb": 512}
        if step % 20 == 0:
            lines.append({"step": step, "metrics": {f"{a}/AP": step / 120, "cls/mAP": 0.25, f"{a}/{b}": 0.75}})
    lines.append({"unreadable": HOSTILE[3], "dataset": a, "split": "train"})
    lines.append({"step": 7, "fault": f"step 7 left out: {b}"})
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 61, "los')


def a_run(run: Path) -> Path:
    """A folder as a finished run leaves it."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"model:\n  name: {json.dumps(HOSTILE[0])}\n")
    write_log(run)
    write_record(run, record())
    key = "det/align.p3/0"
    values = {f"identity/{key}": torch.ones(64), f"before/{key}": torch.ones(64) + 0.02 * torch.randn(64)}
    write_values(run, {**values, f"after/{key}": torch.ones(64) + 0.3 * torch.randn(64)})
    return run
