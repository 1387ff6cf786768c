"""Membranes with known particles, as the two kinds of picker are trained on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh, Picks


@dataclass(frozen=True, eq=False)
class PickingExample:
    """One membrane with density profiles and the particles on it.

    Attributes
    ----------
    mesh : Mesh
        The membrane, with V vertices, in Å.
    profiles : ndarray of shape (V, C), float32
        Density sampled along the outward normals.
    particles : Picks
        The N particles on the membrane.
    kinds : ndarray of shape (N,), int64, or None
        Class of each particle, from 0. Default None: all particles belong to one class.
    """

    mesh: Mesh
    profiles: NDArray[np.float32]
    particles: Picks
    kinds: NDArray[np.int64] | None = None

    def of_classes(self, count: int) -> tuple[Picks, ...]:
        """Return the particles of each class.

        Parameters
        ----------
        count : int
            Number of classes.

        Returns
        -------
        particles : tuple of Picks
            One entry for each class. If the particles have no classes, all of them in every entry.
        """
        if self.kinds is None:
            return (self.particles,) * count
        return tuple(self.particles.select(self.kinds == k) for k in range(count))

    @property
    def count(self) -> int:
        """Return the number of particles."""
        return len(self.particles)


@dataclass(frozen=True, eq=False)
class SubvolumeExample:
    """One membrane with boxes of density around its vertices and the particles on it.

    Attributes
    ----------
    vertices, normals : ndarray of shape (V, 3), float64
        Positions (x, y, z) in Å, and outward unit normals.
    boxes : ndarray of shape (V, e, e, e), float32
        Density around each vertex, as `mesh.density_sampling.subvolumes_from_volume` samples it.
    particles : tuple of Picks
        The particles of each class.
    mesh : Mesh or None
        The mesh with exactly these vertices, in their order. Default None: the vertices are a part of a mesh's, and the
        example can be trained on, but neither picked on nor validated with.
    """

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    boxes: NDArray[np.float32]
    particles: tuple[Picks, ...]
    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """Return the number of particles of all classes."""
        return sum(map(len, self.particles))


Example = PickingExample | SubvolumeExample


def content_digest(examples: Sequence[Example]) -> str:
    """Return a digest of meshes, densities and annotations.

    Parameters
    ----------
    examples : sequence of PickingExample or SubvolumeExample
        Their order counts.

    Returns
    -------
    digest : str
        A SHA-256 digest, hexadecimal. It changes if a particle or a vertex is moved, added or removed.
    """
    digest = hashlib.sha256()
    for example in examples:
        arrays: list[NDArray[Any] | None]
        if isinstance(example, PickingExample):
            arrays = [example.mesh.vertices, example.mesh.faces, example.profiles, example.kinds]
            parts: tuple[Picks, ...] = (example.particles,)
        else:
            arrays = [example.vertices, example.normals, example.boxes]
            parts = example.particles
        for array in (*arrays, *(a for picks in parts for a in (picks.positions, picks.orientations))):
            shape = None if array is None else array.shape
            digest.update(f"{shape}".encode() + (b"" if array is None else np.ascontiguousarray(array).tobytes()))
    return digest.hexdigest()
