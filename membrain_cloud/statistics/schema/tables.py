"""The tables and their columns: names, kinds, units and what they mean. The one place that puts them together.

Unknown is None (NULL), never -1 or infinity. Counts and areas add up over membranes, tomograms and datasets; what does
not (densities, g and K) follows from them in a query.
"""

from __future__ import annotations

from membrain_cloud.statistics.schema import membranes as membrane
from membrain_cloud.statistics.schema import particles as particle
from membrain_cloud.statistics.schema.column import MEMBRANE_KEYS, TOMOGRAM_KEYS, Column

__all__ = ["MEMBRANE_KEYS", "TABLES", "TOMOGRAM_KEYS", "Column"]

TABLES: dict[str, tuple[Column, ...]] = {
    "tomograms": (*TOMOGRAM_KEYS, *membrane.TOMOGRAMS),
    "membranes": (*MEMBRANE_KEYS, *membrane.MEMBRANES),
    "membrane_histograms": (*MEMBRANE_KEYS, *membrane.MEMBRANE_HISTOGRAMS),
    "membrane_pairs": (*MEMBRANE_KEYS, *membrane.MEMBRANE_PAIRS),
    "density_profiles": (*MEMBRANE_KEYS, *membrane.DENSITY_PROFILES),
    "membrane_particles": (*MEMBRANE_KEYS, *membrane.MEMBRANE_PARTICLES),
    "particles": (*MEMBRANE_KEYS, *particle.PARTICLES),
    "particle_histograms": (*MEMBRANE_KEYS, *particle.PARTICLE_HISTOGRAMS),
    "neighbors": (*MEMBRANE_KEYS, *particle.NEIGHBORS),
    "binned_neighbors": (*MEMBRANE_KEYS, *particle.BINNED_NEIGHBORS),
    "pair_counts": (*MEMBRANE_KEYS, *particle.PAIR_COUNTS),
    "binned_pair_counts": (*MEMBRANE_KEYS, *particle.BINNED_PAIR_COUNTS),
    "random_pair_counts": (*MEMBRANE_KEYS, *particle.RANDOM_PAIR_COUNTS),
    "chains": (*MEMBRANE_KEYS, *particle.CHAINS),
    "chain_members": (*MEMBRANE_KEYS, *particle.CHAIN_MEMBERS),
    "random_chains": (*MEMBRANE_KEYS, *particle.RANDOM_CHAINS),
}
