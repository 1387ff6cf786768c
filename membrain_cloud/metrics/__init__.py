"""Scores of results against a truth, and changes between two annotations.

It may import `image`, `mesh`, `geometry` and `errors`; no storage, no torch.

Modules
-------
overlap : Dice, Surface-Dice, F1 of picks, matched instances.
mesh_distance : Chamfer and Hausdorff distances, areas and normals of two surfaces.
pick_placement : distances and angles of picks to true particles.
changes : membranes and points that are matched, split, merged, gone or new.
"""

__all__ = ["changes", "mesh_distance", "overlap", "pick_placement"]
