# SPDX-License-Identifier: Apache-2.0
"""What every task promises, whatever it asks: honest losses, predictions, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from unified.contracts import protocols
from unified.contracts.answer import captions, selected
from unified.contracts.protocols import Head, Labels, Task
from unified.contracts.scoring import Shared
from unified.contracts.structures import Batch, Features, FeatureSpec, Frame, LossTerm, Prediction, Vocabulary
from unified.testing.contract import SPEC, features, identity, must, resolved, run, shaken
from unified.testing.look import check_prediction, many, nothing_seen, seen, size_of
from unified.testing.scene import VOCABULARY, blank, scene, twice

NAME = "tried"
STEPS = 30  # of learning
CONFIDENCE = 0.001


@dataclass(frozen=True)
class TaskTrial:
    """A task to be tried, with a head that answers it."""

    cls: type[Task]
    head_cls: type[Head]
    options: Mapping[str, Any] = field(default_factory=dict)
    head_options: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary = VOCABULARY
    spec: FeatureSpec = SPEC
    batch: Batch | None = None

    def task(self) -> Task:
        """A fresh one."""
        return self.cls(NAME, self.vocabulary, **self.options)

    def head(self, task: Task) -> Head:
        """A fresh head, whose weights are no zeros, for inference."""
        return shaken(self.head_cls(self.spec, task.outputs, **self.head_options)).eval()  # type: ignore[return-value]

    def scene(self) -> Batch:
        """A batch with labels; its states stand under the task's name."""
        return self.batch or scene(NAME, self.cls.labels, self.vocabulary)

    def blank(self) -> Batch:
        """A batch of which nothing is known."""
        return blank(NAME, self.cls.labels, self.vocabulary, size_of(self.scene()))

    def features(self, head: Head, batch: Batch) -> Features:
        """Random maps of the levels that the head reads."""
        return features(self.spec, len(batch), size_of(batch)).only(head.reads)

    def answered(self, batch: Batch) -> tuple[Task, Any]:
        """A task and its head's output for a batch."""
        task = self.task()
        head = self.head(task)
        return task, head(self.features(head, batch), identity)


def check_task(
    part: str | type[Task],
    *,
    head: str | type[Head] | None = None,
    options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
    vocabulary: Vocabulary = VOCABULARY,
    batch: Batch | None = None,
) -> None:
    """Tries a task on a made-up batch, with random features.

    Args:
        part: its registered name, or the class.
        head: the name or class of the head that answers it; by default the task's own default.
        options: of the task's constructor.
        head_options: of the head's.
        vocabulary: the words of the run.
        batch: two images or more with everything the task learns from, states under the name ``tried``; by default
            :func:`unified.testing.scene`, with boxes, tags, identities, key points, masks and captions.

    Raises:
        ContractError: one line that names package and part.
        RegistryError: it cannot be imported, or is no task.
    """
    cls, who = resolved(protocols.tasks, part)
    answering = cls.default_head if head is None else head
    head_cls, _ = resolved(protocols.heads, answering)
    given: dict[str, Any] = {
        "options": options or {},
        "head_options": head_options or {},
        "vocabulary": vocabulary,
        "batch": batch,
    }
    run(CHECKS, TaskTrial(cls, head_cls, **given), who)


def declares(trial: TaskTrial) -> None:
    """It says what it learns from, what it gives and how it is scored."""
    cls = trial.cls
    must(cls.labels in get_args(Labels), f"labels = {cls.labels!r}; expected one of {', '.join(get_args(Labels))}")
    must(cls.primary in cls.scores, f"primary score '{cls.primary}' is not explained in `scores`")
    for name in cls.lower:
        must(name in cls.scores, f"`lower` names '{name}', which is not explained in `scores`")
    for name, meaning in cls.scores.items():
        must(isinstance(meaning, str) and len(meaning) > 3, f"score '{name}' has no meaning; say it in a sentence")
    task = trial.task()
    must(getattr(task, "name", None) == NAME, "does not keep the name it is given in self.name")
    must(getattr(task, "vocabulary", None) is trial.vocabulary, "does not keep the vocabulary in self.vocabulary")
    must(isinstance(task.outputs, int) and task.outputs > 0, f"asks its head for {task.outputs!r} outputs")


