"""Rows about chains of particles: `chains`, `chain_members`, and `random_chains` from simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.spatial.chains import find_chains, turns_degrees
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane
    from membrain_cloud.statistics.schema.column import Row

# Parts the random numbers of chains from those of pairs, which have the number of a component in this place.
CHAINS_STREAM = 1 << 31


def chain_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `chains`: size and shape of each chain.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a chain, by kind, longest first.
    """
    rows: list[Row] = []
    for linked in membrane.linked:
        for chain in linked.chains:
            members = np.array(chain)
            steps = np.linalg.norm(np.diff(membrane.positions[members], axis=0), axis=1)
            span = float(np.linalg.norm(membrane.positions[chain[-1]] - membrane.positions[chain[0]]))
            turns = turns_degrees(membrane.positions, chain)
            rows.append(
                {
                    "chain_id": len(rows),
                    "object_name": membrane.kind_names[linked.kind],
                    "component_id": int(membrane.components[chain[0]]),
                    "n_members": len(chain),
                    "length_nm": float(steps.sum()) / ANGSTROM_PER_NM,
                    "span_nm": span / ANGSTROM_PER_NM,
                    "mean_in_plane_angle_degrees": float(membrane.angles_between(members[:-1], members[1:]).mean()),
                    "mean_turn_degrees": float(turns.mean()) if len(turns) else None,
                }
            )
    return rows


def chain_member_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `chain_members`: the particles of each chain, in order.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a particle in a chain.
    """
    rows: list[Row] = []
    chains = [(linked.kind, chain) for linked in membrane.linked for chain in linked.chains]
    for number, (kind, chain) in enumerate(chains):
        members = np.array(chain)
        steps = np.linalg.norm(np.diff(membrane.positions[members], axis=0), axis=1) / ANGSTROM_PER_NM
        angles = membrane.angles_between(members[:-1], members[1:])
        turns = turns_degrees(membrane.positions, chain)
        for place, particle in enumerate(chain):
            last, inner = place == len(chain) - 1, 0 < place < len(chain) - 1
            rows.append(
                {
                    "chain_id": number,
                    "object_name": membrane.kind_names[kind],
                    "place": place,
                    "particle_id": int(membrane.order[particle]),
                    "next_nm": None if last else float(steps[place]),
                    "in_plane_angle_degrees": None if last else float(angles[place]),
                    "turn_degrees": float(turns[place - 1]) if inner else None,
                }
            )
    return rows


def random_chain_rows(membrane: MeasuredMembrane) -> list[Row]:
    """Return the rows of `random_chains`: chains of particles with orientations at random.

    Each particle keeps its place and is rotated at random about its normal, so the rows tell how many chains the places
    alone would give.

    Parameters
    ----------
    membrane : MeasuredMembrane
        The membrane and its particles.

    Returns
    -------
    list of Row
        One row a kind and simulation; none if no chains are looked for.
    """
    rows: list[Row] = []
    rules = membrane.options.chains
    for linked in membrane.linked:
        one, other = linked.links.one, linked.links.other
        rng = np.random.default_rng([membrane.seed, CHAINS_STREAM, linked.kind])
        for simulation in range(membrane.options.n_simulations):
            rotation = rng.uniform(-180.0, 180.0, len(membrane.order))
            # The observed orientations are not needed: rotating either of two particles at random makes their angle
            # uniform. One rotation a particle keeps the angles of all its pairs consistent.
            angles = _folded(rotation[one] - rotation[other], membrane.options.symmetry)
            angles[~(membrane.in_plane_known[one] & membrane.in_plane_known[other])] = np.nan
            assert rules is not None
            lengths = [len(chain) for chain in find_chains(membrane.positions, linked.links, angles, rules)]
            rows.append(
                {
                    "object_name": membrane.kind_names[linked.kind],
                    "simulation": simulation,
                    "n_chains": len(lengths),
                    "n_members": sum(lengths),
                    "longest": max(lengths, default=0),
                }
            )
    return rows


def _folded(angles: NDArray[np.float64], symmetry: int) -> NDArray[np.float64]:
    """Fold rotations (degrees) of particles with rotational symmetry to 0 ... 180 / symmetry."""
    step = 360.0 / symmetry
    rest = np.mod(angles, step)
    return np.minimum(rest, step - rest)
