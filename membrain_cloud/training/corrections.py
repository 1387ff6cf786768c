"""Corrections that annotators make to patches, and rules that combine the marks of several annotators.

Marks take the values of `training.labels`: 0 unmarked, 1 membrane, 2 ignore, 3 background. Annotators review a patch
as a whole. A voxel that they leave at 0 therefore counts as background, unless it is explicitly set to be ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND, MEMBRANE, UNMARKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from membrain_cloud.geometry import Box, Zyx

Marks = NDArray[np.uint8]
Rule = Literal["agree", "majority", "last"]


def patch_border(box: Box, shape: Zyx, border: int) -> NDArray[np.bool_]:
    """Return the border mask of a patch: the sides where the patch was cut out of its tomogram.

    Parameters
    ----------
    box : Box
        The patch within its tomogram, in voxels.
    shape : tuple of int
        Shape (z, y, x) of the tomogram. Faces of the tomogram itself have no border.
    border : int
        Width of the border, in voxels.

    Returns
    -------
    mask : ndarray of shape `box.shape`, bool
        True in the border.

    Raises
    ------
    UsageError
        If no voxel lies inside the border.
    """
    inner = []
    for start, stop, length in zip(box.start, box.stop, shape, strict=True):
        first = border if start > 0 else 0
        last = (stop - start) - (border if stop < length else 0)
        if first >= last:
            raise UsageError(
                f"a border of {border} voxels leaves nothing of a patch of {box.shape}", "choose a smaller border"
            )
        inner.append(slice(first, last))
    mask = np.ones(box.shape, np.bool_)
    mask[tuple(inner)] = False
    return mask


def prefill_marks(prediction: NDArray[Any], border: NDArray[np.bool_]) -> Marks:
    """Return the marks that an annotator starts from.

    Parameters
    ----------
    prediction : ndarray of shape (Z, Y, X), any numeric dtype
        Predicted membranes; every value other than 0 is membrane.
    border : ndarray of shape (Z, Y, X), bool
        Border of the patch, which is ignored.

    Returns
    -------
    marks : ndarray of shape (Z, Y, X), uint8
        1 for predicted membrane, 2 in the border, 0 elsewhere.
    """
    marks: Marks = (prediction != 0).astype(np.uint8)
    marks[border] = IGNORE
    return marks


def apply_corrections(base: Marks, remove: NDArray[Any], add: NDArray[Any], ignore: NDArray[Any]) -> Marks:
    """Apply three correction masks to a patch, in MemBrain-seg's order: remove, add, ignore.

    Parameters
    ----------
    base : ndarray of shape (Z, Y, X), uint8
        Marks to correct; they are not changed.
    remove, add, ignore : ndarray of shape (Z, Y, X), any numeric dtype
        Voxels above 0 become 0 (unmarked), 1 (membrane) and 2 (ignore).

    Returns
    -------
    marks : ndarray of shape (Z, Y, X), uint8
        The corrected marks.
    """
    corrected = base.copy()
    corrected[remove > 0] = UNMARKED
    corrected[add > 0] = MEMBRANE
    corrected[ignore > 0] = IGNORE
    return corrected


def fill_unmarked(marks: NDArray[Any], name: str, *, unmarked: int = MARKED_BACKGROUND) -> Marks:
    """Check an annotator's marks of a patch and replace 0 by an explicit mark.

    Parameters
    ----------
    marks : ndarray of shape (Z, Y, X), integer dtype
        Values 0 to 3.
    name : str
        Name of the annotation, for the error message.
    unmarked : int
        The mark that replaces 0. Default: background.

    Returns
    -------
    marks : ndarray of shape (Z, Y, X), uint8
        Values 1, 2 and 3.

    Raises
    ------
    InputError
        If there are other values.
    """
    if marks.size and not 0 <= int(marks.min()) <= int(marks.max()) <= MARKED_BACKGROUND:
        raise InputError(
            f"{name} holds values from {marks.min()} to {marks.max()}",
            "marks are 0 or 3 background, 1 membrane, 2 ignore: check the labels of the objects that were painted",
        )
    filled = marks.astype(np.uint8)
    filled[filled == UNMARKED] = unmarked
    return filled


def marks_from_masks(
    membrane: NDArray[Any] | None, background: NDArray[Any] | None, ignore: NDArray[Any] | None, shape: Zyx
) -> Marks:
    """Combine an annotator's masks of three objects. Ignore overrides background, which overrides membrane.

    Parameters
    ----------
    membrane : ndarray of shape `shape`, any numeric dtype, or None
        Mask of the membrane. Marks (values 0 to 3) are copied unchanged.
    background, ignore : ndarray of shape `shape`, any numeric dtype, or None
        Masks; values other than 0 are set. None if the annotator did not paint the object.
    shape : tuple of int
        Shape (z, y, x) of the patch.

    Returns
    -------
    marks : ndarray of shape `shape`, uint8
        Values 0 to 3 for masks.
    """
    marks = np.zeros(shape, np.uint8)
    if membrane is not None:
        marks[:] = np.minimum(membrane, 255)
    if background is not None:
        marks[background != 0] = MARKED_BACKGROUND
    if ignore is not None:
        marks[ignore != 0] = IGNORE
    return marks


def combine_annotators(annotations: Sequence[Marks], rule: Rule) -> Marks:
    """Combine several annotators' marks of one patch.

    Parameters
    ----------
    annotations : sequence of ndarray of shape (Z, Y, X), uint8
        Marks without 0, as `fill_unmarked` returns them; at least one annotator.
    rule : {"agree", "majority", "last"}
        "agree" keeps what all annotators agree on and ignores all other voxels. "majority" takes the more frequent of
        membrane and background, and ignores ties. "last" takes the last annotator who did not mark a voxel as ignored.

    Returns
    -------
    marks : ndarray of shape (Z, Y, X), uint8
        Values 1, 2 and 3.
    """
    if rule == "agree":
        agreed = annotations[0].copy()
        for other in annotations[1:]:
            agreed[other != agreed] = IGNORE
        return agreed
    if rule == "last":
        last = annotations[0].copy()
        for other in annotations[1:]:
            np.copyto(last, other, where=other != IGNORE)
        return last
    votes = np.zeros(annotations[0].shape, np.int32)
    for marks in annotations:
        votes += (marks == MEMBRANE).astype(np.int32) - (marks == MARKED_BACKGROUND)
    return np.where(votes > 0, MEMBRANE, np.where(votes < 0, MARKED_BACKGROUND, IGNORE)).astype(np.uint8)


def compose_patches(box: Box, patches: Iterable[tuple[Box, Marks, NDArray[np.bool_]]]) -> Marks:
    """Return the marks of a box, taken from all patches that overlap it.

    Parameters
    ----------
    box : Box
        Region of the tomogram, in voxels.
    patches : iterable of (Box, ndarray uint8, ndarray bool)
        Position, marks and border mask of each patch, the arrays of the patch's shape. Later patches override earlier
        ones. Voxels of a border are ignored unless they lie inside the border of another patch.

    Returns
    -------
    marks : ndarray of shape `box.shape`, uint8
        0 where no patch lies.
    """
    marks = np.zeros(box.shape, np.uint8)
    overlapping = [patch for patch in patches if patch[0].intersection(box) is not None]
    for inner in (False, True):
        for position, patch_marks, border in overlapping:
            part = position.intersection(box)
            assert part is not None
            cut = part.within(position)
            target = marks[part.within(box)]
            if inner:
                np.copyto(target, patch_marks[cut], where=~border[cut])
            else:
                target[border[cut]] = IGNORE
    return marks
