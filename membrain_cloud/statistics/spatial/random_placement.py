"""Particles at random on the same surface: the counts of pairs that observed ones are held against.

Complete spatial randomness has no closed form where a surface bends, ends or falls apart, so it is simulated on the
mesh itself (Monte Carlo tests after Besag and Diggle, Appl. Stat. 26(3), 1977). Geodesics are the cost: they are
found once among a pool of random points, and each simulation draws its particles from the pool without replacement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface, SurfacePoints

# Points in the pool for each particle, and at least. What all simulations share of the pool's own chance is missing in
# their spread: about 1 / POOL_FACTOR² of the variance.
POOL_FACTOR, POOL_LEAST = 4, 200
SOURCES_AT_ONCE = 512
NO_BIN = -1


def random_points(surface: Surface, faces: NDArray[np.int64], count: int, rng: np.random.Generator) -> SurfacePoints:
    """`count` points, evenly by area on the faces (their numbers)."""
    areas = surface.face_areas[faces]
    chosen = faces[np.searchsorted(np.cumsum(areas), rng.uniform(0.0, areas.sum(), count)).clip(max=len(faces) - 1)]
    # Evenly on a triangle (Turk, Graphics Gems 1990).
    root, second = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    return surface.points(chosen, np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1))


def bins_between(
    surface: Surface, sources: SurfacePoints, targets: SurfacePoints, edges: NDArray[np.float64]
) -> NDArray[np.int16]:
    """(S, T) bin of the distance along the surface; NO_BIN beyond the last edge or on another part."""
    found = np.empty((len(sources), len(targets)), np.int16)
    for start in range(0, len(sources), SOURCES_AT_ONCE):
        part = slice(start, start + SOURCES_AT_ONCE)
        some = surface.points(sources.faces[part], sources.weights[part])
        distances = surface.geodesic(some, targets, cutoff_angstrom=float(edges[-1]))
        inside = np.searchsorted(edges, distances, side="right") - 1
        found[part] = np.where(inside < len(edges) - 1, inside, NO_BIN)
    return found


def simulate_pair_counts(
    surface: Surface,
    at: SurfacePoints,
    kinds: NDArray[np.int64],
    *,
    edges_angstrom: NDArray[np.float64],
    n_simulations: int,
    seed: int,
) -> NDArray[np.int64]:
    """(C, K, K, S, B) ordered pairs (kind in the centre, kind counted) of S simulations on each of C components.

    Of one kind, all its particles are placed at random on their component. Of two kinds, those in the centres stay and
    the counted ones are placed at random: so a kind that is clustered by itself does not make two kinds attract.
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
            counts[component] = _simulate_component(surface, at, kinds, here, edges_angstrom, n_simulations, rng)
    return counts


def _simulate_component(
    surface: Surface,
    at: SurfacePoints,
    kinds: NDArray[np.int64],
    here: NDArray[np.int64],
    edges: NDArray[np.float64],
    n_simulations: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    n_kinds, n_bins = int(kinds.max()) + 1, len(edges) - 1
    faces = np.flatnonzero(surface.face_components == surface.face_components[at.faces[here[0]]])
    pool = random_points(surface, faces, max(POOL_FACTOR * len(here), POOL_LEAST), rng)
    among = bins_between(surface, pool, pool, edges)
    np.fill_diagonal(among, NO_BIN)
    members = [here[kinds[here] == kind] for kind in range(n_kinds)]
    several = sum(len(some) > 0 for some in members) > 1
    to_pool = bins_between(surface, surface.points(at.faces, at.weights), pool, edges) if several else among[:0]
    counts = np.zeros((n_kinds, n_kinds, n_simulations, n_bins), np.int64)
    for simulation in range(n_simulations):
        drawn = rng.permutation(len(pool))[: len(here)]
        for other in range(n_kinds):
            some = drawn[: len(members[other])]
            for one in range(n_kinds):
                found = among[np.ix_(some, some)] if one == other else to_pool[np.ix_(members[one], some)]
                counts[one, other, simulation] = np.bincount(found[found != NO_BIN], minlength=n_bins)
    return counts
