"""Measure membranes and the particles on them: numbers as rows of tables.

May import `membrain_cloud.mesh`, `rotations`, `geometry` and `units`; no store, no network, no Dask.

Modules, lowest first:

- `schema`: tables and their columns (name, kind, unit, description).
- `membrane`: properties of a surface: curvature, bilayer thickness, gaps to other membranes, the lamella.
- `spatial`: where particles lie: neighbours, pair counts, Ripley's K, chains, random placement.
- `model`: one membrane with its particles, and what several statistics need of it.
- `rows`: one function a table: a `MeasuredMembrane` in, rows out.
- `measure`: the entry points `measure_membrane` and `measure_tomogram`.
- `context`: what is around any particles: the nearest membranes, and on which side of them the particles lie.
"""

__all__ = ["context", "measure", "membrane", "model", "rows", "schema", "spatial"]
