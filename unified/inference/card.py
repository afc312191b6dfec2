# SPDX-License-Identifier: Apache-2.0
"""The card of a model: what it answers, what was measured, where it comes from; only what is known, never a guess."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unified import __version__
from unified.contracts.config import RunConfig
from unified.contracts.structures import Vocabulary
from unified.model.network import UnifiedNetwork
from unified.pretrained import Provenance
from unified.trained import Trained

SHOWN_NAMES = 60  # classes or tags that are listed in full


@dataclass(frozen=True)
class Facts:
    """What a card is written from."""

    name: str
    config: RunConfig
    vocabulary: Vocabulary
    provenance: Provenance
    kinds: Mapping[str, tuple[str, ...]]  # task -> fields of a prediction that it fills
    spaces: Mapping[str, str]  # embedding task -> fingerprint
    widths: Mapping[str, int]  # embedding task -> width of its vectors
    parameters: int
    version: str


def facts_of(name: str, trained: Trained, network: UnifiedNetwork, spaces: Mapping[str, str]) -> Facts:
    """What is known of a model.

    Args:
        name: what it is to be called.
        trained: what it was made from.
        network: with the weights that are handed on.
        spaces: fingerprints by embedding task.
    """
    return Facts(
        name=name,
        config=trained.config,
        vocabulary=trained.vocabulary,
        provenance=trained.provenance,
        kinds={task: tuple(part.provides) for task, part in trained.tasks.items()},
        spaces=spaces,
        widths={task: trained.tasks[task].outputs for task in spaces},
        parameters=sum(tensor.numel() for tensor in network.parameters()),
        version=__version__,
    )


def card(facts: Facts) -> str:
    """The card in Markdown, with the front matter that model pages read."""
    parts = (
        _front(facts),
        f"# {facts.name}",
        facts.provenance.description or "One network that answers several tasks in one pass of its trunk.",
        _answers(facts),
        _use(facts),
        _measured(facts),
        _data(facts),
        _weights(facts),
        _space(facts),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(facts: Facts) -> str:
    lines = ["---", "library_name: unified", f"license: {json.dumps(facts.provenance.licence or 'unknown')}"]
    lines += ["tags:", *(f"- {json.dumps(task)}" for task in facts.config.tasks)]
    if facts.provenance.data:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in facts.provenance.data)]
    return "\n".join([*lines, "---"])


def _answers(facts: Facts) -> str:
    lines = ["## What it answers", "", "| task | kind | gives |", "|---|---|---|"]
    for name, task in facts.config.tasks.items():
        lines.append(f"| `{name}` | `{task.task}` | {', '.join(f'`{f}`' for f in facts.kinds[name]) or 'extras'} |")
    lines += [
        "",
        f"{facts.parameters:,} parameters; input {facts.config.train.size} x {facts.config.train.size} pixels.",
    ]
    for what, names in (("Boxes", facts.vocabulary.boxes), ("Tags", facts.vocabulary.tags)):
        if names:
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            lines += ["", f"{what} ({len(names)}): {', '.join(names[:SHOWN_NAMES])}{more}."]
    return "\n".join(lines)


def _use(facts: Facts) -> str:
    first = next(iter(facts.config.tasks))
    some = f'some = UnifiedModel.from_pretrained("{facts.name}", tasks=["{first}"])  # reads only its weights'
    code = [
        "from unified import UnifiedModel",
        "",
        f'model = UnifiedModel.from_pretrained("{facts.name}")  # this folder',
        'result = model.predict("photo.jpg")',
        *([some] if len(facts.config.tasks) > 1 else []),
    ]
    return "\n".join(["## How to use", "", "```python", *code, "```"])


def _measured(facts: Facts) -> str:
    said = {name: score for name, score in facts.provenance.metrics.items() if name.split("/")[0] in facts.config.tasks}
    if not said:
        return "## Measured\n\nNothing was measured, or the measurements were not kept."
    rows = [f"| `{name}` | {score:.4f} |" for name, score in said.items()]
    return "\n".join(
        ["## Measured", "", "On the validation data of its own run.", "", "| score | |", "|---|---|", *rows]
    )


def _data(facts: Facts) -> str:
    lines = ["## Data", ""]
    if not facts.provenance.data:
        return "\n".join([*lines, "What it was trained on is not recorded."])
    return "\n".join([*lines, *_datasets(facts.provenance)])


def _datasets(provenance: Provenance) -> Iterator[str]:
    for name, said in provenance.data.items():
        labelled = "; ".join(f"{task}: {_listed(what)}" for task, what in dict(said.get("labelled", {})).items())
        options = ", ".join(f"{key}: {value}" for key, value in dict(said.get("options", {})).items())
        yield f"- **{name}** ({said.get('format', 'unknown')} format{f'; {options}' if options else ''})"
        yield f"  - labelled: {labelled or 'nothing'}"
        yield f"  - licence: {provenance.data_licences.get(name) or 'not stated; ask who made the model'}"


def _listed(what: object) -> str:
    return ", ".join(map(str, what)) if isinstance(what, list | tuple) else str(what)


def _weights(facts: Facts) -> str:
    train, provenance = facts.config.train, facts.provenance
    begun = provenance.weights or "random values, as far as the run's records say"
    trained = f"Trained with `{train.optimizer}`, batches of {train.batch}, at {train.size} pixels, seed {train.seed}."
    lines = ["## Weights", "", f"- began with: {begun}", f"- licence: {provenance.licence or 'not stated'}"]
    lines += [f"- {trained}"] if provenance.data else []
    return "\n".join([*lines, f"- written by unified {facts.version}; safetensors, no code inside"])


def _space(facts: Facts) -> str:
    if not facts.spaces:
        return ""
    rows = [f"| `{task}` | {facts.widths[task]} | `{space}` |" for task, space in facts.spaces.items()]
    note = "Vectors may be compared only with vectors of the same fingerprint."
    return "\n".join(["## Embedding space", "", note, "", "| task | width | fingerprint |", "|---|---|---|", *rows])
