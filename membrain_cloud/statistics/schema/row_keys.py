"""Which columns tell the rows of a table apart, beside the key columns of the membrane: no two rows agree in all."""

from __future__ import annotations

_PAIR = ("component_id", "object_name", "target_object_name")
_CLASS_BIN = ("leaflet", "property", "bin")

ROW_KEYS: dict[str, tuple[str, ...]] = {
    "tomograms": (),
    "membranes": (),
    "membrane_histograms": _CLASS_BIN,
    "membrane_pairs": ("other_membrane_id",),
    "density_profiles": ("bin",),
    "membrane_particles": ("object_name",),
    "particles": ("particle_id",),
    "particle_histograms": ("object_name", *_CLASS_BIN),
    "neighbors": ("particle_id", "target_object_name", "rank"),
    "binned_neighbors": ("object_name", "target_object_name", *_CLASS_BIN),
    "pair_counts": (*_PAIR, "bin"),
    "binned_pair_counts": (*_PAIR, "property", "property_bin", "bin"),
    "random_pair_counts": (*_PAIR, "simulation", "bin"),
    "chains": ("chain_id",),
    "chain_members": ("chain_id", "place"),
    "random_chains": ("object_name", "simulation"),
}
PARENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "neighbors": ("particles", ("particle_id",)),
    "chain_members": ("chains", ("chain_id",)),
}
"""Table -> the table, and its columns beside the membrane's key, that must have a row for each of its rows."""
