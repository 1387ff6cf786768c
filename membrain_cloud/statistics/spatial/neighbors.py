"""Nearest neighbours of particles along a surface, and counts of pairs around each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface, SurfacePoints

# Distances from this many particles to all others are held at once, to bound memory.
SOURCES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Neighbors:
    """A list of L neighbours, sorted by source, kind of target and rank.

    Parameters
    ----------
    sources, targets : (L,) int64 array
        Numbers of the particle and of its neighbour.
    kinds : (L,) int64 array
        Kind of the neighbour.
    ranks : (L,) int64 array
        1 for the nearest neighbour of that kind.
    distances : (L,) float64 array
        Distance along the surface, Å.
    """

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    kinds: NDArray[np.int64]
    ranks: NDArray[np.int64]
    distances: NDArray[np.float64]

    def nearest(self, kind: int, count: int) -> NDArray[np.float64]:
        """Return the distance from each particle to the nearest other one of a kind.

        Parameters
        ----------
        kind : int
            Kind of the neighbour.
        count : int
            Number N of all particles.

        Returns
        -------
        (N,) float64 array
            Distance in Å; infinity for particles without such a neighbour.
        """
        nearest = np.full(count, np.inf)
        first = (self.kinds == kind) & (self.ranks == 1)
        nearest[self.sources[first]] = self.distances[first]
        return nearest


@dataclass(frozen=True, eq=False)
class Pairs:
    """Neighbours and pair counts of N particles of K kinds on a surface, in B bins of distance.

    Parameters
    ----------
    edges : (B + 1,) float64 array
        Edges of the bins, Å.
    kinds : (N,) int64 array
        Kind of each particle.
    components : (N,) int64 array
        Component of the surface that each particle is on.
    neighbors : Neighbors
        The nearest neighbours.
    counts : (N, K, B) int32 array
        Particles of each kind in each bin around each particle.
    areas : (N, B) float64 array
        Area of the annulus of each bin around each particle, Å².
    to_boundary : (N,) float64 array
        Distance along the surface to its boundary, Å; infinity beyond the cut-off.
    to_seam : (N,) float64 array
        Distance along the surface to the seam between leaflets, Å; infinity beyond the cut-off.
    """

    edges: NDArray[np.float64]
    kinds: NDArray[np.int64]
    components: NDArray[np.int64]
    neighbors: Neighbors
    counts: NDArray[np.int32]
    areas: NDArray[np.float64]
    to_boundary: NDArray[np.float64]
    to_seam: NDArray[np.float64]


def count_pairs(
    surface: Surface,
    at: SurfacePoints,
    kinds: NDArray[np.int64],
    *,
    cutoff_angstrom: float,
    bin_width_angstrom: float,
    boundary_cutoff_angstrom: float,
    n_neighbors: int,
) -> Pairs:
    """Find the nearest neighbours along the surface and count pairs by distance.

    Parameters
    ----------
    surface : Surface
        The surface.
    at : SurfacePoints
        Places of the N particles on it.
    kinds : (N,) int64 array
        Kind of each particle, from 0.
    cutoff_angstrom : float
        Largest distance of neighbours and pairs, Å. As many whole bins are counted as fit in.
    bin_width_angstrom : float
        Width of a bin of distance, Å.
    boundary_cutoff_angstrom : float
        Distances to the boundary and the seam are known at least up to this one, Å.
    n_neighbors : int
        Highest rank of neighbours, for each kind. Equally near neighbours are ranked in the order of the particles.

    Returns
    -------
    Pairs
        Neighbours, counts, and the areas that expected counts follow from.
    """
    n_kinds = int(kinds.max()) + 1 if len(kinds) else 0
    edges = bin_width_angstrom * np.arange(int(cutoff_angstrom / bin_width_angstrom + 1e-9) + 1, dtype=np.float64)
    counts = np.zeros((len(at), n_kinds, len(edges) - 1), np.int32)
    areas = np.zeros((len(at), len(edges) - 1))
    to_boundary, to_seam = np.full(len(at), np.inf), np.full(len(at), np.inf)
    nearest = []
    for start in range(0, len(at), SOURCES_AT_ONCE):
        rows = np.arange(start, min(start + SOURCES_AT_ONCE, len(at)))
        survey = surface.survey(
            surface.points(at.faces[rows], at.weights[rows]),
            at,
            cutoff_angstrom=max(cutoff_angstrom, boundary_cutoff_angstrom, float(edges[-1])),
            edges_angstrom=edges,
        )
        to_boundary[rows], to_seam[rows], areas[rows] = survey.to_boundary, survey.to_seam, survey.annulus_areas
        distances = survey.distances
        distances[np.arange(len(rows)), rows] = np.inf
        row, target = np.nonzero(distances < edges[-1])
        inside = np.searchsorted(edges, distances[row, target], side="right") - 1
        np.add.at(counts, (rows[row], kinds[target], inside), 1)
        nearest += [_nearest(start, distances, kinds, kind, n_neighbors, cutoff_angstrom) for kind in range(n_kinds)]
    components = surface.face_components[at.faces] if len(at) else np.zeros(0, np.int64)
    return Pairs(edges, kinds, components, _joined(nearest), counts, areas, to_boundary, to_seam)


def _nearest(
    start: int, distances: NDArray[np.float64], kinds: NDArray[np.int64], kind: int, n_neighbors: int, cutoff: float
) -> Neighbors:
    """Return the nearest particles of one kind, for the S sources from number `start` with (S, N) distances."""
    members = np.flatnonzero(kinds == kind)
    to_members = distances[:, members]
    order = np.argsort(to_members, axis=1, kind="stable")[:, :n_neighbors]
    ranked = np.take_along_axis(to_members, order, axis=1)
    row, rank = np.nonzero(ranked <= min(cutoff, np.finfo(np.float64).max))
    target_kinds = np.full(len(row), kind, np.int64)
    return Neighbors(start + row, members[order[row, rank]], target_kinds, rank + 1, ranked[row, rank])


def _joined(parts: list[Neighbors]) -> Neighbors:
    """Join lists of neighbours into one sorted list."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Neighbors(none, none, none, none, np.zeros(0))
    sources, targets, kinds, ranks = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("sources", "targets", "kinds", "ranks")
    )
    distances = np.concatenate([part.distances for part in parts])
    order = np.lexsort((ranks, kinds, sources))
    return Neighbors(sources[order], targets[order], kinds[order], ranks[order], distances[order])
