"""Local properties of a surface, and the bins in which area and particles are counted: the same for all membranes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.membranes.surface import Surface, SurfacePoints

NM = 10.0  # Å
Curvatures = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Scale:
    """A property (unit in its name) and its bins; the outer bins also take what lies beyond them."""

    name: str
    low: float
    high: float
    n_bins: int

    def histogram(self, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """(n_bins,) count or sum of weights; values that are not known (NaN) are left out, infinite ones lie beyond."""
        known = ~np.isnan(values)
        scaled = (values[known] - self.low) / (self.high - self.low) * self.n_bins
        number = np.floor(np.clip(scaled, 0.0, self.n_bins - 0.5)).astype(np.int64)
        found = np.bincount(number, None if weights is None else weights[known], minlength=self.n_bins)
        return found.astype(np.float64)

    def bin_row(self, number: int) -> dict[str, Any]:
        width = (self.high - self.low) / self.n_bins
        ends = (round(self.low + (number + step) * width, 9) for step in (0, 1))
        return {"property": self.name, "bin": number, **dict(zip(("bin_min", "bin_max"), ends, strict=True))}


PROPERTIES = (
    Scale("mean_curvature_per_nm", -0.2, 0.2, 80),
    Scale("gaussian_curvature_per_nm2", -0.02, 0.02, 80),
    Scale("largest_curvature_per_nm", -0.2, 0.2, 80),
    Scale("least_curvature_per_nm", -0.2, 0.2, 80),
    Scale("shape_index", -1.0, 1.0, 40),
    Scale("curvedness_per_nm", 0.0, 0.2, 40),
    Scale("distance_to_edge_nm", 0.0, 40.0, 40),
    Scale("verticality", 0.0, 1.0, 20),
)


def of_curvatures(name: str, mean: NDArray[np.float64], gauss: NDArray[np.float64]) -> NDArray[np.float64]:
    """A property of mean (1/Å) and Gaussian (1/Å²) curvature, in the unit of its name."""
    if name == "mean_curvature_per_nm":
        return mean * NM
    if name == "gaussian_curvature_per_nm2":
        return gauss * NM**2
    # The principal curvatures are H ± √(H² - K); the root is 0, not below, where noise makes K greater.
    root = np.sqrt(np.maximum(mean**2 - gauss, 0.0))
    largest, least = (mean + root) * NM, (mean - root) * NM
    if name == "largest_curvature_per_nm":
        return largest
    if name == "least_curvature_per_nm":
        return least
    if name == "curvedness_per_nm":
        return np.asarray(np.sqrt((largest**2 + least**2) / 2.0))
    if name == "shape_index":
        flat = (largest == 0.0) & (least == 0.0)
        return np.where(flat, np.nan, 2.0 / np.pi * np.arctan2(largest + least, largest - least))
    raise ValueError(f"no property {name!r} of curvatures")


def face_values(
    name: str, surface: Surface, curvatures: Curvatures, to_edge_angstrom: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(F,) a property at the faces; NaN where unknown.

    verticality : 1 where the membrane stands upright (its normal across the beam), 0 where it lies flat.
    """
    if name == "distance_to_edge_nm":
        return np.asarray(to_edge_angstrom[surface.faces].mean(axis=1) / NM)
    if name == "verticality":
        a, b, c = (surface.vertices[surface.faces[:, k]] for k in range(3))
        normals = np.cross(b - a, c - a)
        lengths = np.linalg.norm(normals, axis=1)
        flatness = np.divide(np.abs(normals[:, 2]), lengths, out=np.full(len(lengths), np.nan), where=lengths > 0.0)
        return 1.0 - flatness
    mean, gauss = (values[surface.faces].mean(axis=1) for values in curvatures)
    return of_curvatures(name, mean, gauss)


def point_values(name: str, surface: Surface, curvatures: Curvatures, at: SurfacePoints) -> NDArray[np.float64]:
    """(N,) a property of the curvatures at points; NaN where unknown."""
    mean, gauss = (surface.interpolate(values, at) for values in curvatures)
    return of_curvatures(name, mean, gauss)
