"""What annotators make of a patch, and what is made of several annotators' words on it.

Values are those of training/labels.py: 0 nothing said, 1 membrane, 2 ignore, 3 background. A patch is looked at as a
whole, so what an annotator leaves at 0 in one is background, unless it is asked to be ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND, MEMBRANE, UNMARKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from membrain_cloud.geometry import Box, Zyx

Marks = NDArray[np.uint8]
Rule = Literal["agree", "majority", "last"]


def border_of(box: Box, shape: Zyx, border: int) -> NDArray[np.bool_]:
    """Where a patch's border lies: on the sides that cut a tomogram of `shape`, not on the tomogram's own faces.

    Raises UsageError for a border that leaves nothing of the patch.
    """
    inner = []
    for start, stop, length in zip(box.start, box.stop, shape, strict=True):
        first = border if start > 0 else 0
        last = (stop - start) - (border if stop < length else 0)
        if first >= last:
            raise UsageError(
                f"a border of {border} voxels leaves nothing of a patch of {box.shape}", "take a smaller --border"
            )
        inner.append(slice(first, last))
    mask = np.ones(box.shape, np.bool_)
    mask[tuple(inner)] = False
    return mask


def prefilled(prediction: NDArray, border: NDArray[np.bool_]) -> Marks:
    """What an annotator begins with: 1 where `prediction` is not 0, 2 in the border, 0 elsewhere."""
    marks = (prediction != 0).astype(np.uint8)
    marks[border] = IGNORE
    return marks


def apply_corrections(base: Marks, remove: NDArray, add: NDArray, ignore: NDArray) -> Marks:
    """MemBrain-seg's order: what `remove` marks becomes 0, then what `add` marks 1, then what `ignore` marks 2."""
    corrected = base.copy()
    corrected[remove > 0] = UNMARKED
    corrected[add > 0] = MEMBRANE
    corrected[ignore > 0] = IGNORE
    return corrected


def spoken(marks: NDArray, what: str, *, unmarked: int = MARKED_BACKGROUND) -> Marks:
    """An annotator's patch with a word on every voxel: 1, 2 or 3; 0 becomes `unmarked`.

    InputError, naming `what`, for other values.
    """
    if marks.size and not 0 <= int(marks.min()) <= int(marks.max()) <= MARKED_BACKGROUND:
        raise InputError(
            f"{what} holds values from {marks.min()} to {marks.max()}",
            "marks are 0 or 3 background, 1 membrane, 2 ignore: check the labels of the objects that were painted",
        )
    said = marks.astype(np.uint8)
    said[said == UNMARKED] = unmarked
    return said


def from_objects(membrane: NDArray | None, background: NDArray | None, ignore: NDArray | None, shape: Zyx) -> Marks:
    """One annotator's yes/no masks of three objects as marks; where they overlap, ignore goes before background before
    membrane. A `membrane` of marks (values to 3) is taken as it is.
    """
    marks = np.zeros(shape, np.uint8)
    if membrane is not None:
        marks[:] = np.minimum(membrane, 255)
    if background is not None:
        marks[background != 0] = MARKED_BACKGROUND
    if ignore is not None:
        marks[ignore != 0] = IGNORE
    return marks


def joined(words: Sequence[Marks], rule: Rule) -> Marks:
    """Several annotators' words (1, 2 or 3 in every voxel) as one.

    `agree`: what all say, and ignore where they differ. `majority`: what more say, those who say ignore left out, and
    ignore where there are as many. `last`: of those who do not say ignore the last one.
    """
    if rule == "agree":
        first = words[0].copy()
        for other in words[1:]:
            first[other != first] = IGNORE
        return first
    if rule == "last":
        last = words[0].copy()
        for other in words[1:]:
            np.copyto(last, other, where=other != IGNORE)
        return last
    votes = np.zeros(words[0].shape, np.int32)
    for word in words:
        votes += (word == MEMBRANE).astype(np.int32) - (word == MARKED_BACKGROUND)
    return np.where(votes > 0, MEMBRANE, np.where(votes < 0, MARKED_BACKGROUND, IGNORE)).astype(np.uint8)


def compose(box: Box, patches: Iterable[tuple[Box, Marks, NDArray[np.bool_]]]) -> Marks:
    """The marks of `box`, of all patches that reach into it: (where, words, border) each; 0 where there is none.

    A border is ignored, unless another patch has a word on it.
    """
    marks = np.zeros(box.shape, np.uint8)
    there = [patch for patch in patches if patch[0].intersection(box) is not None]
    for inner in (False, True):
        for place, words, border in there:
            part = place.intersection(box)
            assert part is not None
            cut = part.within(place)
            target = marks[part.within(box)]
            if inner:
                np.copyto(target, words[cut], where=~border[cut])
            else:
                target[border[cut]] = IGNORE
    return marks