def loses_in_terms(trial: TaskTrial) -> None:
    """Its loss is (sum, count) by name, finite, and reaches the head."""
    task = trial.task()
    head = trial.head(task)
    batch = trial.scene()
    terms = _terms(task, head(trial.features(head, batch), identity), batch)
    must(_total(terms).requires_grad, "no loss term has a gradient")
    _total(terms).backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        fine = parameter.grad is None or bool(parameter.grad.isfinite().all())
        must(fine, f"the loss gives head parameter '{name}' a gradient that is not finite")
    reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.parameters())
    must(reached, "the loss reaches no weight of its head")
    must(any(term.count > 0 for term in terms.values()), "counts nothing labelled in a batch with labels")


def sums_its_loss(trial: TaskTrial) -> None:
    """Its loss is a sum over what is labelled, and not a mean."""
    task = trial.task()
    head, batch = trial.head(task), trial.scene()
    given = trial.features(head, batch)
    once = _terms(task, head(given, identity), batch)
    doubled = given.with_maps(tuple(torch.cat([x, x]) for x in given.maps))
    both = _terms(task, head(doubled, identity), twice(batch))
    for name, term in once.items():
        if float(term.count) == 0 or float(term.sum.detach()) < 1e-6:
            continue
        more, many = float((both[name].sum / term.sum).detach()), float(both[name].count / term.count)
        words = (
            f"loss '{name}': of twice the images the sum is {more:.2f} times as large and the count {many:.2f} times"
        )
        must(more > 1.5 and many > 1.5, f"{words}; expected 2: return a sum and a count, not a mean")


def passes_over_the_unlabelled(trial: TaskTrial) -> None:
    """What nobody labelled costs nothing, and still touches the graph."""
    if trial.cls.labels == "none":
        return
    task = trial.task()
    head, batch = trial.head(task), trial.blank()
    terms = _terms(task, head(trial.features(head, batch), identity), batch)
    for name, term in terms.items():
        told = (float(term.sum.detach()), float(term.count))
        got = f"has sum {told[0]:g} and count {told[1]:g}; expected 0 and 0"
        must(told == (0, 0), f"loss '{name}' of images of which nothing is known {got}")
        must(term.sum.requires_grad, f"loss '{name}' of unlabelled images does not touch the graph; multiply by 0")
    _total(terms).backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        fine = parameter.grad is None or bool((parameter.grad == 0).all())
        must(fine, f"unlabelled images give head parameter '{name}' a gradient that is not zero")


