"""Simulate particles at random on a surface: the null model that observed pair counts are compared with.

Complete spatial randomness has no closed form on a surface that bends, ends or has several components, so it is
simulated on the mesh itself. Geodesics are the expensive part, one propagation a point. Few particles are drawn afresh
in every simulation. For many, geodesics are computed once, among the points of a pool, and simulations draw from it:

- The surface is divided into strata, compact parts of equal area. A simulation draws afresh how many of its particles
  lie in each stratum (multinomial), and then so many of the stratum's points, without replacement.
- The number of a stratum's points is fixed before they are drawn, and they lie at random in it. So two particles of a
  simulation are distributed as two independent ones, at all distances: the mean of the counts has no bias.
- Two simulations share 1 / POOL_FACTOR² of their pairs. This is the correlation between simulations. The part of a
  count that depends on where single particles lie (near an end of the surface there is less area around them) is drawn
  afresh, but for its change within a stratum. Drawn from a pool without strata, it would correlate by 1 / POOL_FACTOR.

Between two kinds, geodesics start at the particles that stay, so all placed particles are drawn afresh.

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

# Points in the pool for each particle, and the least number of points.
POOL_FACTOR, MIN_POOL = 7, 200
# Points of the pool in each stratum, and the largest number of strata: more would be smaller than a face.
POINTS_PER_STRATUM, MAX_STRATA = 8, 512
# Geodesics from this many points, and this many distances, are computed at once, to bound memory.
SOURCES_AT_ONCE, DISTANCES_AT_ONCE = 512, 1 << 23
NO_BIN = -1
# What a stream of random numbers is for.
_WITHIN, _BETWEEN = 0, 1


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
    """
    areas = surface.face_areas[faces]
    drawn = faces[np.searchsorted(np.cumsum(areas), rng.uniform(0.0, areas.sum(), count)).clip(max=len(faces) - 1)]
    return _within_faces(surface, drawn, rng)


def _within_faces(surface: Surface, faces: NDArray[np.int64], rng: np.random.Generator) -> SurfacePoints:
    """Draw one point in each of the N faces.

    References
    ----------
    Turk, Graphics Gems, 1990 (uniform points on a triangle).
    """
    root, second = np.sqrt(rng.uniform(size=len(faces))), rng.uniform(size=len(faces))
    return surface.points(faces, np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1))


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
    distances = surface.geodesic(sources, targets, cutoff_angstrom=float(edges[-1]))
    inside = np.searchsorted(edges, distances, side="right") - 1
    return np.where(inside < len(edges) - 1, inside, NO_BIN).astype(np.int16)


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
        Seed of the random numbers, not negative: the same arguments give the same counts. Each membrane needs a seed of
        its own, or sums over membranes spread too far.

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
    for component in np.unique(component_of).tolist():
        here = np.flatnonzero(component_of == component)
        if len(here) < 2:
            continue
        faces = np.flatnonzero(surface.face_components == component)
        members = [here[kinds[here] == kind] for kind in range(n_kinds)]
        within = _pairs_within(
            surface,
            faces,
            [len(some) for some in members],
            edges=edges_angstrom,
            n_simulations=n_simulations,
            stream=[seed, component, _WITHIN],
        )
        for kind in range(n_kinds):
            counts[component, kind, kind] = within[kind]
            others = np.setdiff1d(here, members[kind])
            if len(members[kind]) and len(others):
                placed = random_points(
                    surface,
                    faces,
                    n_simulations * len(members[kind]),
                    np.random.default_rng([seed, component, _BETWEEN, kind]),
                )
                centres = surface.points(at.faces[others], at.weights[others])
                counts[component, :, kind] += _pairs_between(
                    surface, centres, kinds[others], placed, (n_kinds, n_simulations, n_bins), edges_angstrom
                )
    return counts


def _pairs_within(
    surface: Surface,
    faces: NDArray[np.int64],
    numbers: list[int],
    *,
    edges: NDArray[np.float64],
    n_simulations: int,
    stream: list[int],
) -> NDArray[np.int64]:
    """Return the (K, S, B) ordered pairs within each kind, `numbers` of particles of which lie on the faces."""
    most, n_bins = max(numbers), len(edges) - 1
    size = max(POOL_FACTOR * most, MIN_POOL)
    rng = np.random.default_rng(stream)
    counts = np.zeros((len(numbers), n_simulations, n_bins), np.int64)
    if most < 2:
        return counts
    if n_simulations * sum(numbers) <= size:
        pool = random_points(surface, faces, n_simulations * sum(numbers), rng)
        drawn = np.split(np.arange(len(pool)).reshape(n_simulations, -1), np.cumsum(numbers)[:-1], axis=1)
        members = [list(of_kind) for of_kind in drawn]
    else:
        pool, members = _stratified(surface, faces, numbers, size=size, n_simulations=n_simulations, rng=rng)
    for start in range(0, len(pool), SOURCES_AT_ONCE):
        stop = min(start + SOURCES_AT_ONCE, len(pool))
        sources = surface.points(pool.faces[start:stop], pool.weights[start:stop])
        bins = bins_between(surface, sources, pool, edges)
        bins[np.arange(stop - start), np.arange(start, stop)] = NO_BIN
        bins += 1  # bin 0 holds what is not counted
        for kind, of_kind in enumerate(members):
            for simulation, drawn_here in enumerate(of_kind):
                low, high = np.searchsorted(drawn_here, (start, stop))
                if numbers[kind] > 1 and high > low:
                    found = bins[np.ix_(drawn_here[low:high] - start, drawn_here)]
                    counts[kind, simulation] += np.bincount(found.reshape(-1), minlength=n_bins + 1)[1:]
    return counts


