"""Local properties of a surface, and the bins in which area and particles are counted.

The bins are the same for all membranes, so histograms can be summed over membranes and tomograms.
"""

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
# A face is cut into CUTS² triangles where a property varies within it. Nearer to a particle than NEAR_EDGES times a
# face's longest edge, the face is taken as plane and the distance to the particle as straight.
CUTS, NEAR_EDGES = 4, 2.0
# This many fine bins of a property make one coarse bin; pairs are counted in coarse ones.
FINE_PER_COARSE_BIN = 5


@dataclass(frozen=True)
class Scale:
    """The equal bins of a property. The first and the last bin also hold the values beyond them.

    Parameters
    ----------
    name : str
        Name of the property, which ends with its unit.
    low, high : float
        Lower end of the first and upper end of the last bin, in the unit of the property.
    n_bins : int
        Number of bins.

    Examples
    --------
    >>> scale = Scale("verticality", 0.0, 1.0, 20)
    >>> scale.numbers(np.array([0.07, 2.0, np.nan])).tolist()
    [1, 19, -1]
    >>> scale.ends(1)
    (0.05, 0.1)
    """

    name: str
    low: float
    high: float
    n_bins: int

    def numbers(self, values: Floats) -> NDArray[np.int64]:
        """Return the bin of each value.

        Parameters
        ----------
        values : (N,) float64 array
            Values of the property; NaN is unknown, infinity lies beyond the last bin.

        Returns
        -------
        (N,) int64 array
            Number of the bin, from 0; -1 for NaN.
        """
        finite = ~np.isnan(values)
        numbers = np.full(len(values), -1, np.int64)
        scaled = (values[finite] - self.low) / (self.high - self.low) * self.n_bins
        numbers[finite] = np.floor(np.clip(scaled, 0.0, self.n_bins - 0.5)).astype(np.int64)
        return numbers

    def histogram(self, values: Floats, weights: Floats | None) -> Floats:
        """Return the count, or the sum of weights, in each bin.

        Parameters
        ----------
        values : (N,) float64 array
            Values of the property. NaN is left out.
        weights : (N,) float64 array or None
            Weight of each value, e.g. an area; None counts values.

        Returns
        -------
        (n_bins,) float64 array
            Count or sum of weights in each bin.
        """
        numbers = self.numbers(values)
        used = numbers >= 0
        sums = np.bincount(numbers[used], None if weights is None else weights[used], minlength=self.n_bins)
        return sums.astype(np.float64)

    def ends(self, number: int) -> tuple[float, float]:
        """Return the lower and upper end of a bin, rounded to 9 decimals.

        Parameters
        ----------
        number : int
            Index of the bin, from 0.
        """
        width = (self.high - self.low) / self.n_bins
        return round(self.low + number * width, 9), round(self.low + (number + 1) * width, 9)

    def bin_row(self, number: int) -> dict[str, Any]:
        """Return the columns `property`, `bin`, `bin_min`, `bin_max` of a bin.

        Parameters
        ----------
        number : int
            Index of the bin, from 0.
        """
        low, high = self.ends(number)
        return {"property": self.name, "bin": number, "bin_min": low, "bin_max": high}

    def coarse(self) -> Scale:
        """Return the same range in fewer bins."""
        return Scale(self.name, self.low, self.high, max(self.n_bins // FINE_PER_COARSE_BIN, 1))


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
"""The properties that every membrane is measured in, beside the distances to each class of particles."""

CURVATURES = PROPERTIES[:6]
PROPERTY_NAMES = tuple(scale.name for scale in PROPERTIES)


def distance_to_class(name: str) -> Scale:
    """Return the bins of the distance along the surface to the nearest particle of a class.

    Parameters
    ----------
    name : str
        Name of the class.
    """
    return Scale(f"distance_to_{name}_nm", 0.0, 40.0, 20)


def scale_of(name: str) -> Scale:
    """Return the bins of a property by its name.

    Parameters
    ----------
    name : str
        One of `PROPERTY_NAMES`. Any other name is taken for `distance_to_<class>_nm`.

    Returns
    -------
    Scale
        The bins.
    """
    scales = {scale.name: scale for scale in PROPERTIES}
    return scales.get(name) or distance_to_class(name.removeprefix("distance_to_").removesuffix("_nm"))


@dataclass(frozen=True, eq=False)
class Values:
    """One property of a surface: samples that cover its area, and the values at the N particles.

    Parameters
    ----------
    scale : Scale
        The property and its bins.
    values : (M,) float64 array
        Value of each sample in the property's unit; NaN is unknown, infinity is beyond reach.
    areas : (M,) float64 array
        Area that each sample stands for, Å².
    faces : (M,) int64 array
        Face that each sample lies in.
    at_particles : (N,) float64 array
        Value at each particle.
    of_class : int or None
        Kind of particle that the property is the distance to; None for other properties.
    """

    scale: Scale
    values: Floats
    areas: Floats
    faces: NDArray[np.int64]
    at_particles: Floats
    of_class: int | None = None


def of_faces(scale: Scale, values: Floats, surface: Surface, at: SurfacePoints) -> Values:
    """Return a property that has one value a face.

    Particles get the value of the face they lie in, so that particles and area are binned alike.

    Parameters
    ----------
    scale : Scale
        The property.
    values : (F,) float64 array
        Value of each face, in the property's unit.
    surface : Surface
        The surface of F faces.
    at : SurfacePoints
        Places of the N particles on the surface.

    Returns
    -------
    Values
        One sample a face.
    """
    return Values(scale, values, surface.face_areas, np.arange(len(values)), values[at.faces])


def of_distances(
    scale: Scale, to_vertices: Floats, surface: Surface, at_particles: Floats, reach: float, of_class: int | None = None
) -> Values:
    """Return a distance along the surface as a property, with several samples a face.

    Within a face the distance is interpolated linearly between the corners, which suits the distance from an edge of
    the surface. Near the particles of a class it is that of a circular wave in the face's plane.

    Parameters
    ----------
    scale : Scale
        The property, in nm.
    to_vertices : (V,) float64 array
        Distance of each vertex, Å.
    surface : Surface
        The surface of V vertices.
    at_particles : (N,) float64 array
        Distance of each particle, Å.
    reach : float
        Distances above this (Å) are set to infinity.
    of_class : int or None
        Kind of particle that distances are to; None if they are to something else.

    Returns
    -------
    Values
        CUTS² samples a face, in nm.
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
    """Compute a property of the curvatures.

    Parameters
    ----------
    name : str
        One of the names in `CURVATURES`.
    mean : (N,) float64 array
        Mean curvature, 1/Å.
    gauss : (N,) float64 array
        Gaussian curvature, 1/Å².

    Returns
    -------
    (N,) float64 array
        The property, in the unit of its name (nm). The shape index of a plane is NaN.

    Raises
    ------
    ValueError
        If `name` is not a property of curvatures.

    References
    ----------
    Koenderink and van Doorn, Image Vis. Comput. 10(8), 1992 (shape index and curvedness).
    """
    if name == "mean_curvature_per_nm":
        return mean * ANGSTROM_PER_NM
    if name == "gaussian_curvature_per_nm2":
        return gauss * ANGSTROM_PER_NM**2
    # The principal curvatures are H ± √(H² - K). Noise can make K greater than H²; the root is then 0.
    root = np.sqrt(np.maximum(mean**2 - gauss, 0.0))
    largest, least = (mean + root) * ANGSTROM_PER_NM, (mean - root) * ANGSTROM_PER_NM
    formulas: dict[str, Callable[[], Floats]] = {
        "largest_curvature_per_nm": lambda: largest,
        "least_curvature_per_nm": lambda: least,
        "curvedness_per_nm": lambda: np.asarray(np.sqrt((largest**2 + least**2) / 2.0)),
        "shape_index": lambda: np.where(
            (largest == 0.0) & (least == 0.0), np.nan, 2.0 / np.pi * np.arctan2(largest + least, largest - least)
        ),
    }
    if name not in formulas:
        raise ValueError(f"no property {name!r} of curvatures")
    return formulas[name]()


def verticality(surface: Surface) -> Floats:
    """Compute how upright each face stands: 1 where its normal lies across the beam (z), 0 where along it.

    Parameters
    ----------
    surface : Surface
        A surface of F faces.

    Returns
    -------
    (F,) float64 array
        Verticality; NaN for faces without area.
    """
    a, b, c = (surface.vertices[surface.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    cosines = np.full(len(lengths), np.nan)
    np.divide(np.abs(normals[:, 2]), lengths, out=cosines, where=lengths > 0.0)
    return 1.0 - cosines


def _shares() -> Floats:
    """Return the (CUTS², 3) barycentric weights of the middles of the triangles that a face is cut into."""
    upright = [(i + 1 / 3, j + 1 / 3) for i in range(CUTS) for j in range(CUTS - i)]
    inverted = [(i + 2 / 3, j + 2 / 3) for i in range(CUTS - 1) for j in range(CUTS - 1 - i)]
    two = np.array(upright + inverted) / CUTS
    return np.column_stack([1.0 - two.sum(axis=1), two])


def longest_edges(surface: Surface) -> Floats:
    """Return the length (Å) of the longest edge of each face, (F,) float64.

    Parameters
    ----------
    surface : Surface
        The triangle mesh, with F faces.
    """
    corners = surface.vertices[surface.faces]
    return np.asarray(np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max(axis=1))


def _in_the_plane(surface: Surface, faces: NDArray[np.int64], corners: Floats, shares: Floats) -> Floats:
    """Return the (P, S) distances of samples within P faces from a source in the faces' planes.

    `corners` (P, 3) are the distances of the faces' corners, `shares` (S, 3) the samples' barycentric weights. For a
    source in the plane this is exact: d² = Σ wᵢ dᵢ² - Σ wᵢ wⱼ |edge ij|².
    """
    places = surface.vertices[surface.faces[faces]]
    edges = ((np.roll(places, -1, axis=1) - places) ** 2).sum(axis=2)
    u, v, w = shares.T
    less = np.outer(edges[:, 0], u * v) + np.outer(edges[:, 1], v * w) + np.outer(edges[:, 2], w * u)
    return np.asarray(np.sqrt(np.maximum(corners**2 @ shares.T - less, 0.0)))
