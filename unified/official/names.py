# SPDX-License-Identifier: Apache-2.0
"""Class names of an official file, which holds none itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unified.contracts.errors import ConfigError
from unified.contracts.source import read_source

COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""The 80 classes of COCO 2017 in the order in which every 80-class YOLO network counts them."""


def class_names(classes: int, names: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Names for so many classes: those given, COCO's for 80, else ``class 0``, ``class 1``, ...

    Args:
        classes: what the network has.
        names: names in order, or a file of them: one a line, or YAML with ``names:``.

    Raises:
        ConfigError: another number of names, a name twice, or a file that cannot be read.
    """
    if names is None:
        return COCO if classes == len(COCO) else tuple(f"class {i}" for i in range(classes))
    found = _read(Path(names)) if isinstance(names, str | Path) else tuple(names)
    if len(found) != classes:
        raise ConfigError(f"names: the network has {classes} classes, got {len(found)} names")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ConfigError(f"names: '{twice[0]}' stands {found.count(twice[0])} times; every class needs its own name")
    return found


def _read(path: Path) -> tuple[str, ...]:
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise ConfigError(f"names: '{path}' cannot be read: {reason}; give a file with one name a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _from_yaml(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ConfigError(f"names: no file at '{path}'")
    value = read_source(path).value
    names = value.get("names") if isinstance(value, dict) else value
    if not isinstance(names, list):
        raise ConfigError(f"names: '{path}' has no list of names, such as names: [cat, dog]")
    return tuple(str(name) for name in names)
