# SPDX-License-Identifier: Apache-2.0
"""The multilabel task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import Batch, LossTerm, Prediction, TagOutput, Vocabulary, known, positive

from .loss import asymmetric_loss
from .metric import TagMetric

LOSSES = ("bce", "asymmetric")


class MultilabelTask(Task):
    """Says for every tag of the vocabulary whether it holds. Learns and scores only what was labelled.

    Args:
        name: the task's name, under which images carry their label states.
        vocabulary: its ``tags`` are the outputs.
        loss: ``bce``, or ``asymmetric`` (Ridnik et al. 2021) where most tags are absent from most images.
        gamma_negative, gamma_positive, clip: of the asymmetric loss.
        weight: of the mean over (image, tag) pairs. Such a mean starts near 0.3 and ends under 0.1, ten times less than
            detection and embedding losses over objects; the default brings it level with them.

    Raises:
        ConfigError: no tags, an unknown loss, or a number out of its range.
    """

    labels: ClassVar[Labels] = "tags"
    default_head: ClassVar[str] = "multilabel"
    provides: ClassVar[tuple[str, ...]] = ("tag_scores",)
    primary: ClassVar[str] = "mAP"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "mAP": "average precision of a tag, mean over tags: whether images that show it come before all others",
            "F1_macro": "F1 at a score of 0.5, mean over tags",
            "mAP_micro": "average precision over all (image, tag) pairs together: frequent tags count more",
            "F1_micro": "F1 at a score of 0.5 over all pairs together",
        }
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"mosaic", "mixup", "copy_paste"})

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        *,
        loss: Literal["bce", "asymmetric"] = "bce",
        gamma_negative: float = 4.0,
        gamma_positive: float = 0.0,
        clip: float = 0.05,
        weight: float = 10.0,
    ) -> None:
        super().__init__()
        if not vocabulary.tags:
            raise ConfigError(f"task '{name}': no dataset of this run offers tags; declare `tags:` in one of them")
        if loss not in LOSSES:
            raise ConfigError(f"task '{name}': unknown loss '{loss}'{suggestion(loss, LOSSES)}")
        if min(gamma_negative, gamma_positive) < 0 or not 0 <= clip < 1:
            raise ConfigError(
                f"task '{name}': gammas must not be negative and clip must lie in [0, 1), "
                f"got {gamma_negative}, {gamma_positive} and {clip}"
            )
        self.name = name
        self.vocabulary = vocabulary
        self.outputs = len(vocabulary.tags)
        self.weight = weight
        # Binary cross-entropy is the asymmetric loss with nothing asymmetric about it.
        self.shape = (0.0, 0.0, 0.0) if loss == "bce" else (gamma_negative, gamma_positive, clip)

    def loss(self, output: TagOutput, batch: Batch) -> Mapping[str, LossTerm]:
        """``tags``: summed over the known (image, tag) pairs; the others have exactly no gradient."""
        states = batch.states(self.name, self.outputs)
        labelled = known(states)
        # Replaced before the loss and not only after it, so that not even an infinite logit leaks through.
        logits = output.logits.float().where(labelled, 0.0)
        losses = asymmetric_loss(logits, positive(states).float(), *self.shape)
        return {"tags": LossTerm((losses * labelled).sum(), labelled.sum().float(), self.weight)}

    def predict(self, output: TagOutput, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Fills ``tag_scores`` (A,) and ``tag_names``."""
        scores = output.logits.detach().float().sigmoid()
        names = self.vocabulary.tags
        return [replace(p, tag_scores=s, tag_names=names) for p, s in zip(predictions, scores, strict=True)]

    def metric(self) -> TagMetric:
        return TagMetric(self.name, self.vocabulary.tags)