def _stratified(
    surface: Surface,
    faces: NDArray[np.int64],
    numbers: list[int],
    *,
    size: int,
    n_simulations: int,
    rng: np.random.Generator,
) -> tuple[SurfacePoints, list[list[NDArray[np.int64]]]]:
    """Return a pool of about `size` points, and the sorted points of each kind and simulation in it."""
    order, starts = _strata(surface, faces, min(max(size // POINTS_PER_STRATUM, 1), MAX_STRATA))
    ends = np.cumsum(surface.face_areas[order])
    bounds = np.concatenate([[0.0], ends[np.append(starts[1:], len(order)) - 1]])
    shares = np.diff(bounds) / bounds[-1]
    in_strata = [rng.multinomial(number, shares, size=n_simulations) for number in numbers]
    sizes = np.ceil(size * shares).astype(np.int64)
    sizes = np.maximum(sizes, np.max([per_simulation.max(axis=0) for per_simulation in in_strata], axis=0))
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    position = bounds[stratum] + rng.uniform(size=len(stratum)) * np.diff(bounds)[stratum]
    last = np.append(starts[1:], len(order)) - 1
    pool = _within_faces(surface, order[np.clip(np.searchsorted(ends, position), starts[stratum], last[stratum])], rng)
    first = np.cumsum(sizes) - sizes
    members: list[list[NDArray[np.int64]]] = []
    for per_simulation in in_strata:
        drawn = []
        for wanted in per_simulation:
            shuffled = np.lexsort((rng.uniform(size=len(stratum)), stratum))
            drawn.append(np.sort(shuffled[np.arange(len(stratum)) - first[stratum] < wanted[stratum]]))
        members.append(drawn)
    return pool, members


def _strata(surface: Surface, faces: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide M faces into at most `count` compact strata of nearly equal area, by bisection along the longest axis.

    Returns the (M,) faces, stratum after stratum, and the place at which each stratum starts.
    """
    middles, areas = surface.vertices[surface.faces[faces]].mean(axis=1), surface.face_areas[faces]
    todo, strata = [(np.arange(len(faces)), count)], []
    while todo:
        part, wanted = todo.pop()
        if wanted < 2 or len(part) < 2 or not areas[part].sum() > 0.0:
            strata.append(part)
            continue
        axis = int(np.ptp(middles[part], axis=0).argmax())
        part = part[np.argsort(middles[part, axis], kind="stable")]
        low = wanted // 2
        total = np.cumsum(areas[part])
        cut = int(np.clip(np.searchsorted(total, total[-1] * low / wanted) + 1, 1, len(part) - 1))
        todo += [(part[:cut], low), (part[cut:], wanted - low)]
    strata = [part for part in strata if areas[part].sum() > 0.0]
    sizes = np.array([len(part) for part in strata])
    return faces[np.concatenate(strata)], np.cumsum(sizes) - sizes


def _pairs_between(
    surface: Surface,
    centres: SurfacePoints,
    kinds: NDArray[np.int64],
    placed: SurfacePoints,
    shape: tuple[int, int, int],
    edges: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the (K, S, B) pairs of the centres, by kind, with each simulation's share of the placed points."""
    n_kinds, n_simulations, n_bins = shape
    simulation = np.arange(len(placed)) // (len(placed) // n_simulations)
    counts = np.zeros((n_kinds, n_simulations * (n_bins + 1)), np.int64)
    at_once = int(np.clip(DISTANCES_AT_ONCE // len(placed), 1, SOURCES_AT_ONCE))
    for start in range(0, len(centres), at_once):
        part = slice(start, start + at_once)
        bins = bins_between(surface, surface.points(centres.faces[part], centres.weights[part]), placed, edges)
        places = simulation * (n_bins + 1) + (bins + 1)
        for kind in np.unique(kinds[part]):
            some = places[kinds[part] == kind].reshape(-1)
            counts[kind] += np.bincount(some, minlength=counts.shape[1])
    return counts.reshape(n_kinds, n_simulations, n_bins + 1)[..., 1:]
