"""Random changes of the density profiles of a mesh patch, for pickers trained on few tomograms.

Kinds and ranges follow MemBrain-pick; each is drawn anew for every patch and epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Profiles = NDArray[np.float32]


def augment_profiles(
    profiles: Profiles,
    vertices_angstrom: NDArray[np.floating[Any]],
    averaging: scipy.sparse.csr_matrix,
    rng: np.random.Generator,
    *,
    step_angstrom: float,
) -> Profiles:
    """Return a randomly changed copy of density profiles.

    The changes are smoothing over the surface and along the normal, noise, dropped samples, global and local gamma, a
    brightness gradient, erased regions, and a final linear change of intensity.

    Parameters
    ----------
    profiles : ndarray of shape (V, C), float32
        Profiles of mean 0 and standard deviation 1.
    vertices_angstrom : ndarray of shape (V, 3), float
        Positions (x, y, z) of the vertices, in Å.
    averaging : scipy.sparse.csr_matrix of shape (V, V), float32
        Mean over a vertex and its neighbours (`averaging_matrix`).
    rng : numpy.random.Generator
        Source of random numbers.
    step_angstrom : float
        Distance between two samples of a profile, in Å.

    Returns
    -------
    profiles : ndarray of shape (V, C), float32
        The changed profiles.
    """
    x = profiles.copy()
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 3))):
            x = averaging @ x
    if rng.random() < 0.2:
        x = gaussian_filter1d(x, rng.uniform(1.5, 5.0) / step_angstrom, axis=1, mode="nearest")
    if rng.random() < 0.3:
        x = x + _noise(x.shape, averaging, rng)
    if rng.random() < 0.2:
        x = np.where(rng.random(x.shape) < rng.uniform(0.0, 0.15), 0.0, x)
    if rng.random() < 0.3:
        x = _gamma(x, np.exp(rng.uniform(np.log(0.65), np.log(1.7))), inverted=rng.random() < 0.5)
    if rng.random() < 0.1:
        x = _gamma(x, _local_exponents(vertices_angstrom, rng), inverted=rng.random() < 0.5)
    if rng.random() < 0.3:
        x = x + _brightness_gradient(vertices_angstrom, rng)[:, None]
    if rng.random() < 0.1:
        x = _erase(x, vertices_angstrom, rng)
    return (x * rng.uniform(0.5, 1.5) + rng.uniform(-0.5, 0.5)).astype(np.float32)


def averaging_matrix(faces: NDArray[np.integer[Any]], count: int) -> scipy.sparse.csr_matrix:
    """Return the matrix that takes the mean over a vertex and its neighbours.

    Parameters
    ----------
    faces : ndarray of shape (F, 3), integer
        Triangles of the mesh.
    count : int
        Number of vertices V.

    Returns
    -------
    averaging : scipy.sparse.csr_matrix of shape (V, V), float32
        Rows sum up to 1.
    """
    i, j = np.concatenate([faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]).T
    here = np.arange(count)
    rows, columns = np.concatenate([i, j, here]), np.concatenate([j, i, here])
    graph = scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(count, count))
    graph.data[:] = 1.0
    return (scipy.sparse.diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph).astype(np.float32).tocsr()


def _noise(shape: tuple[int, ...], averaging: scipy.sparse.csr_matrix, rng: np.random.Generator) -> Profiles:
    """Draw noise that is white, or correlated over the surface and along the normal like a tomogram's noise."""
    noise = rng.standard_normal(shape).astype(np.float32)
    if rng.random() < 0.7:
        noise = gaussian_filter1d(averaging @ noise, 1.0, axis=1, mode="nearest")
        noise /= max(float(noise.std()), 1e-6)
    return noise * np.float32(rng.uniform(0.0, 0.4))


def _gamma(x: Profiles, exponent: float | NDArray[np.float64], *, inverted: bool) -> Profiles:
    """Apply a power law to the values scaled to 0..1, from the bright or the dark end; mean and deviation are kept.

    `exponent` is one number or of shape (V, 1).
    """
    sign = -1.0 if inverted else 1.0
    y = sign * x
    low, high = float(y.min()), float(y.max())
    y = sign * ((y - low) / max(high - low, 1e-6)) ** exponent
    return np.asarray((y - y.mean()) / max(float(y.std()), 1e-6) * x.std() + x.mean())


def _local_exponents(vertices: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw exponents (V, 1) from 0.5 to 2 that change smoothly with the distance from a random vertex."""
    away = np.linalg.norm(vertices - vertices[int(rng.integers(len(vertices)))], axis=1)
    ends = rng.uniform(np.log(0.5), np.log(2.0), size=2)
    return np.asarray(np.exp(ends[0] + (ends[1] - ends[0]) * away / max(float(away.max()), 1e-6))[:, None])


def _brightness_gradient(vertices: NDArray[np.floating[Any]], rng: np.random.Generator) -> Profiles:
    direction = rng.standard_normal(3)
    along = vertices @ (direction / np.linalg.norm(direction))
    extent = max(float(np.ptp(along)), 1e-6)
    return np.asarray(rng.uniform(0.0, 1.0) * ((along - along.mean()) / extent), np.float32)


def _erase(x: Profiles, vertices: NDArray[np.floating[Any]], rng: np.random.Generator) -> Profiles:
    """Set one to six balls to the mean."""
    x = x.copy()
    for _ in range(int(rng.integers(1, 7))):
        center = vertices[int(rng.integers(len(vertices)))]
        x[((vertices - center) ** 2).sum(axis=1) < rng.uniform(22.5, 82.5) ** 2] = x.mean()
    return x