def learns(trial: TaskTrial) -> None:
    """Its loss falls as its head learns."""
    task = trial.task()
    head, batch = trial.head(task).train(), trial.scene()
    given = trial.features(head, batch)
    parameters = [*head.parameters(), *task.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    course = []
    for _ in range(STEPS):
        loss = _total(_terms(task, head(given, identity), batch))
        course.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    words = f"in {STEPS} steps of learning the loss went from {course[0]:.4g} to {course[-1]:.4g}; expected it to fall"
    must(math.isfinite(course[-1]) and course[-1] < course[0], words)


def bears_half_precision(trial: TaskTrial) -> None:
    """Its loss is finite in half precision."""
    task = trial.task()
    head, batch = trial.head(task), trial.scene()
    with torch.autocast("cpu", torch.bfloat16):
        terms = _terms(task, head(trial.features(head, batch), identity), batch)
    must(bool(_total(terms).isfinite()), "its loss in bfloat16 is not finite")


@torch.inference_mode()
def predicts(trial: TaskTrial) -> None:
    """It adds its own fields to every image's prediction and leaves those of others alone."""
    batch = trial.scene()
    task, output = trial.answered(batch)
    for given in (seen(batch), nothing_seen(batch), [Prediction(size=size_of(batch)) for _ in batch.annotations]):
        found = task.predict(output, given, confidence=CONFIDENCE)
        fine = isinstance(found, list) and len(found) == len(batch)
        must(fine, f"predict() gives {many(found)} for {len(batch)} images")
        for before, after in zip(given, found, strict=True):
            check_prediction(task, before, after)


@torch.inference_mode()
def speaks_for_people(trial: TaskTrial) -> None:
    """What it predicts can be led to other pixels, written as JSON, put in words and drawn."""
    from unified.inference.drawing import draw
    from unified.inference.results import as_dict

    batch = trial.scene()
    task, output = trial.answered(batch)
    height, width = size_of(batch)
    frame = Frame("image", (2 * height, 3 * width), (1 / 3, 0.5))
    for i, said in enumerate(task.predict(output, seen(batch), confidence=CONFIDENCE)):
        placed = said.in_frame(frame)
        json.dumps(as_dict(placed), allow_nan=False)
        drawn = draw(torch.zeros(*frame.size, 3, dtype=torch.uint8).numpy(), placed)
        must(min(drawn.size) > 0, "draws nothing")
        must(all(isinstance(words, str) for words in captions(placed).values()), "caption() gives no text")
        if said.boxes_xyxy is not None:
            selected(said.extras, torch.zeros(len(said.boxes_xyxy), dtype=torch.bool))
        known = task.truth(batch.annotations[i])
        mine = said.extras.get(NAME)
        alike = known is None or mine is None or type(known) is type(mine)
        must(alike, f"truth() gives a {type(known).__name__} and predict() a {type(mine).__name__}; expected the same")


@torch.inference_mode()
def scores(trial: TaskTrial) -> None:
    """Its metric gives the scores that it declares, and none without evidence."""
    task = trial.task()
    nothing = task.metric().compute()
    must(task.primary not in nothing, f"gives a score '{task.primary}' before any image was seen; leave it out")
    batch = trial.scene()
    task, output = trial.answered(batch)
    metric = task.metric()
    metric.update(output, task.predict(output, seen(batch), confidence=CONFIDENCE), batch)
    found = metric.compute()
    for name, value in found.items():
        must(name in task.scores, f"score '{name}' is not explained in `scores`")
        must(isinstance(value, float) and math.isfinite(value), f"score '{name}' is {value!r}; expected a finite float")
    must(task.primary in found, f"no primary score '{task.primary}' of images with labels")
    must(isinstance(metric.curves(), dict), "curves() gives no mapping; {} where there is nothing to draw")


@torch.inference_mode()
def shares_its_evidence(trial: TaskTrial) -> None:
    """What several ranks gathered gives the scores of one, where its metric can be shared."""
    batch = trial.scene()
    task, output = trial.answered(batch)
    whole, joined = task.metric(), task.metric()
    if not isinstance(whole, Shared) or not isinstance(joined, Shared):
        return
    said = task.predict(output, seen(batch), confidence=CONFIDENCE)
    for _ in range(2):
        whole.update(output, said, batch)
        part = task.metric()
        part.update(output, said, batch)
        joined.extend(part.evidence())  # type: ignore[attr-defined]
    one, many = whole.compute(), joined.compute()
    alike = one.keys() == many.keys() and all(math.isclose(one[name], many[name], rel_tol=1e-6) for name in one)
    must(alike, f"extend(evidence()) gives {many}; expected {one}, as of one metric that saw all images")


@torch.inference_mode()
def scores_only_the_labelled(trial: TaskTrial) -> None:
    """What nobody labelled is not scored."""
    if trial.cls.labels == "none":
        return
    batch = trial.blank()
    task, output = trial.answered(batch)
    metric = task.metric()
    metric.update(output, task.predict(output, nothing_seen(batch), confidence=CONFIDENCE), batch)
    must(task.primary not in metric.compute(), f"gives a score '{task.primary}' of images of which nothing is known")


CHECKS = (
    declares,
    loses_in_terms,
    sums_its_loss,
    passes_over_the_unlabelled,
    learns,
    bears_half_precision,
    predicts,
    speaks_for_people,
    scores,
    shares_its_evidence,
    scores_only_the_labelled,
)


def _terms(task: Task, output: Any, batch: Batch) -> Mapping[str, LossTerm]:
    """The loss terms, looked at one by one."""
    terms = task.loss(output, batch)
    shape = "expected {name: LossTerm(sum, count)}"
    must(isinstance(terms, Mapping) and bool(terms), f"loss() returns a {type(terms).__name__}; {shape}")
    for name, term in terms.items():
        must(isinstance(term, LossTerm), f"loss '{name}' is a {type(term).__name__}; {shape}")
        pair = [isinstance(x, Tensor) and x.dim() == 0 for x in (term.sum, term.count)]
        must(all(pair), f"loss '{name}': sum and count must be tensors of no axes")
        must(not term.count.requires_grad, f"loss '{name}': the count has a gradient; detach it")
        must(bool(term.sum.isfinite()), f"loss '{name}' is {float(term.sum.detach())}")
    return terms


def _total(terms: Mapping[str, LossTerm]) -> Tensor:
    """As the trainer adds them up on one rank."""
    return torch.stack([t.weight * t.sum.float() / t.count.clamp(min=1) for t in terms.values()]).sum()
