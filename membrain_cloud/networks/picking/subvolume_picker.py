"""A trained picker of MemBrain v1's kind: its network, and how the boxes that it sees are cut and scaled."""

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

    edge, spacing_angstrom : of the boxes, in voxels an axis and Å; their first axis runs along the outward normal.
    score_unit_angstrom, classes, name, sha256, notes : as of `networks.picker.Picker`.
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
        """A name for each output; none where there is one kind of particle that has no name."""
        return class_names(self.classes, self.network.outputs)

    @property
    def reach_angstrom(self) -> float:
        """How far from a vertex it looks."""
        return float(np.sqrt(3.0) / 2 * (self.edge - 1) * self.spacing_angstrom)

    def predict_boxes(self, boxes: NDArray[np.floating], *, mean: float, deviation: float) -> NDArray[np.float32]:
        """(V, e, e, e) boxes -> (V,) scores, or (V, K) of K classes.

        mean, deviation : of the membrane that the boxes are of; they may be in any linear scale of density.
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
    """The classes' names, `class-1` ... where a network of several outputs has none; none for a single one without."""
    return given if given or outputs == 1 else tuple(f"class-{k}" for k in range(1, outputs + 1))
