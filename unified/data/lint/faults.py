# SPDX-License-Identifier: Apache-2.0
"""The catalogue: every fault the linter knows, how bad it is and what will be done about it.

An error is what training refuses, because going on would mean guessing; a warning is told and does no harm in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Fault:
    """How bad it is, and what will be done."""

    severity: Literal["error", "warning", "note"]
    action: str


def _error(action: str) -> Fault:
    return Fault("error", f"refused; {action}")


def _warning(action: str) -> Fault:
    return Fault("warning", action)


def _note(action: str) -> Fault:
    return Fault("note", action)


_DROP = "--fix leaves the annotation out"
_VEIL = "--fix makes the whole image a region to ignore for its class: an object is somewhere in it"
_OUT = "--fix leaves the image out"
_YOURS = "only you can mend it"

FILE: Final = {
    "file-missing": _error("check the split's 'annotations' and the dataset's 'path'"),
    "not-json": _error(f"{_YOURS}: write the file again"),
    "not-an-object": _error(f"{_YOURS}: expected an object with images, annotations and categories"),
    "list-missing": _error(f"{_YOURS}: add the list"),
    "key-twice": _error("--fix keeps the last value, as most readers do"),
    "byte-order-mark": _note("it is skipped; --fix writes the file without"),
    "record-type": _error("--fix leaves the record out"),
    "no-images": _error(f"{_YOURS}: there is nothing to learn from"),
    "no-annotations": _warning("every image is read as empty of what the dataset labels"),
    "reader": _error("mend what the line says"),
    "remark": _warning("it is read as the line says"),
}
IMAGES: Final = {
    "image-id-missing": _error(_OUT),
    "image-id-type": _error(_OUT),
    "image-id-twice": _error("--fix leaves both images out unless they are the same picture"),
    "file-name-missing": _error(_OUT),
    "file-name-type": _error(_OUT),
    "file-name-hostile": _error(_OUT),
    "file-name-twice": _error("--fix joins the annotations under the first"),
    "size-missing": _warning("it is read from the picture; --fix writes it down"),
    "size-impossible": _error("--fix takes the picture's own"),
    "picture-missing": _error(_OUT),
    "picture-damaged": _error(_OUT),
    "picture-too-large": _error(f"scale it down; {_OUT}"),
    "size-disagrees": _error("--fix scales the boxes along where the proportions agree, else it leaves the image out"),
    "size-turned": _error(f"annotate the upright picture; {_OUT}"),
    "pictures-unlisted": _note("they are not used"),
    "folder-missing": _error("check the split's 'images' and the dataset's 'path'"),
}
CATEGORIES: Final = {
    "category-id-missing": _error("--fix leaves the category out"),
    "category-id-type": _error("--fix leaves the category and its annotations out"),
    "category-id-twice": _error("--fix leaves both categories and their annotations out unless the names agree"),
    "category-name-missing": _error("--fix leaves the category and its annotations out"),
    "category-name-type": _error("--fix leaves the category and its annotations out"),
    "category-name-spaces": _error("--fix strips them"),
    "category-name-twice": _warning("they are taken to be one; --fix joins them"),
    "category-background": _warning("it is learned as an object; leave the category out if it is none"),
    "categories-unused": _note("they are in the vocabulary all the same"),
    "no-categories": _error(f"{_YOURS}: name the classes"),
    "names-alike": _error("write an alias if they are one class; --fix takes the more frequent name for both"),
    "names-similar": _warning("they are taken to be two; write an alias if one is misspelt"),
}
ANNOTATIONS: Final = {
    "annotation-id-missing": _warning("it is not needed here; --fix numbers it"),
    "annotation-id-type": _error("--fix numbers it anew"),
    "annotation-id-twice": _error("--fix numbers the later one anew"),
    "image-unknown": _error(_DROP),
    "category-unknown": _error(_DROP),
    "box-missing": _error(f"--fix takes the outline's box; without one, {_VEIL.removeprefix('--fix ')}"),
    "box-type": _error(_VEIL),
    "box-text": _error(f"--fix writes numbers; where it cannot, {_VEIL.removeprefix('--fix ')}"),
    "box-not-finite": _error(_VEIL),
    "box-no-area": _error(_DROP),
    "box-swapped": _error("--fix turns the corners round"),
    "box-outside": _error(_DROP),
    "box-over-edge": _error("--fix clips it to the image"),
    "box-corners": _error("--fix takes them for corners"),
    "box-tiny": _note("they are learned as they are"),
    "box-twice": _warning("both are learned; --fix keeps the first"),
    "box-two-classes": _warning("both are learned"),
    "area-impossible": _warning("the box's own is taken; --fix writes it"),
    "area-over-box": _warning("it is taken as it is; --fix writes the box's own"),
    "crowd-value": _error("--fix writes 0 or 1 where it can tell, else it leaves the annotation out"),
    "outline-malformed": _warning("it is not used for boxes; --fix leaves the outline out"),
    "keypoints-malformed": _warning("they are not used for boxes; --fix leaves them out"),
}
DATASETS: Final = {
    "says-nothing": _error("add 'labelled: {det: all}' or whatever it labels"),
    "claims-unknown-class": _error("mend 'labelled'"),
    "claims-unknown-task": _warning("no task of that name will find these labels unless you name one so"),
    "claims-nothing-there": _error("mend 'labelled', 'tags' or 'identity'"),
    "class-only-in-val": _error("add it to train; --fix leaves these annotations out"),
    "class-without-train-box": _warning("it cannot be learned, and is scored all the same"),
    "same-file": _warning("scores on val say nothing about other images"),
    "same-picture": _warning("scores on val are flattered; move it to one side"),
    "near-duplicate": _warning("scores on val may be flattered; move it to one side"),
}

READERS: Final = {
    "file-unreadable": _error(f"{_YOURS}: write the file again"),
    "listed-twice": _error("name it once"),
    "column-missing": _error("name a column that is there, or add it"),
    "classes-malformed": _error("mend the list of classes"),
    "class-unknown": _error("add the class, or mend the record"),
    "record-malformed": _error("mend the record, or take it away"),
    "pictures-alike": _error("rename one of them"),
    "picture-without-class": _error("put it into a class's folder"),
    "identity-disagrees": _error("mend one of the records"),
}
"""What the readers of formats other than COCO find in their own files."""

FAULTS: Final[dict[str, Fault]] = {**FILE, **IMAGES, **CATEGORIES, **ANNOTATIONS, **DATASETS, **READERS}

_IGNORED: Final = "mend it there; --fix ignores the picture where it has no box"
ELSEWHERE: Final[dict[str, str]] = {
    "image-id-twice": "refused; rename one of the pictures",
    "file-name-hostile": "refused; mend the name",
    "file-name-twice": "refused; name it once",
    "picture-missing": "refused; add the picture, or take the record away; --fix leaves it out",
    "picture-damaged": "refused; put a whole picture there, or take it away; --fix leaves it out",
    "picture-too-large": "refused; scale it down",
    "size-impossible": "refused; mend the size, or take it away",
    "size-disagrees": "refused; mend the size and the boxes, which are drawn on another picture",
    "size-turned": "refused; annotate the upright picture",
    "file-missing": "refused; add the file, or take its name from the list",
    "box-not-finite": f"refused; {_IGNORED}",
    "box-no-area": "refused; mend it there; --fix leaves the box out",
    "box-swapped": f"refused; {_IGNORED}",
    "box-outside": "refused; mend it there; --fix leaves the box out",
    "box-over-edge": "refused; mend it there; --fix clips it to the image",
    "box-twice": "both are learned",
    "class-only-in-val": "refused; add it to train",
}
"""What is done about faults in formats other than COCO, where it differs; --fix writes their copy as COCO."""
