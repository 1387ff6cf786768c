"""Marks of annotators, and the rule that merges them into labels for training.

A voxel of an annotator's segmentation is UNMARKED, MEMBRANE, IGNORE or MARKED_BACKGROUND. Training sees BACKGROUND,
MEMBRANE or IGNORE. Drawing programs leave untouched voxels at 0, so the value 0 alone is ambiguous: it is background in
a mask of a whole tomogram, and unknown where only a few patches were corrected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNMARKED, MEMBRANE, IGNORE, MARKED_BACKGROUND = 0, 1, 2, 3
BACKGROUND = 0


def merge_labels(layers: Sequence[NDArray[np.integer[Any]]], *, partial: bool | None = None) -> NDArray[np.uint8]:
    """Merge the marks of one or more annotators into labels for training.

    A later layer overrides an earlier one wherever it has a mark. Voxels that are unmarked in all layers become
    background if the first layer is a whole mask, and are ignored if it is partial.

    Parameters
    ----------
    layers : sequence of ndarray of one shape, integer dtype
        Values UNMARKED, MEMBRANE, IGNORE and MARKED_BACKGROUND.
    partial : bool or None
        Whether unmarked voxels are ignored. Default None: they are if the first layer holds MARKED_BACKGROUND anywhere.
        Give a value if the layers are cut out of larger ones.

    Returns
    -------
    labels : ndarray of the layers' shape, uint8
        BACKGROUND, MEMBRANE or IGNORE.

    Raises
    ------
    InputError
        If there is no layer, shapes differ, or a layer holds other values.
    """
    if not layers:
        raise InputError("there are no labels to merge", "name at least one segmentation")
    for number, layer in enumerate(layers):
        if layer.shape != layers[0].shape:
            raise InputError(
                f"labels of shape {layer.shape} do not fit on labels of shape {layers[0].shape}",
                "annotations that are merged must be of one tomogram at one voxel spacing",
            )
        if layer.size and (layer.min() < UNMARKED or layer.max() > MARKED_BACKGROUND):
            raise InputError(
                f"segmentation {number + 1} holds values from {layer.min()} to {layer.max()}",
                "marks are 0 unmarked, 1 membrane, 2 ignore, 3 background; for instances, use ?instance=true",
            )
    if partial is None:
        partial = bool((layers[0] == MARKED_BACKGROUND).any())
    merged = np.full(layers[0].shape, IGNORE if partial else BACKGROUND, np.uint8)
    for layer in layers:
        marked = layer != UNMARKED
        merged[marked] = np.where(layer[marked] == MARKED_BACKGROUND, BACKGROUND, layer[marked])
    return merged
