"""Projects: tomograms and their annotations, described by a copick config or by a manifest.

Imports of the store `formats`, `refs`, `volumes`, `run_state` and `objects`. Everything else knows projects by the
protocol `project.Project`, and opens them by `open.open_project`.

- `project` : the protocol, with all methods documented
- `open` : open a project of either kind
- `resolve` : the annotations that a URI names
- `stored_project` : the two implementations, composed of the parts below
- `layers` : overlay and static root as one tree
- `catalog`, `volume_store`, `annotation_store`, `copick_config` : parts of a copick project
- `manifest`, `manifest_parts` : the manifest file, and the parts of a project over one
- `croissant` : the tree that a Croissant manifest lists
- `create`, `import_annotations` : make a project, bring files of other programs into it
- `http_server` : serve volumes and meshes to a viewer
"""

__all__ = [
    "annotation_store",
    "catalog",
    "copick_config",
    "create",
    "croissant",
    "http_server",
    "import_annotations",
    "layers",
    "manifest",
    "manifest_parts",
    "open",
    "project",
    "resolve",
    "stored_project",
    "volume_store",
]
