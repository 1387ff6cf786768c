"""How precisely picks are placed and oriented, compared with particles of known truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Picks


@dataclass(frozen=True)
class Placement:
    """Medians over the picks that have a true particle within the radius; None where there are none.

    Attributes
    ----------
    center_angstrom : float or None
        Distance from the nearest true centre in Å.
    normal_degrees : float or None
        Angle between the z axes of pick and particle.
    in_plane_degrees : float or None
        Angle between their x axes, seen along the true normal and up to half a turn: 90 at most, 45 by chance. Over
        picks and particles whose in-plane angle is known.
    """

    center_angstrom: float | None
    normal_degrees: float | None
    in_plane_degrees: float | None


def placement(predicted: Picks, true: Picks, radius_angstrom: float) -> Placement:
    """Compare each pick with the nearest true particle within a radius.

    Parameters
    ----------
    predicted, true : Picks
        Picks and particles, xyz in Å.
    radius_angstrom : float
        Radius in Å.

    Returns
    -------
    Placement
        The medians.
    """
    if not len(predicted) or not len(true):
        return Placement(None, None, None)
    distance, nearest = cKDTree(true.positions).query(predicted.positions)
    right = np.flatnonzero(distance <= radius_angstrom)
    if predicted.orientations is None or true.orientations is None:
        return Placement(_median(distance[right]), None, None)
    ours, theirs = predicted.orientations[right], true.orientations[nearest[right]]
    cosine = (ours[:, :, 2] * theirs[:, :, 2]).sum(axis=1)
    known = np.ones(len(right), bool) if predicted.in_plane is None else predicted.in_plane[right]
    if true.in_plane is not None:
        known &= true.in_plane[nearest[right]]
    own = np.einsum("nki,nk->ni", theirs[known], ours[known, :, 0])  # our x axis in the particle's frame
    turned = np.degrees(np.arctan2(np.abs(own[:, 1]), np.abs(own[:, 0])))
    return Placement(_median(distance[right]), _median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), _median(turned))


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None
