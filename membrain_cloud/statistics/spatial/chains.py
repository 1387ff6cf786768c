"""Chains of particles, as of ribosomes in a polysome: near, turned alike, and going on without a sharp turn.

After the analysis of membrane-bound ribosomes with MemBrain v2 (Lamm et al. 2024): a particle is linked to one of its
nearest neighbours along the membrane when the centres are near, their orientations in the plane differ little, and the
way does not turn much. There chains grow from whichever particle is read first, so that its longest chain depends on
the file's order. Here links are taken from the shortest to the longest, each where both its ends are still free ends
of different chains and no turn becomes too sharp: growing and merging at once, in an order that the particles' places
alone decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChainRules:
    """What may be linked: centres within `distance_nm`, in-plane angles up to `angle_degrees`, turns up to
    `turn_degrees`; among the `n_neighbors` nearest along the membrane, of either. Shorter chains than `least_members`
    do not count.
    """

    distance_nm: float
    angle_degrees: float
    turn_degrees: float
    n_neighbors: int
    least_members: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """L pairs that may be linked, each once.

    one, other : (L,) particles.  distances : (L,) between their centres, Å.
    """

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    distances: Floats


@dataclass(frozen=True, eq=False)
class Linked:
    """Of one kind of particle: what may be linked, and the chains it makes, as lists of particles."""

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
    """From nearest neighbours along the membrane; positions (N, 3) in Å. Shortest first; of equally long ones, the one
    between the particles that come first.
    """
    chosen = ranks <= rules.n_neighbors
    one, other = np.minimum(sources, targets)[chosen], np.maximum(sources, targets)[chosen]
    pairs = np.unique(np.stack([one, other], axis=1), axis=0).reshape(-1, 2)
    distances = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    # Two particles in one place have no way between them that could turn.
    near = (distances <= 10.0 * rules.distance_nm) & (distances > 0.0)
    pairs, distances = pairs[near], distances[near]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], distances))
    return Candidates(pairs[order, 0], pairs[order, 1], distances[order])


def find_chains(positions: Floats, links: Candidates, angles: Floats, rules: ChainRules) -> list[list[int]]:
    """The chains, as lists of particles from end to end; longest first, then by their first particles.

    angles : (L,) in-plane angles of the candidates, degrees; NaN, where unknown, links nothing.
    """
    least_cosine = np.cos(np.radians(rules.turn_degrees))
    beside: dict[int, list[int]] = {}
    end_of: dict[int, int] = {}  # of each end of a chain, the other end

    def straight(here: int, there: int) -> bool:
        """Whether the chain that ends in `here` may go on to `there`."""
        if not beside.get(here):
            return True
        before, after = positions[here] - positions[beside[here][0]], positions[there] - positions[here]
        return float(before @ after) >= least_cosine * float(np.linalg.norm(before) * np.linalg.norm(after)) - 1e-9

    for one, other, angle in zip(links.one.tolist(), links.other.tolist(), angles.tolist(), strict=True):
        if not angle <= rules.angle_degrees or len(beside.get(one, ())) > 1 or len(beside.get(other, ())) > 1:
            continue
        if end_of.get(one, one) == other or not (straight(one, other) and straight(other, one)):
            continue
        far_one, far_other = end_of.get(one, one), end_of.get(other, other)
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)
        end_of[far_one], end_of[far_other] = far_other, far_one
    return sorted(
        (chain for chain in _walk(beside) if len(chain) >= rules.least_members), key=lambda chain: (-len(chain), chain)
    )


def turns_degrees(positions: Floats, chain: list[int]) -> Floats:
    """(M - 2,) turn of the way at each inner member; 0 goes straight on."""
    steps = np.diff(positions[chain], axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip((steps[:-1] * steps[1:]).sum(axis=1), -1.0, 1.0)))


def _walk(beside: dict[int, list[int]]) -> list[list[int]]:
    """Every chain once, from its end that comes first."""
    chains, seen = [], set()
    for start in sorted(beside):
        if start in seen or len(beside[start]) != 1:
            continue
        chain, before = [start], -1
        while True:
            ahead = [particle for particle in beside[chain[-1]] if particle != before]
            if not ahead:
                break
            before = chain[-1]
            chain.append(ahead[0])
        seen.update(chain)
        chains.append(chain)
    return chains
