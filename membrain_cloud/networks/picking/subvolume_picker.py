"""A trained picker of MemBrain v1's kind: its network, and how its boxes are cut and scaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from membrain_cloud.networks.picking.subvolume_net import SubvolumeNet

_BOXES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class SubvolumePicker:
    """A SubvolumeNet that predicts, for a point of a membrane, the distance to the nearest particle.

    Attributes
    ----------
    edge, spacing_angstrom : int, float
        Edge of the boxes in voxels and their voxel spacing in Å; their first axis is along the outward normal.
    score_unit_angstrom, classes, name, sha256, notes
        As of `Picker`.
    """

    network: SubvolumeNet
    edge: int
    spacing_angstrom: float
    score_unit_angstrom: float
    classes: tuple[str, ...] = ()
    name: str = ""
    sha256: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each output; empty for one class without a name."""
        return class_names(self.classes, self.network.outputs)

    @property
    def reach_angstrom(self) -> float:
        """Distance from a vertex to the corner of its box, in Å."""
        return float(np.sqrt(3.0) / 2 * (self.edge - 1) * self.spacing_angstrom)

    def predict_boxes(self, boxes: NDArray[np.floating], *, mean: float, deviation: float) -> NDArray[np.float32]:
        """Predict the scores of boxes.

        Parameters
        ----------
        boxes : ndarray, shape (V, e, e, e), floating
            Densities in any linear scale.
        mean, deviation : float
            Of the membrane that the boxes belong to.

        Returns
        -------
        ndarray, shape (V,) or (V, K), float32
            Scores, with one column for each of K classes.
        """
        where = next(self.network.parameters()).device
        found = np.empty((len(boxes), self.network.outputs), np.float32)
        with torch.inference_mode():
            for start in range(0, len(boxes), _BOXES_AT_ONCE):
                part = (np.asarray(boxes[start : start + _BOXES_AT_ONCE], np.float32) - mean) / deviation
                scores = self.network(torch.from_numpy(part.astype(np.float32)[:, None]).to(where))
                found[start : start + _BOXES_AT_ONCE] = scores.cpu().numpy()
        return found[:, 0] if found.shape[1] == 1 else found


def class_names(given: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """Return a name for each class of particles.

    Parameters
    ----------
    given : tuple of str
        Names of the file.
    outputs : int
        Outputs of the network.

    Returns
    -------
    tuple of str
        The names; `class-1` ... where several outputs have none; empty for one output without a name.
    """
    return given if given or outputs == 1 else tuple(f"class-{k}" for k in range(1, outputs + 1))
