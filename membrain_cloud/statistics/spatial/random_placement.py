"""Simulate particles at random on a surface: the null model that observed pair counts are compared with.

Complete spatial randomness has no closed form on a surface that bends, ends or has several components, so it is
simulated on the mesh itself. Geodesics are the expensive part: they are computed once, among a pool of random points,
and each simulation draws its particles from the pool without replacement.

References
----------
Besag and Diggle, Appl. Stat. 26(3), 1977 (Monte Carlo tests of spatial randomness).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface, SurfacePoints

# Points in the pool for each particle, and the least number of points. All simulations share the pool, so their spread
# misses the variance of the pool itself: about 1 / POOL_FACTOR² of the variance.
POOL_FACTOR, MIN_POOL = 4, 200
# Geodesics from this many points are computed at once, to bound memory.
SOURCES_AT_ONCE = 512
NO_BIN = -1


def random_points(surface: Surface, faces: NDArray[np.int64], count: int, rng: np.random.Generator) -> SurfacePoints:
    """Draw points evenly by area.

    Parameters
    ----------
    surface : Surface
        The surface.
    faces : (M,) int64 array
        Numbers of the faces to draw on.
    count : int
        Number of points.
    rng : Generator
        Source of random numbers.

    Returns
    -------
    SurfacePoints
        `count` points.

    References
    ----------
    Turk, Graphics Gems, 1990 (uniform points on a triangle).
    """
    areas = surface.face_areas[faces]
    drawn = faces[np.searchsorted(np.cumsum(areas), rng.uniform(0.0, areas.sum(), count)).clip(max=len(faces) - 1)]
    root, second = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    return surface.points(drawn, np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1))


def bins_between(
    surface: Surface, sources: SurfacePoints, targets: SurfacePoints, edges: NDArray[np.float64]
) -> NDArray[np.int16]:
    """Return the bin of the distance along the surface from each source to each target.

    Parameters
    ----------
    surface : Surface
        The surface.
    sources, targets : SurfacePoints
        S and T points on it.
    edges : (B + 1,) float64 array
        Edges of the bins, rising from 0, Å.

    Returns
    -------
    (S, T) int16 array
        Number of the bin; `NO_BIN` beyond the last edge and on another component.
    """
    bins = np.empty((len(sources), len(targets)), np.int16)
    for start in range(0, len(sources), SOURCES_AT_ONCE):
        part = slice(start, start + SOURCES_AT_ONCE)
        some = surface.points(sources.faces[part], sources.weights[part])
        distances = surface.geodesic(some, targets, cutoff_angstrom=float(edges[-1]))
        inside = np.searchsorted(edges, distances, side="right") - 1
        bins[part] = np.where(inside < len(edges) - 1, inside, NO_BIN)
    return bins


def simulate_pair_counts(
    surface: Surface,
    at: SurfacePoints,
    kinds: NDArray[np.int64],
    *,
    edges_angstrom: NDArray[np.float64],
    n_simulations: int,
    seed: int,
) -> NDArray[np.int64]:
    """Count the pairs of particles placed at random, component by component.

    Within one kind, all its particles are placed at random on their component. Between two kinds, the particles in the
    centres stay and the counted ones are placed at random, so that clustering within a kind does not look like
    attraction between kinds.

    Parameters
    ----------
    surface : Surface
        A surface of C components.
    at : SurfacePoints
        Places of the N observed particles.
    kinds : (N,) int64 array
        Kind of each particle, from 0 to K - 1.
    edges_angstrom : (B + 1,) float64 array
        Edges of the bins of distance, rising from 0, Å.
    n_simulations : int
        Number S of simulations.
    seed : int
        Seed of the random numbers: the same arguments give the same counts.

    Returns
    -------
    (C, K, K, S, B) int64 array
        Ordered pairs, by component, kind in the centre, kind counted, simulation and bin.
    """
    n_kinds, n_bins = int(kinds.max(initial=-1)) + 1, max(len(edges_angstrom) - 1, 0)
    counts = np.zeros((surface.n_components, n_kinds, n_kinds, n_simulations, n_bins), np.int64)
    if not n_simulations or not n_bins or not len(at):
        return counts
    component_of = surface.face_components[at.faces]
    for component in np.unique(component_of):
        here = np.flatnonzero(component_of == component)
        if len(here) > 1:
            rng = np.random.default_rng([seed, int(component)])
            counts[component] = _simulate_component(
                surface, at, kinds, here, edges=edges_angstrom, n_simulations=n_simulations, rng=rng
            )
    return counts


def _simulate_component(
    surface: Surface,
    at: SurfacePoints,
    kinds: NDArray[np.int64],
    here: NDArray[np.int64],
    *,
    edges: NDArray[np.float64],
    n_simulations: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the (K, K, S, B) counts of one component, `here` being the numbers of its particles."""
    n_kinds, n_bins = int(kinds.max()) + 1, len(edges) - 1
    faces = np.flatnonzero(surface.face_components == surface.face_components[at.faces[here[0]]])
    pool = random_points(surface, faces, max(POOL_FACTOR * len(here), MIN_POOL), rng)
    within_pool = bins_between(surface, pool, pool, edges)
    np.fill_diagonal(within_pool, NO_BIN)
    members = [here[kinds[here] == kind] for kind in range(n_kinds)]
    several = sum(len(some) > 0 for some in members) > 1
    to_pool = bins_between(surface, surface.points(at.faces, at.weights), pool, edges) if several else within_pool[:0]
    counts = np.zeros((n_kinds, n_kinds, n_simulations, n_bins), np.int64)
    for simulation in range(n_simulations):
        drawn = rng.permutation(len(pool))[: len(here)]
        for other in range(n_kinds):
            some = drawn[: len(members[other])]
            for one in range(n_kinds):
                bins = within_pool[np.ix_(some, some)] if one == other else to_pool[np.ix_(members[one], some)]
                counts[one, other, simulation] = np.bincount(bins[bins != NO_BIN], minlength=n_bins)
    return counts
