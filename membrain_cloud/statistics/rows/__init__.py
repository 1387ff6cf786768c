"""Build the rows of the tables: one function a table, from a `MeasuredMembrane` to its rows without key columns.

May import `statistics.model` and all below it; `statistics.measure` lists the functions.

Modules: `membranes`, `membrane_pairs`, `particles`, `pair_counts`, `chains`, named after the tables.
"""

__all__ = ["chains", "membrane_pairs", "membranes", "pair_counts", "particles"]
