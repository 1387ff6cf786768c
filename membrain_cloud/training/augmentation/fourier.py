"""Random changes of a patch's Fourier transform: its amplitude spectrum, and a missing wedge.

Images are (Z, Y, X) float32. Every function returns a new image of mean 0 and standard deviation 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from membrain_cloud.training.augmentation.intensity import Float32, Range, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fourier_amplitude(image: Float32, rng: np.random.Generator, sigma: float = 0.2) -> Float32:
    """Scale the radial amplitude spectrum by a random walk, as other microscopes and filters would, and normalise.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    sigma : float
        Standard deviation of a step of the walk, in natural logarithms of the amplitude. Default: 0.2.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.

    References
    ----------
    Lamm et al., bioRxiv 2024: MemBrain-seg's Fourier amplitude augmentation.
    """
    table, per_frequency = amplitude_walk(rng, sigma)
    z, y, x = _frequencies(image.shape)
    index = np.sqrt(z**2 + y**2 + x**2) * np.float32(per_frequency) + np.float32(0.5)
    return normalise(_filtered(image, table[index.astype(np.int32)]))


def amplitude_walk(rng: np.random.Generator, sigma: float) -> tuple[Float32, float]:
    """Draw factors of the amplitude spectrum: a random walk over 32 frequency shells.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    sigma : float
        Standard deviation of a step, in natural logarithms of the amplitude.

    Returns
    -------
    table : ndarray of shape (1024,), float32
        Factors at equally spaced frequencies from 0 to the corner of Fourier space.
    per_frequency : float
        Entries of the table per unit of frequency (cycles per voxel).
    """
    shells, steps = 32, 1024
    walk = np.cumsum(rng.normal(0, sigma, shells))
    longest = np.sqrt(0.75)
    table = np.exp(np.interp(np.linspace(0, longest, steps), np.linspace(0, 0.87, shells), walk - walk.mean()))
    return table.astype(np.float32), float((steps - 1) / longest)


def missing_wedge(image: Float32, rng: np.random.Generator, *, tilt_degrees: Range) -> Float32:
    """Remove what a tilt series about a random axis would not measure, and normalise.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    tilt_degrees : tuple of float
        Range of the largest tilt, in degrees; steeper frequencies are set to zero.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.

    References
    ----------
    Lamm et al., bioRxiv 2024: the missing-wedge augmentation.
    """
    tilt = float(rng.uniform(*tilt_degrees))
    beam, across = np.linalg.qr(rng.standard_normal((3, 2)))[0].T.astype(np.float32)
    grid = _frequencies(image.shape)
    along = sum(f * b for f, b in zip(grid, beam, strict=True))
    level = sum(f * a for f, a in zip(grid, across, strict=True))
    return normalise(_filtered(image, np.abs(along) <= np.float32(np.tan(np.radians(tilt))) * np.abs(level)))


def _frequencies(shape: tuple[int, ...]) -> tuple[Float32, Float32, Float32]:
    """Return the frequencies of `rfftn` along z, y and x, in cycles per voxel, broadcastable to the spectrum."""
    z, y, x = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    return (
        z[:, None, None].astype(np.float32),
        y[None, :, None].astype(np.float32),
        x[None, None, :].astype(np.float32),
    )


def _filtered(image: Float32, factor: NDArray[np.generic]) -> Float32:
    filtered: Float32 = fft.irfftn(fft.rfftn(image) * factor, image.shape).astype(np.float32, copy=False)
    return filtered
