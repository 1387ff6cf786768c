"""How thick a bilayer is: the distance between the two dark lines of its leaflets in the density along the normals.

As surface_morphometrics does since 2025: profiles are averaged over patches, since a single one is mostly noise, and
two Gaussians are fitted to each mean, since the minima of a blurred bilayer lie nearer to each other than its leaflets.
Dense is dark, as tomograms have it.
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
# Profiles reach so far to either side of the middle, in steps of BIN.
REACH_NM, BIN_NM = 10.0, 0.25
# Patches have about this area, and are no more than so many.
PATCH_NM2, MOST_PATCHES = 400.0, 128
# What is fitted: leaflets' distances, how far off the middle they may be, their standard deviations; all in nm.
DISTANCES = np.arange(1.5, 9.01, 0.1)
SHIFTS = np.arange(-1.5, 1.51, 0.25)
WIDTHS = np.array([0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0])
FITTED_NM = 7.0
# Two lines are told apart where they are so many of their standard deviations away from each other, where the fainter
# one has this share of the other's depth, where the second one explains so much of what a single one leaves, and where
# both together explain so much of the profile.
LEAST_APART, LEAST_SHARE, LEAST_GAIN, LEAST_EXPLAINED = 1.9, 0.25, 0.5, 0.6


@dataclass(frozen=True, eq=False)
class Density:
    """A part of a tomogram: `values` has the box's shape."""

    values: NDArray[Any]
    box: Box
    grid: Grid


@dataclass(frozen=True, eq=False)
class Bilayer:
    """The density of a membrane along its normals, in standard deviations from the mean of the density about it.

    profile : (B,) mean over area, at `offsets_nm`.  area : Å² of mid-surface it is a mean of.
    thickness : Å, of the whole membrane; None where the two lines are not told apart.
    error : Å, its standard error over patches; None with fewer than three that have a thickness.
    at_faces : (F,) Å, thickness of the patch each face is in; NaN where unknown.
    """

    profile: Floats
    area: float
    thickness: float | None
    error: float | None
    at_faces: Floats


def offsets_nm() -> Floats:
    """(B,) middles of the bins of a profile."""
    return np.arange(-REACH_NM, REACH_NM, BIN_NM) + BIN_NM / 2.0


def measure_bilayer(
    surface: Surface, leaflets: NDArray[np.int64] | None, across: Floats, density: Density
) -> Bilayer | None:
    """Follow the normals through the slab midway between its leaflets.

    across : (F,) Å from each face to the slab's other side, inf where there is none.  leaflets : (F,) or None.
    None where no normal stays within the density, and where that is the same everywhere or not finite somewhere.
    """
    of_leaflet = np.full(len(across), True) if leaflets is None else leaflets == 0
    faces = np.flatnonzero(of_leaflet & np.isfinite(across) & (surface.face_areas > 0.0))
    if not len(faces) or not np.isfinite(density.values).all():
        return None
    spread = float(np.std(density.values, dtype=np.float64))
    if spread == 0.0:
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
    profiles = (profiles[inside] - float(np.mean(density.values, dtype=np.float64))) / spread
    areas = surface.face_areas[faces]
    patch = _patches(middle, areas)
    weights = np.bincount(patch, areas).astype(np.float64)
    means = np.stack([np.bincount(patch, areas * values) for values in profiles.T], axis=1) / weights[:, None]
    whole = np.average(profiles, axis=0, weights=areas)
    found = fit_leaflets(np.concatenate([whole[None], means]))
    if not np.isfinite(found[0]):
        found[:] = np.nan  # in noise, one patch in some dozens looks like a bilayer
    return Bilayer(
        whole,
        float(areas.sum()),
        float(found[0]) * ANGSTROM_PER_NM if np.isfinite(found[0]) else None,
        _error(found[1:], weights),
        _at_all_faces(surface, of_leaflet, faces, found[1:][patch] * ANGSTROM_PER_NM),
    )


