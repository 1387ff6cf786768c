"""Shapes with closed forms, options and a way to measure: for the tests of surfaces and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import ConvexHull

from membrain_cloud.geometry import Grid, Mesh
from membrain_cloud.statistics.measure import Options
from membrain_cloud.statistics.spatial.chains import ChainRules

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = Options(
    cutoff_nm=20.0,
    bin_width_nm=1.0,
    n_neighbors=3,
    edge_width_nm=5.0,
    leaflets_apart=False,
    n_simulations=0,
    symmetry=1,
    in_plane="turned",
    against=("distance_to_edge_nm",),
    chains=ChainRules(40.0, 60.0, 80.0, 3, 3),
    gap_nm=0.0,
    contact_nm=30.0,
)
GRID = Grid((200, 200, 200), 10.0)


class Shapes:
    """Meshes in Å, wound outwards."""

    def sphere(self, count: int, radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
        """Vertices on a Fibonacci spiral."""
        i = np.arange(count) + 0.5
        height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
        ring = np.sqrt(1 - height**2)
        points = np.stack([np.cos(turn) * ring, np.sin(turn) * ring, height], axis=1)
        faces = ConvexHull(points).simplices.astype(np.int32)
        a, b, c = (points[faces[:, k]] for k in range(3))
        inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
        faces[inwards] = faces[inwards][:, ::-1]
        return Mesh(points * radius + np.array(centre), faces)

    def vesicle(self, outer: float, inner: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
        """The shell of a spherical membrane: two surfaces, the inner one wound inwards."""
        return self.joined(self.sphere(1200, outer, centre), self.inside_out(self.sphere(1000, inner, centre)))

    def inside_out(self, mesh: Mesh) -> Mesh:
        return Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))

    def joined(self, *meshes: Mesh) -> Mesh:
        offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
        faces = [mesh.faces + shift for mesh, shift in zip(meshes, offsets, strict=True)]
        return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces).astype(np.int32))

    def plane(self, rows: int, step: float, height: float = 0.0) -> Mesh:
        """Nearly equilateral triangles, normals along z."""
        return self._sheet(
            rows, rows, lambda i, j: np.stack([(i + 0.5 * (j % 2)) * step, j * step, 0 * i + height], axis=1)
        )

    def cylinder(self, around: int, along: int, radius: float, step: float) -> Mesh:
        def place(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            turn = 2 * np.pi * (i + 0.5 * (j % 2)) / around
            return np.stack([radius * np.cos(turn), radius * np.sin(turn), j * step], axis=1)

        return self._sheet(around, along, place, wrap=(True, False))

    def torus(self, rows: int, columns: int, large: float, small: float) -> Mesh:
        def place(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            u, v = 2 * np.pi * i / rows, 2 * np.pi * j / columns
            ring = large + small * np.cos(v)
            return np.stack([ring * np.cos(u), ring * np.sin(u), small * np.sin(v)], axis=1)

        return self._sheet(rows, columns, place, wrap=(True, True))

    @staticmethod
    def _sheet(
        rows: int, columns: int, place: Callable[..., np.ndarray], wrap: tuple[bool, bool] = (False, False)
    ) -> Mesh:
        i, j = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
        u, v = (
            index.ravel()
            for index in np.meshgrid(np.arange(rows - (not wrap[0])), np.arange(columns - (not wrap[1])), indexing="ij")
        )
        a, b = (u % rows) * columns + v % columns, ((u + 1) % rows) * columns + v % columns
        c, d = ((u + 1) % rows) * columns + (v + 1) % columns, (u % rows) * columns + (v + 1) % columns
        faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
        return Mesh(place(i, j).astype(np.float64), faces.astype(np.int32))
