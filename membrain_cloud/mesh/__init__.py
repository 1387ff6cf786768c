"""Triangle meshes as geometry: connectivity, distances, curvature, sides, operators, conversion from and to masks.

Imports `geometry`, `jit` and nothing else of the package: it knows no membranes' statistics, networks or storage.

- `surface`: `Surface`, the interface to topology, areas, closest points and geodesics of a mesh.
- `topology`, `repair`, `curvature`: what a surface consists of, before and beside it.
- `bounding_volume_tree`, `point_triangle`, `ray_casting`, `vectors`: nearest faces and first hits of rays.
- `leaflets`, `shell_sides`: the sides of the closed shell around a membrane's slab.
- `enclosure`: the inside of a closed surface.
- `density_sampling`: the tomogram's density around a surface.
- `geodesics`, `spectral`, `conversion`: packages that do not import each other.
"""

__all__ = [
    "bounding_volume_tree",
    "conversion",
    "curvature",
    "density_sampling",
    "enclosure",
    "geodesics",
    "leaflets",
    "point_triangle",
    "ray_casting",
    "repair",
    "shell_sides",
    "spectral",
    "surface",
    "topology",
    "vectors",
]
