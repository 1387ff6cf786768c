"""From a mesh and the density around it to particles on a membrane: vertex scores, clustering, orientation.

Imports `mesh`, `geometry`, `jit` and nothing else of the package: arrays in, arrays out; networks come in as protocols.

- `pick_membrane`: one membrane's picks with a network.
- `vertex_scores`, `mesh_patches`: scores of the vertices, patch by patch.
- `clustering_options`: `ClusteringOptions`.
- `particles`, `clustering`, `crowded_clusters`, `orientation`: from scores to picks.
- `assignment`: the membrane that a particle from elsewhere sits on.
"""

__all__ = [
    "assignment",
    "clustering",
    "clustering_options",
    "crowded_clusters",
    "mesh_patches",
    "orientation",
    "particles",
    "pick_membrane",
    "vertex_scores",
]
