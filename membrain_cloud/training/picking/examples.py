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
    """One membrane with its truth: mesh, profiles (V, C) along its outward normals, the particles on it.

    kinds : (N,) the class of each particle, counted from 0; None where all are of one kind.
    """

    mesh: Mesh
    profiles: NDArray[np.float32]
    particles: Picks
    kinds: NDArray[np.int64] | None = None

    def of_classes(self, count: int) -> tuple[Picks, ...]:
        """The particles of each of `count` classes."""
        if self.kinds is None:
            return (self.particles,) * count
        return tuple(self.particles.select(self.kinds == k) for k in range(count))

    @property
    def count(self) -> int:
        """Of particles."""
        return len(self.particles)


@dataclass(frozen=True, eq=False)
class SubvolumeExample:
    """One membrane with its truth: places and outward normals (V, 3) of its vertices, the boxes around them
    (V, e, e, e) as `membranes.sampling.subvolumes_from_volume` cuts them, and the particles of each class.

    mesh : whose vertices these are, all of them and in their order: only such an example can be picked on, and so be
        validated with. None: the vertices are some of a mesh's.
    """

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    boxes: NDArray[np.float32]
    particles: tuple[Picks, ...]
    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """Of particles."""
        return sum(map(len, self.particles))


Example = PickingExample | SubvolumeExample


def content_digest(examples: Sequence[Example]) -> str:
    """Of meshes, densities and annotations: moving, adding or removing a particle or a vertex gives another."""
    found = hashlib.sha256()
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
            found.update(f"{shape}".encode() + (b"" if array is None else np.ascontiguousarray(array).tobytes()))
    return found.hexdigest()
