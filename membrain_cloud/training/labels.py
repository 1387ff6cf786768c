"""What annotators mark, and how the marks of several become one set of labels to train on.

A voxel of an annotator's segmentation is UNMARKED, MEMBRANE, IGNORE or MARKED_BACKGROUND; training sees BACKGROUND,
MEMBRANE or IGNORE. A drawing program leaves everything that nobody touched at 0. So 0 alone cannot say "background":
in a mask of a whole tomogram it means that, in a few corrected patches it means "nobody looked here".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNMARKED, MEMBRANE, IGNORE, MARKED_BACKGROUND = 0, 1, 2, 3
BACKGROUND = 0


def merge_labels(layers: Sequence[NDArray[np.integer]], *, partial: bool | None = None) -> NDArray[np.uint8]:
    """Marks of one or more annotators, first to last -> labels to train on.

    A later layer overrides an earlier one wherever it marks anything. What no layer marks is background where the
    first layer is a whole mask, and ignored where it is partial.

    Parameters
    ----------
    layers : arrays of one shape, of UNMARKED, MEMBRANE, IGNORE and MARKED_BACKGROUND.
    partial : whether the unmarked is ignored; None: it is if the first layer holds MARKED_BACKGROUND anywhere. Give it
        when the layers are cut out of larger ones.

    Returns
    -------
    uint8 of the layers' shape: BACKGROUND, MEMBRANE or IGNORE.

    Raises InputError for no layer, other shapes, or other values.
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
                "marks are 0 nothing, 1 membrane, 2 ignore, 3 background; of instances, say ?instance=true",
            )
    if partial is None:
        partial = bool((layers[0] == MARKED_BACKGROUND).any())
    merged = np.full(layers[0].shape, IGNORE if partial else BACKGROUND, np.uint8)
    for layer in layers:
        marked = layer != UNMARKED
        merged[marked] = np.where(layer[marked] == MARKED_BACKGROUND, BACKGROUND, layer[marked])
    return merged
