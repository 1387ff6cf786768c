"""Orientations: RELION's angles, and the angle between two particles in the plane of their membrane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import FloatArray

InPlane = Literal["turned", "projected"]


def relion_angles(orientations: FloatArray) -> NDArray[np.float64]:
    """(N, 3, 3) rotations, particle's frame to tomogram's -> (N, 3) rot, tilt, psi in degrees.

    Intrinsic ZYZ angles of the inverse rotation, as RELION has them: Rz(rot) Ry(tilt) Rz(psi) takes the tomogram's
    frame to the particle's. Where tilt is 0 or 180, only one of rot and psi is defined, and rot is 0.
    """
    inverse = np.swapaxes(np.asarray(orientations, np.float64), 1, 2)
    sine = np.hypot(inverse[:, 0, 2], inverse[:, 1, 2])
    tilt = np.arctan2(sine, inverse[:, 2, 2])
    upright = sine < 1e-9
    rot = np.where(upright, 0.0, np.arctan2(inverse[:, 1, 2], inverse[:, 0, 2]))
    psi = np.where(
        upright,
        np.arctan2(inverse[:, 1, 0], inverse[:, 1, 1]),
        np.arctan2(inverse[:, 2, 1], -inverse[:, 2, 0]),
    )
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def in_plane_angles_degrees(
    ones: NDArray[np.float64],
    others: NDArray[np.float64],
    *,
    symmetry: int,
    way: InPlane,
    normals: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(N,) angle between the y axes of rotations (N, 3, 3) in the membrane's plane, 0 to 180 / symmetry degrees.

    symmetry : of the particles about their z axes, n of Cn; turns by 360 / n are the same.
    way : `turned`: after the smallest turn of the other's z axis onto the one's, so that on a bent membrane the angle
        is that of the plane. `projected`: both y axes projected to the plane of `normals` (N, 3), the mean of the
        membrane's at the two places, as membrain-stats does.
    NaN for opposite z axes (turned), for a y axis along the normal (projected), and for what is not finite.
    """
    y_one, y_other = ones[:, :, 1], others[:, :, 1]
    if way == "projected":
        if normals is None:
            raise ValueError("angles in a projection need the membrane's normals")
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        unit = np.divide(normals, lengths, out=np.full(normals.shape, np.nan), where=lengths > 0.0)
        flat_one, flat_other = (y - (y * unit).sum(axis=1, keepdims=True) * unit for y in (y_one, y_other))
        return _folded(flat_one, flat_other, symmetry)
    z_one, z_other = ones[:, :, 2], others[:, :, 2]
    axis, cosine = np.cross(z_other, z_one), (z_other * z_one).sum(axis=1)
    known = np.isfinite(cosine) & (cosine >= -1.0 + 1e-6)
    along = (axis * y_other).sum(axis=1) / np.where(known, 1.0 + cosine, np.nan)
    turned = y_other * cosine[:, None] + np.cross(axis, y_other) + axis * along[:, None]
    return _folded(turned, y_one, symmetry)


def in_plane_angle_degrees(one: NDArray[np.float64], other: NDArray[np.float64], symmetry: int = 1) -> float | None:
    """The same, turned, for two rotations (3, 3); None where it is not known."""
    (angle,) = in_plane_angles_degrees(one[None], other[None], symmetry=symmetry, way="turned")
    return float(angle) if np.isfinite(angle) else None


def _folded(one: NDArray[np.float64], other: NDArray[np.float64], symmetry: int) -> NDArray[np.float64]:
    """(N,) degrees between vectors, as the smallest of those that turns by 360 / symmetry make of it."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.divide((one * other).sum(axis=1), lengths, out=np.full(len(one), np.nan), where=lengths > 1e-12)
    angle = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    step = 360.0 / symmetry
    rest = np.mod(angle, step)
    return np.minimum(rest, step - rest)
