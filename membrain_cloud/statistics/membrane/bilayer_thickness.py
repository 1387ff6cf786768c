"""Bilayer thickness: the distance between the leaflets' two dark lines in the density along the normals.

Profiles are averaged over patches, because a single one is mostly noise. Two Gaussians are fitted to each mean profile,
because the minima of a blurred bilayer lie nearer to each other than its leaflets do. Density is dark where matter is
dense, as in tomograms. The approach is that of surface_morphometrics since 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.mesh.density_sampling import sample_along_normals
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from membrain_cloud.geometry import Box, Grid
    from membrain_cloud.mesh.surface import Surface

Floats = NDArray[np.float64]
# Profiles reach this far to either side of the mid-surface, in bins of BIN_NM.
REACH_NM, BIN_NM = 10.0, 0.25
# Patches have about this area, and are at most this many.
PATCH_NM2, MAX_PATCHES = 400.0, 128
# Grid of the fit, all in nm: distances between the leaflets, offsets of their middle, standard deviations of the lines.
DISTANCES = np.arange(1.5, 9.01, 0.1)
SHIFTS = np.arange(-1.5, 1.51, 0.25)
WIDTHS = np.array([0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0])
# Only this part of a profile (nm to either side) is fitted.
FITTED_NM = 7.0
# Two lines are resolved if they are this many standard deviations apart, ...
MIN_SEPARATION = 1.9
# ... the fainter one has this share of the other's depth, ...
MIN_DEPTH_SHARE = 0.25
# ... the second one explains this share of the variance that a single Gaussian leaves, ...
MIN_GAIN = 0.5
# ... and both together explain this share of the profile's variance.
MIN_EXPLAINED = 0.6


@dataclass(frozen=True, eq=False)
class Density:
    """A part of a tomogram.

    Parameters
    ----------
    values : array of `box.shape`
        Density, zyx, of any real dtype; low values are dense matter.
    box : Box
        The part of the volume that `values` covers.
    grid : Grid
        Voxel grid of the whole volume.
    """

    values: NDArray[Any]
    box: Box
    grid: Grid


@dataclass(frozen=True, eq=False)
class Bilayer:
    """The density of a membrane along its normals, and the bilayer thickness.

    Parameters
    ----------
    profile : (B,) float64 array
        Mean density over the area at `offsets_nm`, in standard deviations above the mean of the density given.
    area : float
        Area of mid-surface that the profile is the mean of, Å².
    thickness : float or None
        Thickness of the whole membrane, Å; None if the two lines are not resolved.
    error : float or None
        Standard error of the thickness over patches, Å; None with fewer than three resolved patches.
    at_faces : (F,) float64 array
        Thickness of the patch that each face belongs to, Å; NaN where unknown.
    """

    profile: Floats
    area: float
    thickness: float | None
    error: float | None
    at_faces: Floats


def offsets_nm() -> Floats:
    """Return the middles (nm) of the B bins of a profile, (B,) float64, from inside to outside."""
    return np.arange(-REACH_NM, REACH_NM, BIN_NM) + BIN_NM / 2.0


def measure_bilayer(
    surface: Surface, leaflets: NDArray[np.int64] | None, across: Floats, density: Density
) -> Bilayer | None:
    """Measure the density along the normals through the mid-surface, and the thickness of the bilayer.

    Parameters
    ----------
    surface : Surface
        Surface of the shell without border caps, F faces.
    leaflets : (F,) int64 array or None
        Leaflet of each face: profiles are taken from faces of leaflet 0. None takes them from all faces.
    across : (F,) float64 array
        Distance from each face to the other side of the shell, Å; infinity where there is none.
    density : Density
        Density around the membrane.

    Returns
    -------
    Bilayer or None
        None if no normal stays within the density, or if the density is constant or not finite somewhere.
    """
    in_leaflet = np.full(len(across), True) if leaflets is None else leaflets == 0
    faces = np.flatnonzero(in_leaflet & np.isfinite(across) & (surface.face_areas > 0.0))
    if not len(faces) or not np.isfinite(density.values).all():
        return None
    deviation = float(np.std(density.values, dtype=np.float64))
    if deviation == 0.0:
        return None
    normals = surface.normals[surface.faces[faces]].sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    middle = surface.vertices[surface.faces[faces]].mean(axis=1) - 0.5 * across[faces, None] * normals
    profiles = sample_along_normals(
        density.values,
        density.box,
        density.grid,
        middle,
        normals,
        offsets_nm() * ANGSTROM_PER_NM,
        outside=np.nan,
        spline_order=1,
    ).astype(np.float64)
    inside = np.isfinite(profiles).all(axis=1)
    if not inside.any():
        return None
    faces, middle = faces[inside], middle[inside]
    profiles = (profiles[inside] - float(np.mean(density.values, dtype=np.float64))) / deviation
    areas = surface.face_areas[faces]
    patch = _patches(middle, areas)
    weights = np.bincount(patch, areas).astype(np.float64)
    means = np.stack([np.bincount(patch, areas * values) for values in profiles.T], axis=1) / weights[:, None]
    whole = np.average(profiles, axis=0, weights=areas)
    thickness = fit_leaflets(np.concatenate([whole[None], means]))
    if not np.isfinite(thickness[0]):
        thickness[:] = np.nan  # in noise, one patch in some dozens looks like a bilayer
    return Bilayer(
        whole,
        float(areas.sum()),
        float(thickness[0]) * ANGSTROM_PER_NM if np.isfinite(thickness[0]) else None,
        _standard_error(thickness[1:], weights),
        _at_all_faces(surface, in_leaflet, faces, thickness[1:][patch] * ANGSTROM_PER_NM),
    )


def fit_leaflets(profiles: Floats) -> Floats:
    """Fit two dark Gaussian lines to each profile and return their distance.

    A constant and two Gaussians of one width and free depths are fitted by least squares on a grid of distances, shifts
    and widths. A parabola through the best distance's neighbours refines the distance.

    Parameters
    ----------
    profiles : (P, B) float64 array
        Densities at `offsets_nm`; any scale, dark is dense.

    Returns
    -------
    (P,) float64 array
        Distance between the two lines, nm; NaN where they are not resolved.
    """
    design = _designs()
    fitted = np.abs(offsets_nm()) <= FITTED_NM
    y = profiles[:, fitted] - profiles[:, fitted].mean(axis=1, keepdims=True)
    squares = (y * y).sum(axis=1)
    residual = (squares - ((y @ design.basis.T) ** 2).reshape(len(y), -1, 2).sum(axis=2).T).clip(min=0.0)
    single = (squares - (y @ design.single.T).T ** 2).min(axis=0)
    best = residual.argmin(axis=0)
    depths = -np.einsum("pij,pj->pi", design.to_depths[best], np.stack(
        [(y * design.basis[2 * best + k]).sum(axis=1) for k in range(2)], axis=1))  # fmt: skip
    own = np.arange(len(y))
    d, _, w = np.unravel_index(best, design.shape)
    grid = residual.reshape(*design.shape, len(y)).min(axis=(1, 2))  # the best residual of each distance
    low, high = grid[np.maximum(d - 1, 0), own], grid[np.minimum(d + 1, len(DISTANCES) - 1), own]
    bend = low - 2.0 * grid[d, own] + high
    shift = np.divide(0.5 * (low - high), bend, out=np.zeros(len(y)), where=bend > 0.0).clip(-0.5, 0.5)
    distance = DISTANCES[d] + shift * (DISTANCES[1] - DISTANCES[0])
    resolved = (
        (d > 0)
        & (d < len(DISTANCES) - 1)
        & (distance >= MIN_SEPARATION * WIDTHS[w])
        & (depths.min(axis=1) > MIN_DEPTH_SHARE * depths.max(axis=1))
        & (residual[best, own] <= (1.0 - MIN_GAIN) * single)
        & (residual[best, own] <= (1.0 - MIN_EXPLAINED) * squares)
    )
    return np.where(resolved, distance, np.nan)


@dataclass(frozen=True, eq=False)
class _Designs:
    """Curves of the D = distances x shifts x widths designs on the grid of the fit, X bins each.

    `basis` (2D, X) holds two orthonormal curves a design, without mean; `to_depths` (D, 2, 2) turns their coefficients
    into the depths of the two Gaussians. `single` (S, X) holds normalised curves of one Gaussian. `shape` is the number
    of distances, shifts and widths.
    """

    shape: tuple[int, int, int]
    basis: Floats
    to_depths: Floats
    single: Floats


@lru_cache(maxsize=1)
def _designs() -> _Designs:
    """Compute the curves of the fit, once a process."""
    x = offsets_nm()
    x = x[np.abs(x) <= FITTED_NM]
    d, c, s = (a.reshape(-1, 1) for a in np.meshgrid(DISTANCES, SHIFTS, WIDTHS, indexing="ij"))
    two = np.stack([np.exp(-0.5 * ((x - c - side * d / 2.0) / s) ** 2) for side in (-1, 1)], axis=2)
    two -= two.mean(axis=1, keepdims=True)
    q, r = np.linalg.qr(two)
    c, s = (a.reshape(-1, 1) for a in np.meshgrid(np.arange(-3.0, 3.01, 0.25), np.append(WIDTHS, [2.5, 3.0, 4.0])))
    one = np.exp(-0.5 * ((x - c) / s) ** 2)
    one -= one.mean(axis=1, keepdims=True)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    basis = np.ascontiguousarray(np.swapaxes(q, 1, 2)).reshape(-1, len(x))
    return _Designs((len(DISTANCES), len(SHIFTS), len(WIDTHS)), basis, np.linalg.inv(r), one)


def _patches(points: Floats, areas: Floats) -> NDArray[np.int64]:
    """Assign each of N points to a patch by farthest-point sampling: each seed is the point farthest from all others.

    Returns the (N,) number of each point's patch: that of the nearest seed.
    """
    count = int(np.clip(areas.sum() / ANGSTROM_PER_NM**2 / PATCH_NM2, 1, MAX_PATCHES))
    seed = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())
    nearest, patch = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    for number in range(count):
        away = ((points - points[seed]) ** 2).sum(axis=1)
        patch[away < nearest] = number
        nearest = np.minimum(nearest, away)
        seed = int(nearest.argmax())
    return np.unique(patch, return_inverse=True)[1].astype(np.int64)


def _standard_error(thickness_nm: Floats, weights: Floats) -> float | None:
    """Return the standard error (Å) of the weighted mean over resolved patches; None with fewer than three."""
    resolved = np.isfinite(thickness_nm)
    if resolved.sum() < 3:
        return None
    share = weights[resolved] / weights[resolved].sum()
    mean = (share * thickness_nm[resolved]).sum()
    variance = (share * (thickness_nm[resolved] - mean) ** 2).sum() / (1.0 - (share**2).sum())
    return float(np.sqrt(variance * (share**2).sum())) * ANGSTROM_PER_NM


def _at_all_faces(surface: Surface, in_leaflet: NDArray[np.bool_], faces: NDArray[np.int64], values: Floats) -> Floats:
    """Return the value of all F faces, given those of `faces`.

    Faces of the other leaflet take the value of the nearest face that has one.
    """
    at_faces = np.full(len(in_leaflet), np.nan)
    at_faces[faces] = values
    others = np.flatnonzero(~in_leaflet)
    if len(others):
        middle = surface.vertices[surface.faces].mean(axis=1)
        at_faces[others] = values[cKDTree(middle[faces]).query(middle[others])[1]]
    return at_faces
