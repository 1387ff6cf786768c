"""Meshes with closed forms, and default options of the statistics, for the tests of surfaces and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
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

Xyz = tuple[float, float, float]
Integers = NDArray[np.int64]


class Shapes:
    """Meshes in Å, with faces wound outwards."""

    def sphere(self, count: int, radius: float, centre: Xyz = (0.0, 0.0, 0.0)) -> Mesh:
        """Return a sphere of `count` vertices on a Fibonacci spiral."""
        i = np.arange(count) + 0.5
        height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
        ring = np.sqrt(1 - height**2)
        points = np.stack([np.cos(turn) * ring, np.sin(turn) * ring, height], axis=1)
        faces = ConvexHull(points).simplices.astype(np.int32)
        a, b, c = (points[faces[:, k]] for k in range(3))
        inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
        faces[inwards] = faces[inwards][:, ::-1]
        return Mesh(points * radius + np.array(centre), faces)

    def vesicle(
        self, outer: float, inner: float, centre: Xyz = (0.0, 0.0, 0.0), counts: tuple[int, int] = (1200, 1000)
    ) -> Mesh:
        """Return the shell of a spherical membrane: two surfaces, the inner one wound inwards."""
        inside = self.inside_out(self.sphere(counts[1], inner, centre))
        return self.joined(self.sphere(counts[0], outer, centre), inside)

    def inside_out(self, mesh: Mesh) -> Mesh:
        """Return the mesh with its faces wound the other way."""
        return Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))

    def joined(self, *meshes: Mesh) -> Mesh:
        """Return all meshes as one."""
        offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
        faces = [mesh.faces + shift for mesh, shift in zip(meshes, offsets, strict=True)]
        return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces).astype(np.int32))

    def plane(self, rows: int, step: float, height: float = 0.0) -> Mesh:
        """Return a plane of nearly equilateral triangles with normals along z."""
        return self._sheet(
            rows, rows, lambda i, j: np.stack([(i + 0.5 * (j % 2)) * step, j * step, 0 * i + height], axis=1)
        )

    def cylinder(self, around: int, along: int, radius: float, step: float) -> Mesh:
        """Return a cylinder along z, open at both ends."""

        def place(i: Integers, j: Integers) -> NDArray[np.float64]:
            turn = 2 * np.pi * (i + 0.5 * (j % 2)) / around
            return np.stack([radius * np.cos(turn), radius * np.sin(turn), j * step], axis=1)

        return self._sheet(around, along, place, wrap=(True, False))

    def torus(self, rows: int, columns: int, large: float, small: float) -> Mesh:
        """Return a torus about z; `large` is the radius of the ring, `small` that of the tube."""

        def place(i: Integers, j: Integers) -> NDArray[np.float64]:
            u, v = 2 * np.pi * i / rows, 2 * np.pi * j / columns
            ring = large + small * np.cos(v)
            return np.stack([ring * np.cos(u), ring * np.sin(u), small * np.sin(v)], axis=1)

        return self._sheet(rows, columns, place, wrap=(True, True))

    def slab(self, size: float, thickness: float, step: float) -> tuple[Mesh, NDArray[np.bool_]]:
        """Return a box around z = 500 Å that begins at x = y = -5 Å, and the flags of its side walls' vertices.

        The side walls have no vertices of their own: every vertex of the rims is flagged.
        """
        n = round(size / step) + 1
        i, j = (index.ravel() for index in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        top = self._sheet(n, n, lambda i, j: np.stack([i, j, 0 * i], axis=1)).faces
        forth, back = np.arange(n - 1), np.arange(n - 1, 0, -1)
        rim = np.concatenate([forth * n, (n - 1) * n + forth, back * n + n - 1, back])
        ahead = np.roll(rim, -1)
        walls = np.concatenate(
            [np.stack([ahead, rim, rim + n * n], axis=1), np.stack([ahead, rim + n * n, ahead + n * n], axis=1)]
        )
        flat = np.stack([i * step - 5.0, j * step - 5.0, 0.0 * i], axis=1)
        vertices = np.concatenate([flat + np.array([0, 0, 500 + z]) for z in (thickness / 2, -thickness / 2)])
        border = np.zeros(len(vertices), bool)
        border[rim], border[rim + n * n] = True, True
        return Mesh(vertices, np.concatenate([top, top[:, ::-1] + n * n, walls]).astype(np.int32)), border

    @staticmethod
    def _sheet(
        rows: int,
        columns: int,
        place: Callable[[Integers, Integers], NDArray[np.floating]],
        wrap: tuple[bool, bool] = (False, False),
    ) -> Mesh:
        """Return a sheet of rows x columns vertices at `place(i, j)`, closed along the axes that wrap."""
        i, j = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
        u, v = (
            index.ravel()
            for index in np.meshgrid(np.arange(rows - (not wrap[0])), np.arange(columns - (not wrap[1])), indexing="ij")
        )
        a, b = (u % rows) * columns + v % columns, ((u + 1) % rows) * columns + v % columns
        c, d = ((u + 1) % rows) * columns + (v + 1) % columns, (u % rows) * columns + (v + 1) % columns
        faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
        return Mesh(place(i, j).astype(np.float64), faces.astype(np.int32))
