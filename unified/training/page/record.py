# SPDX-License-Identifier: Apache-2.0
"""``report.json``: what the page of a run needs beside its log."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from unified.contracts.errors import CheckpointError
from unified.contracts.section import Gallery, Number, Section, Text
from unified.disk import write_bytes

NAME = "report.json"
FORMAT = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Sitting(_Entry):
    """One process that trained the run: the first, or one that resumed it."""

    command: Text
    begun: Text  # local date and time
    step: int  # done before it
    environment: dict[Text, Text]


class TaskNote(_Entry):
    """What a task's scores are called and mean."""

    name: Text
    kind: Text
    primary: Text
    scores: dict[Text, Text]


class WordNote(_Entry):
    """One class, tag or kind of identity of a dataset: images by label state, in the order of ``LabelState``."""

    task: Text
    word: Text
    boxes: int
    images: tuple[int, ...]


class SplitNote(_Entry):
    """One split of one dataset; its words are counted over ``looked`` of its images."""

    dataset: Text
    split: Text
    images: int
    looked: int
    tasks: tuple[Text, ...]
    words: tuple[WordNote, ...]


class LatentNote(_Entry):
    """One z; its numbers stand in ``report.safetensors`` under ``before/KEY``, ``after/KEY`` and ``identity/KEY``."""

    key: Text
    task: Text
    site: Text
    latent: Text
    operator: Text


class Look(_Entry):
    """One evaluation, seen whole."""

    step: int
    images: int
    seconds: float  # of scoring
    metrics: dict[Text, Number]
    sections: dict[Text, tuple[Section, ...]] = {}  # by task
    predictions: Gallery | None = None


class Message(_Entry):
    """One line that the run told whoever watched."""

    step: int
    text: Text


class Record(_Entry):
    """All of it. Fields that a newer version adds are passed over."""

    format: int = FORMAT
    parameters: int = 0
    steps: int = 0  # planned
    batch: int = 0
    size: int = 0
    state: Text = "running"  # running, finished, interrupted, or what stopped it
    sittings: tuple[Sitting, ...] = ()
    tasks: tuple[TaskNote, ...] = ()
    data: tuple[SplitNote, ...] = ()
    latents: tuple[LatentNote, ...] = ()
    messages: tuple[Message, ...] = ()
    best: int | None = None  # step of the best evaluation
    look: Look | None = None


def read_record(run: Path) -> Record:
    """The record in a run's folder; an empty one where there is none.

    Raises:
        CheckpointError: it is damaged, or of a newer format.
    """
    path = run / NAME
    if not path.is_file():
        return Record(state="")
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{path}' cannot be read ({reason}); remove it to do without") from error
    if record.format > FORMAT:
        raise CheckpointError(f"'{path}' has format {record.format}, this version reads {FORMAT}; update unified")
    return record


def write_record(run: Path, record: Record) -> None:
    """Replaces the record as a whole.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    write_bytes(run / NAME, record.model_dump_json().encode())
