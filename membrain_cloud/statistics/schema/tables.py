"""The tables of the statistics: their columns, and the columns that identify a row.

Unknown values are None (NULL), never -1 or infinity. Counts and areas can be summed over membranes, tomograms and
datasets. Ratios (densities, g, K) cannot; they follow from the sums.
"""

from __future__ import annotations

from membrain_cloud.statistics.schema import context
from membrain_cloud.statistics.schema import membranes as membrane
from membrain_cloud.statistics.schema import particles as particle
from membrain_cloud.statistics.schema.column import MEMBRANE_KEYS, TOMOGRAM_KEYS, Column

__all__ = [
    "ALL_TABLES",
    "CONTEXT_TABLES",
    "MEMBRANE_KEYS",
    "ORGANELLE_TABLES",
    "PARENTS",
    "ROW_KEYS",
    "STAGE_TABLES",
    "TABLES",
    "TOMOGRAM_KEYS",
    "Column",
]

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
"""Table of the stage `measure` -> all its columns, the key columns first."""

CONTEXT_TABLES: dict[str, tuple[Column, ...]] = {
    "particle_context": (*MEMBRANE_KEYS, *context.PARTICLE_CONTEXT),
}
"""Table of the stage `context` -> all its columns. A part holds one list of particles of a tomogram."""

ORGANELLE_TABLES: dict[str, tuple[Column, ...]] = {
    "membrane_organelles": (*MEMBRANE_KEYS, *context.MEMBRANE_ORGANELLES),
    "organelle_shares": (*MEMBRANE_KEYS, *context.ORGANELLE_SHARES),
}
"""Table of the stage `organelle` -> all its columns."""

STAGE_TABLES = {"measure": TABLES, "context": CONTEXT_TABLES, "organelle": ORGANELLE_TABLES}
"""Stage -> its tables."""

ALL_TABLES = TABLES | CONTEXT_TABLES | ORGANELLE_TABLES
"""Every table -> all its columns."""

_PAIR = ("component_id", "object_name", "target_object_name")
_LEAFLET_BIN = ("leaflet", "property", "bin")

ROW_KEYS: dict[str, tuple[str, ...]] = {
    "tomograms": (),
    "membranes": (),
    "membrane_histograms": _LEAFLET_BIN,
    "membrane_pairs": ("other_membrane_id",),
    "density_profiles": ("bin",),
    "membrane_particles": ("object_name",),
    "particles": ("particle_id",),
    "particle_histograms": ("object_name", *_LEAFLET_BIN),
    "neighbors": ("particle_id", "target_object_name", "rank"),
    "binned_neighbors": ("object_name", "target_object_name", *_LEAFLET_BIN),
    "pair_counts": (*_PAIR, "bin"),
    "binned_pair_counts": (*_PAIR, "property", "property_bin", "bin"),
    "random_pair_counts": (*_PAIR, "simulation", "bin"),
    "chains": ("chain_id",),
    "chain_members": ("chain_id", "place"),
    "random_chains": ("object_name", "simulation"),
    "particle_context": ("picks", "particle_id"),
    "membrane_organelles": (),
    "organelle_shares": ("organelle",),
}
"""Table -> the columns that, together with the key columns, identify a row: no two rows agree in all of them."""

PARENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "neighbors": ("particles", ("particle_id",)),
    "chain_members": ("chains", ("chain_id",)),
}
"""Table -> (parent table, columns): for each row, the parent has a row with equal key columns and equal columns."""
