"""Rows about chains of particles, and about those in simulations where only the orientations are at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.rows.pair_counts import SEED
from membrain_cloud.statistics.spatial.chains import find_chains, turns_degrees
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.statistics.model.measured_membrane import Measured
    from membrain_cloud.statistics.schema.row import Row


def chain_rows(measured: Measured) -> list[Row]:
    """A row a chain."""
    rows: list[Row] = []
    for linked in measured.linked:
        for chain in linked.chains:
            members = np.array(chain)
            steps = np.linalg.norm(np.diff(measured.positions[members], axis=0), axis=1)
            turns = turns_degrees(measured.positions, chain)
            rows.append(
                {
                    "chain_id": len(rows),
                    "object_name": measured.kind_names[linked.kind],
                    "component_id": int(measured.components[chain[0]]),
                    "n_members": len(chain),
                    "length_nm": float(steps.sum()) / ANGSTROM_PER_NM,
                    "span_nm": float(np.linalg.norm(measured.positions[chain[-1]] - measured.positions[chain[0]]))
                    / ANGSTROM_PER_NM,
                    "mean_in_plane_angle_degrees": float(measured.angles_between(members[:-1], members[1:]).mean()),
                    "mean_turn_degrees": float(turns.mean()) if len(turns) else None,
                }
            )
    return rows


def chain_member_rows(measured: Measured) -> list[Row]:
    """A row a particle in a chain."""
    rows: list[Row] = []
    chains = [(linked.kind, chain) for linked in measured.linked for chain in linked.chains]
    for number, (kind, chain) in enumerate(chains):
        members = np.array(chain)
        steps = np.linalg.norm(np.diff(measured.positions[members], axis=0), axis=1) / ANGSTROM_PER_NM
        angles = measured.angles_between(members[:-1], members[1:])
        turns = turns_degrees(measured.positions, chain)
        for place, particle in enumerate(chain):
            last, inner = place == len(chain) - 1, 0 < place < len(chain) - 1
            rows.append(
                {
                    "chain_id": number,
                    "object_name": measured.kind_names[kind],
                    "place": place,
                    "particle_id": int(measured.order[particle]),
                    "next_nm": None if last else float(steps[place]),
                    "in_plane_angle_degrees": None if last else float(angles[place]),
                    "turn_degrees": float(turns[place - 1]) if inner else None,
                }
            )
    return rows


def random_chain_rows(measured: Measured) -> list[Row]:
    """Chains of the same particles, each turned at random about its normal: what places alone make of the rules."""
    rows: list[Row] = []
    rules = measured.options.chains
    for linked in measured.linked:
        rng = np.random.default_rng([SEED, 1, linked.kind])
        for simulation in range(measured.options.n_simulations):
            turned = rng.uniform(-180.0, 180.0, len(measured.order))
            # Adding a random turn to one of two leaves their angle at random, and the same for all that it is in.
            angles = _folded(turned[linked.links.one] - turned[linked.links.other], measured.options.symmetry)
            angles[~(measured.turns_known[linked.links.one] & measured.turns_known[linked.links.other])] = np.nan
            assert rules is not None
            lengths = [len(chain) for chain in find_chains(measured.positions, linked.links, angles, rules)]
            rows.append(
                {
                    "object_name": measured.kind_names[linked.kind],
                    "simulation": simulation,
                    "n_chains": len(lengths),
                    "n_members": sum(lengths),
                    "longest": max(lengths, default=0),
                }
            )
    return rows


def _folded(turns: NDArray[np.float64], symmetry: int) -> NDArray[np.float64]:
    step = 360.0 / symmetry
    rest = np.mod(turns, step)
    return np.minimum(rest, step - rest)
