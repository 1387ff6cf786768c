"""Conversion between binary masks and triangle meshes.

Imports `geometry` and no other part of `mesh`; pyvista, pyacvd and VTK are used here alone within `mesh`.

- `isosurface`: the smooth level surface of a mask.
- `mask_to_mesh`: an even, closed shell around a membrane.
- `mesh_to_mask`: the voxels inside a closed mesh.
"""

__all__ = ["isosurface", "mask_to_mesh", "mesh_to_mask"]
