"""How particles lie to each other along a surface: neighbours, and counts of pairs about each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface, SurfacePoints

# Particles whose distances to all others are held at once.
SOURCES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest-neighbour table, a line an element: by source, kind of target, rank.

    sources, targets, kinds, ranks : (L,) particles, the target's kind, and 1 for the nearest of that kind.
    distances : (L,) along the surface, Å.
    """

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    kinds: NDArray[np.int64]
    ranks: NDArray[np.int64]
    distances: NDArray[np.float64]

    def nearest(self, kind: int, count: int) -> NDArray[np.float64]:
        """(N,) Å from each of `count` particles to the nearest of a kind; inf where there is none."""
        found = np.full(count, np.inf)
        first = (self.kinds == kind) & (self.ranks == 1)
        found[self.sources[first]] = self.distances[first]
        return found


@dataclass(frozen=True, eq=False)
class Pairs:
    """What `count_pairs` finds among N particles of K kinds on a surface of C components, in B bins; Å and Å².

    edges : (B + 1,).  kinds, components : (N,).
    counts : (N, K, B) particles of each kind in each bin about each particle.
    areas : (N, B) of the annuli about the particles.  to_boundary, to_seam : (N,) inf beyond the cut-off.
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
    """Neighbours and pairs within `cutoff_angstrom` along the surface; `kinds` (N,) numbers the kinds from 0.

    Bins fill the cut-off as far as whole ones fit. Equally near neighbours are ranked in the particles' order.
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
        nearest += [
            _nearest(start, distances, np.flatnonzero(kinds == kind), kind, n_neighbors, cutoff_angstrom)
            for kind in range(n_kinds)
        ]
    components = surface.face_components[at.faces] if len(at) else np.zeros(0, np.int64)
    return Pairs(edges, kinds, components, _joined(nearest), counts, areas, to_boundary, to_seam)


def _nearest(
    start: int, distances: NDArray[np.float64], members: NDArray[np.int64], kind: int, most: int, cutoff: float
) -> Neighbors:
    """The nearest among the members of one kind, for sources start, start + 1, ...: (S, T) distances."""
    among = distances[:, members]
    order = np.argsort(among, axis=1, kind="stable")[:, :most]
    found = np.take_along_axis(among, order, axis=1)
    row, rank = np.nonzero(found <= min(cutoff, np.finfo(np.float64).max))
    kinds = np.full(len(row), kind, np.int64)
    return Neighbors(start + row, members[order[row, rank]], kinds, rank + 1, found[row, rank])


def _joined(parts: list[Neighbors]) -> Neighbors:
    if not parts:
        none = np.zeros(0, np.int64)
        return Neighbors(none, none, none, none, np.zeros(0))
    sources, targets, kinds, ranks = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("sources", "targets", "kinds", "ranks")
    )
    distances = np.concatenate([part.distances for part in parts])
    order = np.lexsort((ranks, kinds, sources))
    return Neighbors(sources[order], targets[order], kinds[order], ranks[order], distances[order])
