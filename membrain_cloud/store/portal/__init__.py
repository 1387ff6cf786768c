"""The CryoET Data Portal: selections of its tomograms, and depositions of annotations to it.

Imports of the store `projects`, `formats`, `refs`, `objects` and `model_registry` (its cache folder).

- `client` : GraphQL requests to the portal, page by page
- `selection` : choose tomograms, one per run
- `write_selection` : a selection as a manifest and a copick config
- `deposition` : copies of annotations, and the ingestion config that describes them
- `deposition_schema` : the portal's rules for ingestion configs
"""

__all__ = ["client", "deposition", "deposition_schema", "selection", "write_selection"]
