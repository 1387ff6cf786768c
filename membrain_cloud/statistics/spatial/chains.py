"""Chains of particles, such as the ribosomes of a polysome: near, alike in orientation, and without a sharp turn.

Two particles are linked if they are near neighbours along the membrane, their in-plane orientations differ little, and
the chain does not turn sharply. Links are taken from the shortest to the longest. Each is made if both its ends are
still free ends of different chains and no turn becomes too sharp. The result depends on the particles' positions and
orientations alone, not on their order in the file.

References
----------
Lamm et al., MemBrain v2, 2024 (membrane-bound ribosomes). There, chains grow from the particle that is read first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.units import ANGSTROM_PER_NM

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChainRules:
    """Conditions for linking two particles.

    Parameters
    ----------
    distance_nm : float
        Maximum straight distance between the centres, nm.
    angle_degrees : float
        Maximum in-plane angle between the particles.
    turn_degrees : float
        Maximum turn of the chain at a particle; 0 is straight on.
    n_neighbors : int
        One of the two must be among this many nearest neighbours of the other along the membrane.
    least_members : int
        Chains of fewer particles are dropped.
    """

    distance_nm: float
    angle_degrees: float
    turn_degrees: float
    n_neighbors: int
    least_members: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """L pairs of particles that are near enough to be linked, each pair once.

    Parameters
    ----------
    one, other : (L,) int64 array
        Numbers of the two particles, `one` < `other`.
    distances : (L,) float64 array
        Straight distance between their centres, Å, rising.
    """

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    distances: Floats


@dataclass(frozen=True, eq=False)
class Linked:
    """Candidates and chains of one kind of particle.

    Parameters
    ----------
    kind : int
        Number of the kind.
    links : Candidates
        Pairs that may be linked.
    chains : list of list of int
        Particles of each chain, from end to end.
    """

    kind: int
    links: Candidates
    chains: list[list[int]]


def candidates(
    positions: Floats,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    ranks: NDArray[np.int64],
    rules: ChainRules,
) -> Candidates:
    """Choose the pairs that may be linked among nearest neighbours along the membrane.

    Parameters
    ----------
    positions : (N, 3) float64 array
        Centres of the particles, Å.
    sources, targets : (M,) int64 array
        Numbers of a particle and its neighbour.
    ranks : (M,) int64 array
        Rank of the neighbour, from 1.
    rules : ChainRules
        Its distance and number of neighbours apply here.

    Returns
    -------
    Candidates
        Shortest first; pairs of equal distance by their particles' numbers.
    """
    near_enough = ranks <= rules.n_neighbors
    one, other = np.minimum(sources, targets)[near_enough], np.maximum(sources, targets)[near_enough]
    pairs = np.unique(np.stack([one, other], axis=1), axis=0).reshape(-1, 2)
    distances = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    # Two particles in one place define no direction, hence no turn.
    near = (distances <= ANGSTROM_PER_NM * rules.distance_nm) & (distances > 0.0)
    pairs, distances = pairs[near], distances[near]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], distances))
    return Candidates(pairs[order, 0], pairs[order, 1], distances[order])


def find_chains(positions: Floats, links: Candidates, angles: Floats, rules: ChainRules) -> list[list[int]]:
    """Link particles to chains.

    Parameters
    ----------
    positions : (N, 3) float64 array
        Centres of the particles, Å.
    links : Candidates
        The L pairs that may be linked, shortest first.
    angles : (L,) float64 array
        In-plane angle of each pair, degrees. Pairs of unknown angle (NaN) are not linked.
    rules : ChainRules
        Conditions for a link.

    Returns
    -------
    list of list of int
        Particles of each chain from end to end; longest chain first, then by the first particles.
    """
    min_cosine = np.cos(np.radians(rules.turn_degrees))
    linked_to: dict[int, list[int]] = {}
    other_end: dict[int, int] = {}  # of each end of a chain

    def straight(here: int, there: int) -> bool:
        """Tell whether the chain that ends in `here` may continue to `there`."""
        if not linked_to.get(here):
            return True
        before, after = positions[here] - positions[linked_to[here][0]], positions[there] - positions[here]
        cosine_limit = min_cosine * float(np.linalg.norm(before) * np.linalg.norm(after))
        return bool(float(before @ after) >= cosine_limit - 1e-9)

    for one, other, angle in zip(links.one.tolist(), links.other.tolist(), angles.tolist(), strict=True):
        is_inner = len(linked_to.get(one, ())) > 1 or len(linked_to.get(other, ())) > 1
        if not angle <= rules.angle_degrees or is_inner:
            continue
        if other_end.get(one, one) == other or not (straight(one, other) and straight(other, one)):
            continue
        far_one, far_other = other_end.get(one, one), other_end.get(other, other)
        linked_to.setdefault(one, []).append(other)
        linked_to.setdefault(other, []).append(one)
        other_end[far_one], other_end[far_other] = far_other, far_one
    return sorted(
        (chain for chain in _walk(linked_to) if len(chain) >= rules.least_members),
        key=lambda chain: (-len(chain), chain),
    )


def turns_degrees(positions: Floats, chain: list[int]) -> Floats:
    """Compute the turn of a chain at each inner member.

    Parameters
    ----------
    positions : (N, 3) float64 array
        Centres of all particles.
    chain : list of int
        Numbers of the M members, from end to end.

    Returns
    -------
    (M - 2,) float64 array
        Angle between successive steps, degrees; 0 is straight on.
    """
    steps = np.diff(positions[chain], axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    return np.asarray(np.degrees(np.arccos(np.clip((steps[:-1] * steps[1:]).sum(axis=1), -1.0, 1.0))))


def _walk(linked_to: dict[int, list[int]]) -> list[list[int]]:
    """Return every chain once, from the one of its ends that has the smaller number."""
    chains: list[list[int]] = []
    visited: set[int] = set()
    for start in sorted(linked_to):
        if start in visited or len(linked_to[start]) != 1:
            continue
        chain, before = [start], -1
        while True:
            ahead = [particle for particle in linked_to[chain[-1]] if particle != before]
            if not ahead:
                break
            before = chain[-1]
            chain.append(ahead[0])
        visited.update(chain)
        chains.append(chain)
    return chains
