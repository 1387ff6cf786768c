"""Grids, boxes, blocks, meshes and picks: the types that every layer uses, and the one place that converts units.

Two conventions:

- **arrays** are zyx, in voxels;
- **geometry** (meshes, picks) is xyz, in ångström. Voxel `i` has its centre at `i * voxel_spacing_angstrom`, as in
  copick: the centre of voxel (0, 0, 0) is the origin.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Zyx = tuple[int, int, int]
FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Grid:
    """The voxel grid of a volume.

    Attributes
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    """

    shape: Zyx
    voxel_spacing_angstrom: float

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def size_angstrom(self) -> tuple[float, float, float]:
        """Extent along x, y, z in Å."""
        z, y, x = (n * self.voxel_spacing_angstrom for n in self.shape)
        return x, y, z

    @property
    def box(self) -> Box:
        """The box of the whole volume."""
        return Box((0, 0, 0), self.shape)

    def to_angstrom(self, points_zyx: FloatArray) -> NDArray[np.float64]:
        """Convert voxel coordinates to positions.

        Parameters
        ----------
        points_zyx : ndarray, shape (N, 3), floating
            Voxel coordinates, zyx.

        Returns
        -------
        ndarray, shape (N, 3), float64
            Positions, xyz in Å.
        """
        return np.asarray(points_zyx, np.float64)[..., ::-1] * self.voxel_spacing_angstrom

    def to_voxels(self, points_xyz_angstrom: FloatArray) -> NDArray[np.float64]:
        """Convert positions to voxel coordinates.

        Parameters
        ----------
        points_xyz_angstrom : ndarray, shape (N, 3), floating
            Positions, xyz in Å.

        Returns
        -------
        ndarray, shape (N, 3), float64
            Voxel coordinates, zyx, not rounded.
        """
        return np.asarray(points_xyz_angstrom, np.float64)[..., ::-1] / self.voxel_spacing_angstrom


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels, [start, stop) along z, y, x."""

    start: Zyx
    stop: Zyx

    @property
    def shape(self) -> Zyx:
        """Voxels along (z, y, x)."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The slices that cut the box out of a volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def within(self, outer: Box) -> tuple[slice, slice, slice]:
        """Return the slices that cut this box out of an array.

        Parameters
        ----------
        outer : Box
            What the array covers.

        Returns
        -------
        tuple of slice
            Slices along (z, y, x).
        """
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return z, y, x

    def intersection(self, other: Box) -> Box | None:
        """Return the common part of two boxes.

        Parameters
        ----------
        other : Box
            Another box.

        Returns
        -------
        Box or None
            The common part; None where they do not overlap.
        """
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            return None
        return Box(start, stop)  # type: ignore[arg-type]


class VoxelArray(Protocol):
    """A zyx array that is read and written box by box, in memory or in a file."""

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box.

        Parameters
        ----------
        box : Box
            The voxels to read.

        Returns
        -------
        ndarray, shape of `box`, the array's dtype
            Values, zyx.
        """

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write a box.

        Parameters
        ----------
        box : Box
            The voxels to write.
        array : ndarray, shape of `box`, the array's dtype
            Values, zyx.
        """


@dataclass(frozen=True)
class Block:
    """The part of a volume that one task computes: it reads `halo`, it writes `core` and nothing else.

    +----------------------------+
    | halo: every voxel that     |      Cores tile the volume without gap or overlap and are aligned to
    |  +----------------------+  |      chunks, so no two workers ever write one chunk. The halo is the
    |  | core: written        |  |      union of the windows (of the one lattice of the volume) that touch
    |  +----------------------+  |      the core, so the result does not depend on how the volume was cut.
    | the windows touching the   |
    | core reach                 |
    +----------------------------+
    """

    index: int
    core: Box
    halo: Box


MeshSurface = Literal["shell", "side", "midsurface"]
"""What a mesh is of: a closed shell around a slab, one side of it, or the surface midway between its sides."""

MESH_SURFACES: tuple[MeshSurface, ...] = ("shell", "side", "midsurface")


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes
    ----------
    vertices : ndarray, shape (V, 3), float64
        Positions, xyz in Å.
    faces : ndarray, shape (F, 3), int32
        Indices of vertices, wound so that normals point out of the membrane (out of the slab, for a closed shell).
    surface : {"shell", "side", "midsurface"} or None
        What the mesh is of: the closed shell around a slab, one side of it, or the surface midway between its sides.
        None if that is unknown.
    thickness_angstrom : float or None
        Thickness of the slab that a side or a mid-surface is of, Å; None if that is unknown.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    surface: MeshSurface | None = None
    thickness_angstrom: float | None = None

    def face_areas_angstrom2(self) -> NDArray[np.float64]:
        """Return the area of each face, (F,) float64, in Å²."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        result: NDArray[np.float64] = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
        return result

    def area_angstrom2(self) -> float:
        """Return the area of the mesh in Å²."""
        return float(self.face_areas_angstrom2().sum())

    def vertex_normals(self) -> NDArray[np.float64]:
        """Return the unit normals of the vertices.

        Returns
        -------
        ndarray, shape (V, 3), float64
            Mean normal of the faces around each vertex, weighted by area; (0, 0, 1) where a vertex has no face.
        """
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        face_normals = np.cross(b - a, c - a)
        sums = np.zeros_like(self.vertices)
        for k in range(3):
            np.add.at(sums, self.faces[:, k], face_normals)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        normals = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
        normals[lengths[:, 0] == 0] = (0.0, 0.0, 1.0)
        result: NDArray[np.float64] = normals
        return result


