"""How particles lie to each other along a surface: neighbours, counts of pairs, and the curves made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from membrain_cloud.membranes.surface import Surface, SurfacePoints

# Particles whose distances to all others are held at once.
SOURCES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Neighbor:
    """One line of the nearest-neighbour table; particles by number, the length in Å."""

    source: int
    target: int
    target_kind: int
    rank: int
    distance: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """What `count_pairs` finds among N particles of K kinds on a surface of C components, in B bins; Å and Å².

    edges : (B + 1,).  counts : (C, K, K, B) ordered pairs (kind in the centre, kind counted).
    areas : (C, K, B) area of the annuli about the particles.  to_boundary, to_seam : (N,) inf beyond the cut-off.
    """

    edges: NDArray[np.float64]
    neighbors: list[Neighbor]
    counts: NDArray[np.int64]
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
    components = surface.face_components[at.faces] if len(at) else np.zeros(0, np.int64)
    n_kinds = int(kinds.max()) + 1 if len(kinds) else 0
    edges = bin_width_angstrom * np.arange(int(cutoff_angstrom / bin_width_angstrom + 1e-9) + 1, dtype=np.float64)
    found = Pairs(
        edges=edges,
        neighbors=[],
        counts=np.zeros((surface.n_components, n_kinds, n_kinds, len(edges) - 1), np.int64),
        areas=np.zeros((surface.n_components, n_kinds, len(edges) - 1)),
        to_boundary=np.full(len(at), np.inf),
        to_seam=np.full(len(at), np.inf),
    )
    for start in range(0, len(at), SOURCES_AT_ONCE):
        rows = np.arange(start, min(start + SOURCES_AT_ONCE, len(at)))
        survey = surface.survey(
            surface.points(at.faces[rows], at.weights[rows]),
            at,
            cutoff_angstrom=max(cutoff_angstrom, boundary_cutoff_angstrom, float(edges[-1])),
            edges_angstrom=edges,
        )
        found.to_boundary[rows], found.to_seam[rows] = survey.to_boundary, survey.to_seam
        np.add.at(found.areas, (components[rows], kinds[rows]), survey.annulus_areas)
        distances = survey.distances
        distances[np.arange(len(rows)), rows] = np.inf
        row, target = np.nonzero(distances < edges[-1])
        inside = np.searchsorted(edges, distances[row, target], side="right") - 1
        np.add.at(found.counts, (components[rows[row]], kinds[rows[row]], kinds[target], inside), 1)
        for i, source in enumerate(rows.tolist()):
            found.neighbors.extend(_nearest(source, distances[i], kinds, n_kinds, n_neighbors, cutoff_angstrom))
    return found


def _nearest(
    source: int, distances: NDArray[np.float64], kinds: NDArray[np.int64], n_kinds: int, count: int, cutoff: float
) -> list[Neighbor]:
    found = []
    for kind in range(n_kinds):
        near = np.flatnonzero((distances <= cutoff) & (kinds == kind))
        nearest = near[np.argsort(distances[near], kind="stable")[:count]]
        found += [
            Neighbor(source, int(target), kind, rank, float(distances[target]))
            for rank, target in enumerate(nearest, start=1)
        ]
    return found


def in_plane_angle_degrees(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Angle, 0 to 180, between the y axes of two rotations (3, 3) after the other's z axis is turned onto the one's.

    The turn is the smallest one, so that on a bent membrane the angle is that of the plane. None for opposite z axes
    and for rotations that are not finite.
    """
    axis, cosine = np.cross(other[:, 2], one[:, 2]), float(other[:, 2] @ one[:, 2])
    if not np.isfinite(cosine) or cosine < -1.0 + 1e-6:
        return None
    y = other[:, 1]
    turned = y * cosine + np.cross(axis, y) + axis * (axis @ y) / (1.0 + cosine)
    return float(np.degrees(np.arccos(np.clip(turned @ one[:, 1], -1.0, 1.0))))


@dataclass(frozen=True, eq=False)
class Ripley:
    """Curves over B bins. NaN where the surface has no area in a bin.

    r_nm : (B,) upper ends of the bins, where K and L hold; the pair correlation holds for the bin below.
    pair_correlation : (B,) g, 1 at random.
    k_nm2 : (B,) Ripley's K, observed.  random_k_nm2 : (B,) K of particles at random on these very surfaces, with their
        bends, ends and parts; πr² on an endless plane.
    l_minus_r_nm : (B,) √(K/π) - √(random K/π), 0 at random; on an endless plane the usual L(r) - r.
    """

    r_nm: NDArray[np.float64]
    pair_correlation: NDArray[np.float64]
    k_nm2: NDArray[np.float64]
    random_k_nm2: NDArray[np.float64]
    l_minus_r_nm: NDArray[np.float64]


def ripley_from_pair_counts(pair_counts: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any]]) -> Ripley:
    """Pool rows of the table `pair_counts`, of one kind of particle or pair of kinds, and of any number of membranes.

    pair_counts : rows, or columns of equal length: bin, r_max_nm, n_pairs, area_sum_nm2, expected_pairs, n_start.
    Bins must mean the same in all rows: ValueError otherwise.

        g = Σ n_pairs / Σ expected_pairs          K = cumulated Σ n_pairs / Σ (density of targets x n_start)
    """
    names = ("bin", "r_max_nm", "n_pairs", "area_sum_nm2", "expected_pairs", "n_start")
    if not isinstance(pair_counts, Mapping):
        pair_counts = {name: [row[name] for row in pair_counts] for name in names}
    columns = {name: np.asarray(pair_counts[name], np.float64) for name in names}
    bins, first, row_bin = np.unique(columns["bin"].astype(np.int64), return_index=True, return_inverse=True)
    r = columns["r_max_nm"][first]
    if not np.allclose(columns["r_max_nm"], r[row_bin]) or bins.tolist() != list(range(len(bins))):
        raise ValueError("the rows have different bins: pool only what was counted with one bin width and cut-off")

    def pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row_bin, values, minlength=len(bins)).astype(np.float64)

    area = columns["area_sum_nm2"]
    density = np.divide(columns["expected_pairs"], area, out=np.zeros_like(area), where=area > 0)
    counted, expected = pooled(columns["n_pairs"]), pooled(columns["expected_pairs"])
    # A density can be read only from bins with area; the first bin, about the particle itself, always has some.
    centres = np.full(len(bins), pooled(density * columns["n_start"])[0] if len(bins) else 0.0)
    k = _ratio(np.cumsum(counted), centres)
    random_k = _ratio(np.cumsum(expected), centres)
    difference = np.sqrt(k / np.pi) - np.sqrt(random_k / np.pi)
    return Ripley(r, _ratio(counted, expected), k, random_k, difference)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
