"""Local properties of a surface, and the bins in which area and particles are counted: the same for all membranes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.mesh.surface import Surface, SurfacePoints

Floats = NDArray[np.float64]
Curvatures = tuple[Floats, Floats]
# Faces are cut in CUTS² where a property changes from corner to corner; nearer to a particle than NEAR_EDGES of a
# face's edges, distances to it are those in the plane.
CUTS, NEAR_EDGES = 4, 2.0
# Bins of a property by which pairs are counted apart: so many of its own bins make one.
COARSE = 5


@dataclass(frozen=True)
class Scale:
    """A property (unit in its name) and its bins; the outer bins also take what lies beyond them."""

    name: str
    low: float
    high: float
    n_bins: int

    def numbers(self, values: Floats) -> NDArray[np.int64]:
        """(N,) bin of each value; -1 where it is not known (NaN). Infinite ones lie beyond."""
        known = ~np.isnan(values)
        found = np.full(len(values), -1, np.int64)
        scaled = (values[known] - self.low) / (self.high - self.low) * self.n_bins
        found[known] = np.floor(np.clip(scaled, 0.0, self.n_bins - 0.5)).astype(np.int64)
        return found

    def histogram(self, values: Floats, weights: Floats | None) -> Floats:
        """(n_bins,) count or sum of weights; values that are not known are left out."""
        number = self.numbers(values)
        known = number >= 0
        found = np.bincount(number[known], None if weights is None else weights[known], minlength=self.n_bins)
        return found.astype(np.float64)

    def ends(self, number: int) -> tuple[float, float]:
        """Lower and upper end of a bin."""
        width = (self.high - self.low) / self.n_bins
        return round(self.low + number * width, 9), round(self.low + (number + 1) * width, 9)

    def bin_row(self, number: int) -> dict[str, Any]:
        return {
            "property": self.name,
            "bin": number,
            **dict(zip(("bin_min", "bin_max"), self.ends(number), strict=True)),
        }

    def coarse(self) -> Scale:
        """The same range in fewer bins."""
        return Scale(self.name, self.low, self.high, max(self.n_bins // COARSE, 1))


PROPERTIES = (
    Scale("mean_curvature_per_nm", -0.2, 0.2, 80),
    Scale("gaussian_curvature_per_nm2", -0.02, 0.02, 80),
    Scale("largest_curvature_per_nm", -0.2, 0.2, 80),
    Scale("least_curvature_per_nm", -0.2, 0.2, 80),
    Scale("shape_index", -1.0, 1.0, 40),
    Scale("curvedness_per_nm", 0.0, 0.2, 40),
    Scale("distance_to_edge_nm", 0.0, 40.0, 40),
    Scale("verticality", 0.0, 1.0, 20),
    Scale("bilayer_thickness_nm", 2.0, 8.0, 60),
    Scale("distance_to_next_membrane_nm", 0.0, 100.0, 100),
    Scale("distance_to_itself_nm", 0.0, 100.0, 100),
)
CURVATURES = PROPERTIES[:6]
PROPERTY_NAMES = tuple(scale.name for scale in PROPERTIES)


def distance_to_class(name: str) -> Scale:
    """Along the surface to the nearest particle of a class."""
    return Scale(f"distance_to_{name}_nm", 0.0, 40.0, 20)


def scale_of(name: str) -> Scale:
    """The bins of a property by its name; names that are none of PROPERTIES are distances to a class."""
    known = {scale.name: scale for scale in PROPERTIES}
    return known.get(name) or distance_to_class(name.removeprefix("distance_to_").removesuffix("_nm"))


@dataclass(frozen=True, eq=False)
class Values:
    """A property on a surface: where there is how much of it, and at the particles.

    values, areas, faces : (M,) samples, the area each stands for (Å²), and the face it is in.
    at_particles : (N,).  of_class : the kind of particle that distances are to; None for other properties.
    """

    scale: Scale
    values: Floats
    areas: Floats
    faces: NDArray[np.int64]
    at_particles: Floats
    of_class: int | None = None


def of_faces(scale: Scale, values: Floats, surface: Surface, at: SurfacePoints) -> Values:
    """A property that each face has one value of; particles have that of their face, so that both are binned alike."""
    return Values(scale, values, surface.face_areas, np.arange(len(values)), values[at.faces])


def of_distances(
    scale: Scale, to_vertices: Floats, surface: Surface, at_particles: Floats, reach: float, of_class: int | None = None
) -> Values:
    """A distance along the surface, known at the vertices (V,) and the particles (N,), in Å; infinite above `reach`.

    Between vertices it is linear, as that from an end of the surface nearly is; near the particles of a class, round.
    """
    corners, shares = to_vertices[surface.faces], _shares()
    values = corners @ shares.T
    if of_class is not None:
        near = np.flatnonzero(corners.min(axis=1) < NEAR_EDGES * longest_edges(surface))
        values[near] = _in_the_plane(surface, near, corners[near], shares)
    values[values > reach] = np.inf
    at_particles = np.where(at_particles > reach, np.inf, at_particles)
    areas = np.repeat(surface.face_areas / len(shares), len(shares))
    faces = np.repeat(np.arange(len(corners)), len(shares))
    return Values(scale, values.reshape(-1) / ANGSTROM_PER_NM, areas, faces, at_particles / ANGSTROM_PER_NM, of_class)


def of_curvatures(name: str, mean: Floats, gauss: Floats) -> Floats:
    """A property of mean (1/Å) and Gaussian (1/Å²) curvature, in the unit of its name."""
    if name == "mean_curvature_per_nm":
        return mean * ANGSTROM_PER_NM
    if name == "gaussian_curvature_per_nm2":
        return gauss * ANGSTROM_PER_NM**2
    # The principal curvatures are H ± √(H² - K); the root is 0, not below, where noise makes K greater.
    root = np.sqrt(np.maximum(mean**2 - gauss, 0.0))
    largest, least = (mean + root) * ANGSTROM_PER_NM, (mean - root) * ANGSTROM_PER_NM
    found: dict[str, Callable[[], Floats]] = {
        "largest_curvature_per_nm": lambda: largest,
        "least_curvature_per_nm": lambda: least,
        "curvedness_per_nm": lambda: np.asarray(np.sqrt((largest**2 + least**2) / 2.0)),
        "shape_index": lambda: np.where(
            (largest == 0.0) & (least == 0.0), np.nan, 2.0 / np.pi * np.arctan2(largest + least, largest - least)
        ),
    }
    if name not in found:
        raise ValueError(f"no property {name!r} of curvatures")
    return found[name]()


def verticality(surface: Surface) -> Floats:
    """(F,) 1 where the membrane stands upright (its normal across the beam), 0 where it lies flat; NaN without area."""
    a, b, c = (surface.vertices[surface.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    return 1.0 - np.divide(np.abs(normals[:, 2]), lengths, out=np.full(len(lengths), np.nan), where=lengths > 0.0)


def _shares() -> Floats:
    """(CUTS², 3) barycentric middles of the small triangles that a face is cut in."""
    upright = [(i + 1 / 3, j + 1 / 3) for i in range(CUTS) for j in range(CUTS - i)]
    inverted = [(i + 2 / 3, j + 2 / 3) for i in range(CUTS - 1) for j in range(CUTS - 1 - i)]
    two = np.array(upright + inverted) / CUTS
    return np.column_stack([1.0 - two.sum(axis=1), two])


def longest_edges(surface: Surface) -> Floats:
    """(F,) Å, of each face."""
    corners = surface.vertices[surface.faces]
    return np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1)


def _in_the_plane(surface: Surface, faces: NDArray[np.int64], corners: Floats, shares: Floats) -> Floats:
    """(P, S) distances within faces from one point in their plane: exactly this, between three corners' distances."""
    places = surface.vertices[surface.faces[faces]]
    edges = ((np.roll(places, -1, axis=1) - places) ** 2).sum(axis=2)
    u, v, w = shares.T
    less = np.outer(edges[:, 0], u * v) + np.outer(edges[:, 1], v * w) + np.outer(edges[:, 2], w * u)
    return np.asarray(np.sqrt(np.maximum(corners**2 @ shares.T - less, 0.0)))