def fit_leaflets(profiles: Floats) -> Floats:
    """(P, B) profiles at `offsets_nm` -> (P,) nm between their two dark lines; NaN where these are not told apart.

    Least squares of a constant and two Gaussians of one width, over a grid of distances, shifts and widths, and a
    parabola through the best distance's neighbours. The two depths are free.
    """
    design = _designs()
    chosen = np.abs(offsets_nm()) <= FITTED_NM
    y = profiles[:, chosen] - profiles[:, chosen].mean(axis=1, keepdims=True)
    squares = (y * y).sum(axis=1)
    rest = (squares - ((y @ design.basis.T) ** 2).reshape(len(y), -1, 2).sum(axis=2).T).clip(min=0.0)
    single = (squares - (y @ design.single.T).T ** 2).min(axis=0)
    best = rest.argmin(axis=0)
    depths = -np.einsum("pij,pj->pi", design.to_depths[best], np.stack(
        [(y * design.basis[2 * best + k]).sum(axis=1) for k in range(2)], axis=1))  # fmt: skip
    own = np.arange(len(y))
    d, _, w = np.unravel_index(best, design.shape)
    grid = rest.reshape(*design.shape, len(y)).min(axis=(1, 2))  # of each distance the best
    low, high = grid[np.maximum(d - 1, 0), own], grid[np.minimum(d + 1, len(DISTANCES) - 1), own]
    bend = low - 2.0 * grid[d, own] + high
    shift = np.divide(0.5 * (low - high), bend, out=np.zeros(len(y)), where=bend > 0.0).clip(-0.5, 0.5)
    distance = DISTANCES[d] + shift * (DISTANCES[1] - DISTANCES[0])
    resolved = (
        (d > 0)
        & (d < len(DISTANCES) - 1)
        & (distance >= LEAST_APART * WIDTHS[w])
        & (depths.min(axis=1) > LEAST_SHARE * depths.max(axis=1))
        & (rest[best, own] <= (1.0 - LEAST_GAIN) * single)
        & (rest[best, own] <= (1.0 - LEAST_EXPLAINED) * squares)
    )
    return np.where(resolved, distance, np.nan)


@dataclass(frozen=True, eq=False)
class _Designs:
    """basis : (2D, X) two orthonormal curves a design, both without mean.  to_depths : (D, 2, 2) from these to depths.

    single : (S, X) normed curves of one Gaussian.
    """

    shape: tuple[int, int, int]
    basis: Floats
    to_depths: Floats
    single: Floats


@lru_cache(maxsize=1)
def _designs() -> _Designs:
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
    """(N,) patch of each point: the nearest of seeds, each of which is the point farthest from those before it."""
    count = int(np.clip(areas.sum() / ANGSTROM_PER_NM**2 / PATCH_NM2, 1, MOST_PATCHES))
    seed = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())
    nearest, patch = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    for number in range(count):
        away = ((points - points[seed]) ** 2).sum(axis=1)
        patch[away < nearest] = number
        nearest = np.minimum(nearest, away)
        seed = int(nearest.argmax())
    return np.unique(patch, return_inverse=True)[1].astype(np.int64)


def _error(found: Floats, weights: Floats) -> float | None:
    known = np.isfinite(found)
    if known.sum() < 3:
        return None
    share = weights[known] / weights[known].sum()
    variance = (share * (found[known] - (share * found[known]).sum()) ** 2).sum() / (1.0 - (share**2).sum())
    return float(np.sqrt(variance * (share**2).sum())) * ANGSTROM_PER_NM


def _at_all_faces(surface: Surface, of_leaflet: NDArray[np.bool_], faces: NDArray[np.int64], values: Floats) -> Floats:
    """The faces' own values; the other leaflet's faces take that of the nearest face that has one."""
    out = np.full(len(of_leaflet), np.nan)
    out[faces] = values
    others = np.flatnonzero(~of_leaflet)
    if len(others):
        middle = surface.vertices[surface.faces].mean(axis=1)
        out[others] = values[cKDTree(middle[faces]).query(middle[others])[1]]
    return out
