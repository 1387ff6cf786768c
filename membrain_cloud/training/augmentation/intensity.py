"""Random changes of a patch's intensities, each a function of an image and a random generator.

Images are (Z, Y, X) float32 of mean 0 and variance 1. Every function returns a new image. Kinds and ranges are those of
MemBrain-seg's training (Lamm et al., bioRxiv 2024, supplementary methods; many come from batchgenerators and nnU-Net),
except for the brightness ramp and the single gamma, which are used for simulated specimens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from membrain_cloud.image.rank_median import median as median_of_cubes

if TYPE_CHECKING:
    from collections.abc import Iterator

Float32 = NDArray[np.float32]
Range = tuple[float, float]


def normalise(image: Float32) -> Float32:
    """Scale an image to mean 0 and standard deviation 1; a constant image becomes zeros.

    Parameters
    ----------
    image : ndarray of any shape, float32
        The image.

    Returns
    -------
    image : ndarray of the same shape, float32
        The scaled image.
    """
    deviation = float(image.std())
    return np.asarray((image - image.mean()) / (deviation if deviation > 1e-12 else 1.0), np.float32)


def median(image: Float32, rng: np.random.Generator, *, sizes: tuple[int, int]) -> Float32:
    """Apply a median filter over cubes.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    sizes : tuple of int
        Range of the cubes' edge length, in voxels, both ends included.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    return median_of_cubes(image, int(rng.integers(sizes[0], sizes[1] + 1)))


def gaussian(image: Float32, rng: np.random.Generator, *, sigma: Range, each_axis: bool) -> Float32:
    """Apply a Gaussian filter.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    sigma : tuple of float
        Range of sigma, in voxels.
    each_axis : bool
        Whether every axis draws its own sigma.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    drawn = [float(rng.uniform(*sigma)) for _ in range(3 if each_axis else 1)]
    filtered: Float32 = ndimage.gaussian_filter(image, drawn * (1 if each_axis else 3), truncate=3.0)
    return filtered


def noise(image: Float32, rng: np.random.Generator, *, largest: float) -> Float32:
    """Add white Gaussian noise.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    largest : float
        Largest standard deviation of the noise.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    deviation = np.float32(rng.uniform(0, largest))
    return image + deviation * rng.standard_normal(image.shape, np.float32)


def brightness(image: Float32, rng: np.random.Generator, *, sigma: float) -> Float32:
    """Add a normally distributed constant.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    sigma : float
        Standard deviation of the constant.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    return image + np.float32(rng.normal(0, sigma))


def contrast(image: Float32, rng: np.random.Generator, *, factor: Range) -> Float32:
    """Scale the distances from the mean; every other time, values are clipped to their old range.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    factor : tuple of float
        Range of the factor.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    mean, scale = image.mean(), np.float32(rng.uniform(*factor))
    changed: Float32 = mean + scale * (image - mean)
    return np.clip(changed, image.min(), image.max()) if rng.random() < 0.5 else changed


def low_resolution(image: Float32, rng: np.random.Generator, *, zoom: Range) -> Float32:
    """Sample an image at fewer voxels (the nearest ones) and interpolate it linearly back.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    zoom : tuple of float
        Range of the ratio of edge lengths, below 1.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    factor = float(rng.uniform(*zoom))
    coarse = [max(1, round(n * factor)) for n in image.shape]
    sampled = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], coarse, mode="nearest-exact")
    back: Float32 = torch.nn.functional.interpolate(sampled, list(image.shape), mode="trilinear")[0, 0].numpy()
    return back


def gamma(image: Float32, rng: np.random.Generator, *, exponent: Range) -> Float32:
    """Apply a power law to the values scaled to 0..1; they stay there.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    exponent : tuple of float
        Range of the exponent.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    low, span = image.min(), max(float(np.ptp(image)), 1e-6)
    return np.asarray(np.power((image - low) / np.float32(span), np.float32(rng.uniform(*exponent))))