@dataclass(frozen=True, eq=False)
class Picks:
    """Particles: positions and, where known, orientations.

    Attributes
    ----------
    positions : ndarray, shape (N, 3), float64
        Centres, xyz in Å.
    orientations : ndarray, shape (N, 3, 3), float64, or None
        Rotations from the frame of the particle to that of the tomogram. The z axis of the particle is the membrane
        normal that points away from the membrane on the particle's side.
    scores : ndarray, shape (N,), float64
        Higher is better.
    membrane_ids : ndarray, shape (N,), int64
        Number of the membrane; 0 where unknown.
    in_plane : ndarray, shape (N,), bool, or None
        Whether the rotation around the z axis is known; None: not stated.
    """

    positions: NDArray[np.float64]
    orientations: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    membrane_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    in_plane: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = len(self.positions)
        if not len(self.scores):
            object.__setattr__(self, "scores", np.ones(count))
        if not len(self.membrane_ids):
            object.__setattr__(self, "membrane_ids", np.zeros(count, np.int64))

    def __len__(self) -> int:
        return len(self.positions)

    def frames(self) -> NDArray[np.float64]:
        """Return the orientations, (N, 3, 3) float64; the identity where there are none."""
        return np.tile(np.eye(3), (len(self), 1, 1)) if self.orientations is None else self.orientations

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> Picks:
        """Return some of the picks with everything that is known of them.

        Parameters
        ----------
        which : ndarray, shape (N,), bool, or shape (K,), integer
            Mask or indices.

        Returns
        -------
        Picks
            The selected picks, in the order of the indices.
        """
        return Picks(
            self.positions[which],
            None if self.orientations is None else self.orientations[which],
            self.scores[which],
            self.membrane_ids[which],
            None if self.in_plane is None else self.in_plane[which],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Picks]) -> Picks:
        """Join picks in their order.

        Parameters
        ----------
        parts : sequence of Picks
            Empty ones are left out.

        Returns
        -------
        Picks
            All picks. Where some parts have orientations, those of the others are NaN; where some tell `in_plane`, it
            is True for the others.
        """
        parts = [picks for picks in parts if len(picks)]
        if not parts:
            return cls(np.zeros((0, 3)), np.zeros((0, 3, 3)))
        orientations: list[NDArray[np.float64]] = [
            np.full((len(picks), 3, 3), np.nan) if picks.orientations is None else picks.orientations for picks in parts
        ]
        in_plane = [np.full(len(picks), True) if picks.in_plane is None else picks.in_plane for picks in parts]
        any_orientation = any(picks.orientations is not None for picks in parts)
        any_in_plane = any(picks.in_plane is not None for picks in parts)
        return cls(
            np.concatenate([picks.positions for picks in parts]),
            np.concatenate(orientations) if any_orientation else None,
            np.concatenate([picks.scores for picks in parts]),
            np.concatenate([picks.membrane_ids for picks in parts]),
            np.concatenate(in_plane) if any_in_plane else None,
        )


def orientations_from_normals(normals: FloatArray, in_plane_radians: FloatArray | None = None) -> NDArray[np.float64]:
    """Compute rotations whose z axis is a normal.

    The in-plane axis is arbitrary but defined for every normal: the coordinate axis that is least parallel to the
    normal is projected into the plane.

    Parameters
    ----------
    normals : ndarray, shape (N, 3), floating
        Unit normals, xyz.
    in_plane_radians : ndarray, shape (N,), floating, optional
        Rotation of the in-plane axis around the normal. Default: none.

    Returns
    -------
    ndarray, shape (N, 3, 3), float64
        Rotation matrices.
    """
    z = np.asarray(normals, np.float64)
    reference = np.eye(3)[np.argmin(np.abs(z), axis=1)]
    x = reference - (reference * z).sum(1, keepdims=True) * z
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.cross(z, x)
    if in_plane_radians is not None:
        cos, sin = np.cos(in_plane_radians)[:, None], np.sin(in_plane_radians)[:, None]
        x, y = cos * x + sin * y, cos * y - sin * x
    return np.stack([x, y, z], axis=2)


def iterate_chunks(shape: Zyx, chunk: Zyx) -> Iterator[Box]:
    """Yield the chunks of a volume in zyx order.

    Parameters
    ----------
    shape, chunk : tuple of int
        Voxels of the volume and of a chunk along (z, y, x).

    Yields
    ------
    Box
        A chunk, clipped to the volume.
    """
    for start in itertools.product(*(range(0, n, c) for n, c in zip(shape, chunk, strict=True))):
        yield Box(start, tuple(min(a + c, n) for a, c, n in zip(start, chunk, shape, strict=True)))  # type: ignore[arg-type]


def box_around(mesh: Mesh, grid: Grid, *, margin_angstrom: float) -> Box | None:
    """Return the voxels within a margin of a mesh's bounding box.

    Parameters
    ----------
    mesh : Mesh
        Vertices xyz in Å.
    grid : Grid
        The volume's grid.
    margin_angstrom : float
        Margin in Å, added on all six sides.

    Returns
    -------
    Box or None
        The box in voxels, clipped to the volume; None where it misses the volume.

    Raises
    ------
    ValueError
        If the mesh has no vertices, or some that are not finite.
    """
    if not len(mesh.vertices) or not np.isfinite(mesh.vertices).all():
        raise ValueError("the mesh has vertices that are not finite" if len(mesh.vertices) else "the mesh is empty")
    corners = np.stack([mesh.vertices.min(0) - margin_angstrom, mesh.vertices.max(0) + margin_angstrom])
    low, high = np.floor(grid.to_voxels(corners)[0]), np.ceil(grid.to_voxels(corners)[1]) + 1
    start, stop = ([int(n) for n in corner] for corner in (low, high))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])).intersection(grid.box)
