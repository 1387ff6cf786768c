"""Figures of a network in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from membrain_cloud.report.figures import png

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LABEL_COLOURS = ListedColormap(["#f4f4f4", "#0072b2", "#c8c8c8"])  # background, membrane, ignore


def predictions_figure(
    images: NDArray[np.floating], labels: NDArray[np.integer], logits: NDArray[np.floating], *, title: str
) -> bytes:
    """Draw a few patches: the middle slice of the image, of its labels, and of the predicted membrane probability.

    Parameters
    ----------
    images : (N, w, w, w) floating array
        Patches of tomograms.
    labels : (N, w, w, w) integer array
        0 background, 1 membrane, 2 ignore (grey).
    logits : (N, w, w, w) floating array
        Output of the network; the sigmoid is the probability.
    title : str
        Heading of the figure.

    Returns
    -------
    bytes
        A PNG with one row a patch.
    """
    count = len(images)
    figure = Figure(figsize=(7.5, 2.5 * count + 0.4), dpi=100, layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False)
    figure.suptitle(title)
    for row, image, label, scores in zip(axes, images, labels, logits, strict=True):
        middle = len(image) // 2
        low, high = np.percentile(image[middle], [1, 99])
        row[0].imshow(image[middle], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
        row[1].imshow(label[middle], cmap=_LABEL_COLOURS, vmin=0, vmax=2, interpolation="nearest", origin="lower")
        probability = 1 / (1 + np.exp(-np.clip(scores[middle], -30, 30)))
        row[2].imshow(probability, cmap="viridis", vmin=0, vmax=1, origin="lower")
    for panel, name in zip(axes[0], ("image", "label", "prediction"), strict=True):
        panel.set_title(name)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return png(figure, opaque=True)