def gamma_both_ways(image: Float32, rng: np.random.Generator, *, exponent: Range) -> Float32:
    """Apply a power law from the dark end and another from the bright end; mean and deviation are kept.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    exponent : tuple of float
        Range of both exponents.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    for _ in range(2):
        mean, deviation = image.mean(), image.std()
        image = -(normalise(gamma(image, rng, exponent=exponent)) * deviation + mean)
    return image


def erase(image: Float32, rng: np.random.Generator, *, most: int) -> Float32:
    """Set cuboids to the mean.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    most : int
        Largest number of cuboids; there is at least one.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    mean, image = image.mean(), image.copy()
    for cuboid in random_cuboids(image.shape, rng, most):
        image[cuboid] = mean
    return image


def random_cuboids(shape: tuple[int, ...], rng: np.random.Generator, most: int) -> Iterator[tuple[slice, ...]]:
    """Yield cuboids whose edges are a tenth to a third of the shape's.

    Parameters
    ----------
    shape : tuple of int
        Shape of the patch, in voxels.
    rng : numpy.random.Generator
        Source of random numbers.
    most : int
        Largest number of cuboids; there is at least one.

    Yields
    ------
    cuboid : tuple of slice
        One for each axis.
    """
    for _ in range(int(rng.integers(1, most + 1))):
        size = [int(rng.integers(n // 10, n // 3)) for n in shape]
        start = [int(rng.integers(0, n - s)) for n, s in zip(shape, size, strict=True)]
        yield tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))


def brightness_ramp(image: Float32, rng: np.random.Generator) -> Float32:
    """Add a linear ramp with normally distributed slopes.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    slopes = rng.normal(0, 0.5, 3)
    z, y, x = (s * np.linspace(-1, 1, n) for s, n in zip(slopes, image.shape, strict=True))
    ramp: Float32 = (z[:, None, None] + y[None, :, None] + x[None, None, :]).astype(np.float32)
    return image + ramp


def brightness_gradient(image: Float32, rng: np.random.Generator) -> Float32:
    """Add or subtract a wide Gaussian with a height of 1 to 5, centred inside or outside of the patch.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    bump = _random_bump(image.shape, rng)
    height = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(1, 5))
    return image + bump * np.float32(height / max(float(bump.max()), 1e-8))


def local_gamma(image: Float32, rng: np.random.Generator) -> Float32:
    """Apply a power law with an exponent of 0.01 to 0.8, or 1.5 to 4, weighted by a wide Gaussian.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    bump = _random_bump(image.shape, rng)
    exponent = float(rng.uniform(0.01, 0.8) if rng.random() < 0.5 else rng.uniform(1.5, 4))
    low, span = image.min(), np.float32(max(float(np.ptp(image)), 1e-8))
    scaled = (image - low) / span
    return np.asarray((scaled + bump * (np.power(scaled, np.float32(exponent)) - scaled)) * span + low)


def sharpen(image: Float32, rng: np.random.Generator, *, strength: Range) -> Float32:
    """Subtract the Laplacian over the six neighbours, with reflected borders, times a factor.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        The patch.
    rng : numpy.random.Generator
        Source of random numbers.
    strength : tuple of float
        Range of the factor.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), float32
        The changed patch.
    """
    laplacian = np.float32(-6) * image
    for axis in range(3):
        ahead = np.moveaxis(laplacian, axis, 0)
        values = np.moveaxis(image, axis, 0)
        ahead[:-1] += values[1:]
        ahead[1:] += values[:-1]
        ahead[0] += values[0]
        ahead[-1] += values[-1]
    return image - np.float32(rng.uniform(*strength)) * laplacian


def _random_bump(shape: tuple[int, ...], rng: np.random.Generator) -> Float32:
    """Return a Gaussian of height 1 and a width of 1/6 to 1 patch, centred up to half a patch outside."""
    one_axis = []
    for n in shape:
        width = np.exp(rng.uniform(np.log(max(n // 6, 1)), np.log(n)))
        one_axis.append(np.exp(-0.5 * ((np.arange(n) - n * rng.uniform(-0.5, 1.5)) / width) ** 2).astype(np.float32))
    z, y, x = one_axis
    return np.asarray(z[:, None, None] * y[None, :, None] * x[None, None, :])
