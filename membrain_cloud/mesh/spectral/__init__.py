"""Discrete differential operators of triangle meshes: Laplacians, gradients, eigenpairs, the heat method.

Imports `geometry` and `jit` and no other part of `mesh`.

- `operators`: what a DiffusionNet works with, and edges and areas of vertices.
- `eigenpairs`, `ldl`: the lowest eigenpairs of a Laplacian, and the factors that find them.
- `heat_method`: distances as MemBrain-pick measures them to cut its patches.
"""

__all__ = ["eigenpairs", "heat_method", "ldl", "operators"]
