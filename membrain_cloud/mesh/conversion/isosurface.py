"""The surface of a binary mask, at sub-voxel accuracy: a smooth field and its level surface.

A binary mask gives its boundary only to half a voxel, and its marching-cubes surface is a staircase whose area is about
9 % too large. A Gaussian removes the steps but shrinks curved surfaces: the level 1/2 moves towards the centre of
curvature by sigma² * H (H the mean curvature). Subtracting sigma²/2 times the Laplacian cancels that to leading order
(a kernel of fourth order). A sheet stays above the level when it is at least about 1.2 sigma thick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyvista
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.5
_TRUNCATE = 4.0
# Voxels of field held at once: larger masks are done in slabs along z, with the same result.
_SLAB_VOXELS = 2**26


class Field:
    """A mask smoothed on the fly: its value is 1/2 on the mask's surface, about 1 inside and 0 outside.

    Beyond the array the mask is background, so one that reaches the array's border is closed there, half a voxel beyond
    the last voxel's centre.

    Parameters
    ----------
    mask : (Z, Y, X) bool
        The mask.
    sigma : float
        Sigma of the Gaussian, voxels.
    """

    def __init__(self, mask: NDArray[np.bool_], sigma: float) -> None:
        self.mask = mask
        self.sigma = sigma
        self._last: tuple[int, int, NDArray[np.float32]] | None = None

    @property
    def slabs(self) -> list[tuple[int, int]]:
        """Ranges of z that cover the field, margins included; neighbours share one plane."""
        margin, (depth, height, width) = self.margin, self.mask.shape
        step = max(1, _SLAB_VOXELS // ((height + 2 * margin) * (width + 2 * margin)) - 1)
        last = depth + margin - 1
        return [(start, min(start + step, last) + 1) for start in range(-margin, last, step)]

    @property
    def margin(self) -> int:
        """Voxels beyond the mask within which the field is not 0."""
        return int(_TRUNCATE * self.sigma + 0.5) + 1

    def slab(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the field in a slab.

        Parameters
        ----------
        start, stop : int
            Range of z in the mask's voxels; may lie beyond the mask.

        Returns
        -------
        (stop - start, Y + 2 margin, X + 2 margin) float32
            The field, y and x grown by the margin on both sides.
        """
        if self._last is not None and self._last[:2] == (start, stop):
            return self._last[2]
        margin = self.margin
        inner = slice(max(0, start - margin), min(self.mask.shape[0], stop + margin))
        if not self.mask[inner].any():
            return np.zeros((stop - start, *(n + 2 * margin for n in self.mask.shape[1:])), np.float32)
        before, after = inner.start - (start - margin), stop + margin - inner.stop
        padded = np.pad(self.mask[inner], ((before, after), (margin, margin), (margin, margin))).astype(np.float32)
        smooth = ndimage.gaussian_filter(padded, self.sigma, truncate=_TRUNCATE, mode="constant")
        smooth -= np.float32(self.sigma**2 / 2.0) * ndimage.laplace(smooth, mode="constant")
        self._last = (start, stop, smooth[margin : len(smooth) - margin])
        return self._last[2]

    def lost(self) -> float:
        """Return the share of the mask's voxels that lie outside the surface: thin sheets, specks, rims."""
        inside = 0
        for start, stop in self.slabs:
            first, last = max(0, start), min(len(self.mask), stop - 1)  # the shared plane counts once
            values = self.slab(start, stop)[first - start : last - start]
            crop = tuple(slice(self.margin, self.margin + n) for n in self.mask.shape[1:])
            inside += int(np.count_nonzero(values[:, crop[0], crop[1]][self.mask[first:last]] > LEVEL))
        return 1.0 - inside / max(1, int(np.count_nonzero(self.mask)))

    def offsets(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return vectors from points near the surface onto it: one Newton step, at most a voxel long.

        Parameters
        ----------
        points : (N, 3) float64
            zyx in the mask's voxels.

        Returns
        -------
        (N, 3) float64
            zyx, voxels.
        """
        result = np.zeros_like(points)
        slabs = self.slabs
        owner = np.searchsorted([start for start, _ in slabs], points[:, 0], side="right") - 1
        for index in np.unique(owner):
            start, stop = slabs[index]
            # the gradient's differences reach half a voxel over the slab's planes
            values = self.slab(start, stop) if len(slabs) == 1 else self.slab(start - 1, stop + 1)
            origin = np.array([start - (len(slabs) > 1), -self.margin, -self.margin])
            result[owner == index] = _newton_step(values, points[owner == index] - origin)
        return result


def level_surface(field: Field) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the surface where a field is 1/2, closed; slab by slab, which share a plane whose vertices are merged.

    Parameters
    ----------
    field : Field
        The field.

    Returns
    -------
    vertices : (V, 3) float64
        zyx in the mask's voxels.
    faces : (F, 3) int64
        Wound so that normals point out of the mask once the vertices are in the order xyz.

    References
    ----------
    Schroeder, Maynard and Geveci, Flying edges: a high-performance scalable isocontouring algorithm, LDAV 2015.
    """
    margin = field.margin
    vertices: list[NDArray[np.float64]] = []
    faces: list[NDArray[np.int64]] = []
    count = 0
    for start, stop in field.slabs:
        points, triangles = _contour(field.slab(start, stop))
        vertices.append(points + np.array([start, -margin, -margin]))
        faces.append(triangles + count)
        count += len(points)
    joined, joined_faces = np.concatenate(vertices), np.concatenate(faces)
    if len(vertices) > 1:
        joined, joined_faces = _merge_equal(joined, joined_faces)
    return joined, joined_faces


def _newton_step(values: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step (N, 3) from points (N, 3), in voxels of the field's values, to the level."""

    def sample(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.map_coordinates(values, at.T, order=1, mode="nearest", output=np.float64))

    steps = np.eye(3) / 2.0
    gradient = np.stack([sample(points + step) - sample(points - step) for step in steps], axis=1)
    squared = (gradient**2).sum(axis=1)
    factor = np.divide(LEVEL - sample(points), squared, out=np.zeros(len(points)), where=squared > 1e-6)
    move = factor[:, None] * gradient
    length = np.linalg.norm(move, axis=1, keepdims=True)
    step: NDArray[np.float64] = move / np.maximum(length, 1.0)
    return step


def _contour(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices (V, 3) zyx and faces (F, 3) of the level in one array."""
    # a voxel exactly at the level would put several vertices at one position
    values = np.where(values == LEVEL, np.nextafter(np.float32(LEVEL), np.float32(1.0)), values)
    image = pyvista.ImageData(dimensions=values.shape[::-1])
    image.point_data["field"] = values.ravel()
    surface = image.contour(
        [LEVEL],
        scalars="field",
        method="flying_edges",
        compute_normals=False,
        compute_gradients=False,
        compute_scalars=False,
    )
    if not surface.n_points:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    faces = np.asarray(surface.faces, np.int64).reshape(-1, 4)[:, 1:]
    return np.asarray(surface.points, np.float64)[:, ::-1], faces


def _merge_equal(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Merge vertices at one position: those of the plane that two slabs share are equal to the last bit."""
    _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return vertices[first[order]], rank[inverse.ravel()][faces]
