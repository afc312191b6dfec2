# SPDX-License-Identifier: Apache-2.0
"""``unified-bench index``: the exact index beside FAISS, and what LanceDB finds in which time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.cli.command import Debug, Json


def index(
    rows: Annotated[int, typer.Option(metavar="N", min=1000, help="Vectors in the index.")] = 1_000_000,
    dim: Annotated[int, typer.Option(metavar="D", min=8, help="Numbers of a vector.")] = 128,
    queries: Annotated[int, typer.Option(metavar="N", min=1, help="Searched at once.")] = 100,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Neighbours of each.")] = 10,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Times that it is measured.")] = 5,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="For both; torch's own choice.")] = None,
    lance: Annotated[bool, typer.Option("--lance/--no-lance", help="Measure LanceDB too.")] = True,
    kind: Annotated[str, typer.Option(metavar="NAME", help="ivf_pq, ivf_flat or ivf_hnsw_sq.")] = "ivf_pq",
    probes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Partitions LanceDB looks into; by the rows.")
    ] = None,
    refine: Annotated[int, typer.Option(metavar="N", min=0, help="It compares the best N x k as a whole.")] = 10,
    folder: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the indexes are built.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time exact search beside FAISS' flat index on the same threads, and LanceDB's approximate one.

    The vectors are made up, in clusters; searches take turns, medians are shown. Recall is against float64.
    """
    from dataclasses import asdict, replace
    from importlib.util import find_spec

    from unified.index.speed import RECALL, TARGET, Setting, measure_exact, measure_lance, with_threads

    setting = Setting(rows, dim, queries, k, repeats, kind=kind, probes=probes, refine=refine)
    setting = with_threads(setting, threads)
    paces = measure_exact(setting, folder)
    if lance and find_spec("lancedb") is not None:
        from unified.index.lance import Effort

        setting = replace(setting, probes=Effort(probes).of(rows))
        paces += measure_lance(setting, folder)
    found = {pace.name: pace for pace in paces}
    flat = found.get("faiss flat")
    ratio = found["exact"].search / flat.search if flat else None
    result: dict[str, Any] = {**asdict(setting), "indexes": [asdict(pace) for pace in paces], "ratio": ratio}
    result["targets"] = {"ratio": TARGET, "lancedb recall": RECALL}
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    size = f"{result['rows']:,} x {result['dim']}, {result['queries']} queries, k = {result['k']}"
    title = f"{size}, {result['threads']} threads"
    table = Table("index", "built", "all queries", "one query", f"recall@{result['k']}", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for pace in result["indexes"]:
        found = f"{pace['recall']:.4f}"
        many, one = f"{1e3 * pace['search']:.0f} ms", f"{1e3 * pace['one']:.1f} ms"
        table.add_row(pace["name"], f"{pace['build']:.1f} s", many, one, found)
    Console().print(table)
    if result["ratio"] is None:
        print("FAISS is not installed (pip install faiss-cpu): nothing to compare with")
    else:
        print(f"exact / faiss flat: {result['ratio']:.2f} (target at most {result['targets']['ratio']})")
    if any(pace["name"].startswith("lancedb") for pace in result["indexes"]):
        print(f"LanceDB looked into {result['probes']} partitions and refined {result['refine']} x k")
    else:
        print("LanceDB was not measured (extra 'index': pip install 'unified-networks[index]')")
