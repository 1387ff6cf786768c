"""Geodesic distances on triangle meshes by window propagation, with compiled kernels.

Imports `geometry`, `jit` and no other part of `mesh`; `mesh.surface.Surface` is the interface for other packages.

- `solver`: `Geodesics`, distances of one mesh on several threads.
- `propagation`, `windows`, `pseudosources`, `annuli`: the kernels, from the entry points inwards.
- `state`: arrays that the kernels share.
- `surface_points`: `SurfacePoints`, `Survey`.
- `vertex_fans`: fans of faces about vertices.
"""

__all__ = ["annuli", "propagation", "pseudosources", "solver", "state", "surface_points", "vertex_fans", "windows"]
