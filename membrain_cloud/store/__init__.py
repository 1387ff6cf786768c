"""Everything that is stored: volumes, annotations, tables, receipts and models, on disks and object stores.

Beside the modules at the top of `membrain_cloud` it imports `statistics.schema` (columns of tables) and `mesh.spectral`
(operators that are cached); never `pipeline`, `cli`, `training` or `networks`.

- `objects` : objects below one URL, with atomic writes
- `volumes` : chunked arrays and OME-Zarr volumes
- `run_state` : leases and receipts of tasks
- `refs` : names and URIs of tomograms and annotations
- `formats` : files of other programs
- `projects` : copick projects and manifests
- `tables` : Parquet tables
- `portal` : the CryoET Data Portal
- `model_registry` : model files by URL or name
- `operator_cache` : operators of surface patches
"""

__all__ = [
    "formats",
    "model_registry",
    "objects",
    "operator_cache",
    "portal",
    "projects",
    "refs",
    "run_state",
    "tables",
    "volumes",
]
