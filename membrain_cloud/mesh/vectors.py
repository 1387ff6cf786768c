"""Vectors of three floats for compiled kernels: they live in registers, and no array is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from membrain_cloud.jit import inlined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vector(NamedTuple):
    """A point or a direction, in the order of the array it comes from (xyz for meshes)."""

    x: float
    y: float
    z: float


@inlined
def vector(values: NDArray[np.float64]) -> Vector:
    """Read a vector from an array.

    Parameters
    ----------
    values : (3,) float64
        The components.

    Returns
    -------
    Vector
        The same.
    """
    return Vector(values[0], values[1], values[2])


@inlined
def minus(a: Vector, b: Vector) -> Vector:
    """Return a - b.

    Parameters
    ----------
    a, b : Vector
        Any vectors.

    Returns
    -------
    Vector
        Their difference.
    """
    return Vector(a.x - b.x, a.y - b.y, a.z - b.z)


@inlined
def dot(a: Vector, b: Vector) -> float:
    """Return the scalar product of a and b.

    Parameters
    ----------
    a, b : Vector
        Any vectors.

    Returns
    -------
    float
        The sum of the products of their components, added in order.
    """
    return a.x * b.x + a.y * b.y + a.z * b.z


@inlined
def cross(a: Vector, b: Vector) -> Vector:
    """Return the vector product of a and b.

    Parameters
    ----------
    a, b : Vector
        Any vectors.

    Returns
    -------
    Vector
        Perpendicular to both.
    """
    return Vector(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x)
