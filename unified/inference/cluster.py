# SPDX-License-Identifier: Apache-2.0
"""Shards made by Ray Data, on this machine or on a cluster whose machines see the same folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from unified.contracts.errors import UnifiedError, needs


def on_ray(
    worker: type, words: Mapping[str, Any], shards: Sequence[int], actors: int, gpu: bool, done: Callable[[int], None]
) -> None:
    """Has every shard made by actors of Ray, each of which builds its worker once.

    Args:
        worker: a class that ``map_batches`` of Ray Data takes.
        words: what it is built with.
        shards: their numbers.
        actors: at most so many.
        gpu: whether each gets a GPU of its own, where there are any.
        done: hears the number of each shard that is made.

    Raises:
        ConfigError: Ray is not installed.
        UnifiedError: what a worker met.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it otherwise sends word of its use over the network
    try:
        import ray
        import ray.data
    except ImportError:
        raise needs("--engine ray", "Ray", "ray") from None
    if not shards:
        return
    ours = not ray.is_initialized()
    try:
        _make(ray.data, worker, words, shards, actors, gpu, done)
    except Exception as error:
        if (met := _met(error)) is None:
            raise
        raise met from None
    finally:
        if ours:
            ray.shutdown()


def _make(
    data: Any,
    worker: type,
    words: Mapping[str, Any],
    shards: Sequence[int],
    actors: int,
    gpu: bool,
    done: Callable[[int], None],
) -> None:
    """``data``: the module ``ray.data``."""
    made = data.from_items([{"shard": number} for number in shards]).map_batches(
        worker,
        fn_constructor_kwargs=dict(words),
        batch_size=1,
        concurrency=min(actors, len(shards)),
        num_gpus=1 if gpu and torch.cuda.is_available() else 0,
    )
    for row in made.iter_rows():
        done(int(row["shard"]))


def _met(error: BaseException) -> UnifiedError | None:
    """The error of ours that a worker met, out of those that Ray wraps it in; some versions keep only its words."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UnifiedError):
        inner = getattr(inner, "cause", None) or inner.__cause__
    said = [line.partition(": ")[2] for line in str(error).splitlines() if line.startswith(UnifiedError.__module__)]
    return inner or (UnifiedError(said[-1]) if said else None)
