"""Changes to the grey values of a patch, each a function of an image (mean 0, variance 1) and of a random generator.

Images are (Z, Y, X) float32; each function returns a new one. The kinds and ranges are those MemBrain-seg trains with
(Lamm et al. 2024, supplementary methods; many go back to batchgenerators and nnU-Net), but for the ramp and the first
gamma, which simulated specimens are trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from membrain_cloud.image.rank_median import median as median_of_cubes

if TYPE_CHECKING:
    from collections.abc import Iterator

Float32 = NDArray[np.float32]
Range = tuple[float, float]


def normalise(image: Float32) -> Float32:
    """Mean 0, standard deviation 1 (a constant image becomes zeros)."""
    deviation = float(image.std())
    return ((image - image.mean()) / (deviation if deviation > 1e-12 else 1.0)).astype(np.float32, copy=False)


def fourier_amplitude(image: Float32, rng: np.random.Generator, sigma: float = 0.2) -> Float32:
    """Scale the radial amplitude spectrum by a random walk: other microscopes, other filters; normalised again.

    Source: MemBrain-seg's Fourier amplitude augmentation, a random walk over shells of standard deviation 0.2.
    """
    table, per_frequency = amplitude_walk(rng, sigma)
    z, y, x = _frequencies(image.shape)
    index = np.sqrt(z**2 + y**2 + x**2) * np.float32(per_frequency) + np.float32(0.5)
    return normalise(_filtered(image, table[index.astype(np.int32)]))


def amplitude_walk(rng: np.random.Generator, sigma: float) -> tuple[Float32, float]:
    """Factors of the amplitudes, a table over frequencies, and how many of its entries one cycle a voxel makes."""
    shells, steps = 32, 1024
    walk = np.cumsum(rng.normal(0, sigma, shells))
    longest = np.sqrt(0.75)
    table = np.exp(np.interp(np.linspace(0, longest, steps), np.linspace(0, 0.87, shells), walk - walk.mean()))
    return table.astype(np.float32), float((steps - 1) / longest)


def missing_wedge(image: Float32, rng: np.random.Generator, *, tilt_degrees: Range) -> Float32:
    """Take away what a tilt series along a random axis would not have measured; normalised again.

    tilt_degrees : range of the largest tilt; what is steeper in Fourier space is set to zero.
    Source: the missing-wedge augmentation of the MemBrain-seg paper.
    """
    tilt = float(rng.uniform(*tilt_degrees))
    beam, across = np.linalg.qr(rng.standard_normal((3, 2)))[0].T.astype(np.float32)
    grid = _frequencies(image.shape)
    along = sum(f * b for f, b in zip(grid, beam, strict=True))
    level = sum(f * a for f, a in zip(grid, across, strict=True))
    return normalise(_filtered(image, np.abs(along) <= np.float32(np.tan(np.radians(tilt))) * np.abs(level)))


def median(image: Float32, rng: np.random.Generator, *, sizes: tuple[int, int]) -> Float32:
    """Over cubes of an edge from `sizes`, both included."""
    return median_of_cubes(image, int(rng.integers(sizes[0], sizes[1] + 1)))


def gaussian(image: Float32, rng: np.random.Generator, *, sigma: Range, each_axis: bool) -> Float32:
    """Sigma : range, in voxels.  each_axis : whether every axis draws its own."""
    drawn = [float(rng.uniform(*sigma)) for _ in range(3 if each_axis else 1)]
    return ndimage.gaussian_filter(image, drawn * (1 if each_axis else 3), truncate=3.0)


def noise(image: Float32, rng: np.random.Generator, *, largest: float) -> Float32:
    """Normal noise of a standard deviation from 0 to `largest`."""
    deviation = np.float32(rng.uniform(0, largest))
    return image + deviation * rng.standard_normal(image.shape, np.float32)


def brightness(image: Float32, rng: np.random.Generator, *, sigma: float) -> Float32:
    """A constant added, normally distributed."""
    return image + np.float32(rng.normal(0, sigma))


def contrast(image: Float32, rng: np.random.Generator, *, factor: Range) -> Float32:
    """Distances from the mean times a factor; every other time what leaves the old range of values is cut off."""
    mean, scale = image.mean(), np.float32(rng.uniform(*factor))
    changed = mean + scale * (image - mean)
    return np.clip(changed, image.min(), image.max()) if rng.random() < 0.5 else changed


def low_resolution(image: Float32, rng: np.random.Generator, *, zoom: Range) -> Float32:
    """Sampled at fewer voxels (the nearest), and interpolated linearly back."""
    factor = float(rng.uniform(*zoom))
    coarse = [max(1, round(n * factor)) for n in image.shape]
    sampled = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], coarse, mode="nearest-exact")
    back: Float32 = torch.nn.functional.interpolate(sampled, list(image.shape), mode="trilinear")[0, 0].numpy()
    return back


def gamma(image: Float32, rng: np.random.Generator, *, exponent: Range) -> Float32:
    """A power law on the values scaled to 0..1."""
    low, span = image.min(), max(float(np.ptp(image)), 1e-6)
    return np.power((image - low) / np.float32(span), np.float32(rng.uniform(*exponent)))


def gamma_both_ways(image: Float32, rng: np.random.Generator, *, exponent: Range) -> Float32:
    """A power law from the dark end and another from the bright end; mean and deviation are kept."""
    for _ in range(2):
        mean, deviation = image.mean(), image.std()
        image = -(normalise(gamma(image, rng, exponent=exponent)) * deviation + mean)
    return image


def erase(image: Float32, rng: np.random.Generator, *, most: int) -> Float32:
    """Set one to `most` cuboids, a tenth to a third of the patch long, to the mean."""
    mean, image = image.mean(), image.copy()
    for cuboid in cuboids(image.shape, rng, most):
        image[cuboid] = mean
    return image


def cuboids(shape: tuple[int, ...], rng: np.random.Generator, most: int) -> Iterator[tuple[slice, ...]]:
    """One to `most`, a tenth to a third of the shape long."""
    for _ in range(int(rng.integers(1, most + 1))):
        size = [int(rng.integers(n // 10, n // 3)) for n in shape]
        start = [int(rng.integers(0, n - s)) for n, s in zip(shape, size, strict=True)]
        yield tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))


def brightness_ramp(image: Float32, rng: np.random.Generator) -> Float32:
    """A plane added, of a normally distributed slope."""
    slopes = rng.normal(0, 0.5, 3)
    z, y, x = (s * np.linspace(-1, 1, n) for s, n in zip(slopes, image.shape, strict=True))
    return image + (z[:, None, None] + y[None, :, None] + x[None, None, :]).astype(np.float32)


def brightness_gradient(image: Float32, rng: np.random.Generator) -> Float32:
    """A wide Gaussian added or subtracted, of a height of 1 to 5, its middle inside the patch or outside."""
    bump = _bump(image.shape, rng)
    height = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(1, 5))
    return image + bump * np.float32(height / max(float(bump.max()), 1e-8))


def local_gamma(image: Float32, rng: np.random.Generator) -> Float32:
    """A power law of 0.01 to 0.8 or 1.5 to 4, as far as a wide Gaussian reaches."""
    bump = _bump(image.shape, rng)
    exponent = float(rng.uniform(0.01, 0.8) if rng.random() < 0.5 else rng.uniform(1.5, 4))
    low, span = image.min(), np.float32(max(float(np.ptp(image)), 1e-8))
    scaled = (image - low) / span
    return (scaled + bump * (np.power(scaled, np.float32(exponent)) - scaled)) * span + low


def sharpen(image: Float32, rng: np.random.Generator, *, strength: Range) -> Float32:
    """Minus the Laplacian (of the six neighbours, borders reflected) times a strength."""
    laplacian = np.float32(-6) * image
    for axis in range(3):
        ahead = np.moveaxis(laplacian, axis, 0)
        values = np.moveaxis(image, axis, 0)
        ahead[:-1] += values[1:]
        ahead[1:] += values[:-1]
        ahead[0] += values[0]
        ahead[-1] += values[-1]
    return image - np.float32(rng.uniform(*strength)) * laplacian


def _bump(shape: tuple[int, ...], rng: np.random.Generator) -> Float32:
    """A Gaussian of height 1, a sixth of the patch to all of it wide, its middle up to half a patch outside."""
    one_axis = []
    for n in shape:
        width = np.exp(rng.uniform(np.log(max(n // 6, 1)), np.log(n)))
        one_axis.append(np.exp(-0.5 * ((np.arange(n) - n * rng.uniform(-0.5, 1.5)) / width) ** 2).astype(np.float32))
    z, y, x = one_axis
    return z[:, None, None] * y[None, :, None] * x[None, None, :]


def _frequencies(shape: tuple[int, ...]) -> tuple[Float32, Float32, Float32]:
    """Of `rfftn`, in cycles a voxel, ready to be broadcast."""
    z, y, x = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    return (
        z[:, None, None].astype(np.float32),
        y[None, :, None].astype(np.float32),
        x[None, None, :].astype(np.float32),
    )


def _filtered(image: Float32, factor: NDArray[np.generic]) -> Float32:
    return fft.irfftn(fft.rfftn(image) * factor, image.shape).astype(np.float32, copy=False)
