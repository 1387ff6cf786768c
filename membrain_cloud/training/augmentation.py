"""Augmentations of grey values, after those MemBrain-seg trains with (Lamm et al. 2024, supplementary methods).

Turning and mirroring happen on the specimen, before the missing wedge (`patches.py`), so the wedge always lies where
a microscope puts it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Float32 = NDArray[np.float32]


def normalise(image: Float32) -> Float32:
    """Mean 0, standard deviation 1 (a constant image becomes zeros)."""
    deviation = float(image.std())
    return ((image - image.mean()) / (deviation if deviation > 1e-12 else 1.0)).astype(np.float32, copy=False)


def fourier_amplitude(image: Float32, rng: np.random.Generator, sigma: float = 0.2) -> Float32:
    """Scale the radial amplitude spectrum by a random walk: other microscopes, other filters.

    Source: MemBrain-seg's Fourier amplitude augmentation, a random walk over shells of standard deviation 0.2.
    """
    shells = 32
    fz, fy = (np.fft.fftfreq(n) for n in image.shape[:2])
    fx = np.fft.rfftfreq(image.shape[2])
    radius = np.sqrt(fz[:, None, None] ** 2 + fy[None, :, None] ** 2 + fx[None, None, :] ** 2)
    walk = np.cumsum(rng.normal(0, sigma, shells))
    factor = np.exp(np.interp(radius, np.linspace(0, 0.87, shells), walk - walk.mean()))
    return fft.irfftn(fft.rfftn(image) * factor, image.shape).astype(np.float32)


def brightness_gradient(image: Float32, rng: np.random.Generator) -> Float32:
    slopes = rng.normal(0, 0.5, 3)
    ramps = [s * np.linspace(-1, 1, n, dtype=np.float32) for s, n in zip(slopes, image.shape, strict=True)]
    return image + (ramps[0][:, None, None] + ramps[1][None, :, None] + ramps[2][None, None, :]).astype(np.float32)


def erase(image: Float32, rng: np.random.Generator) -> Float32:
    """Set one to three cuboids to the mean."""
    image = image.copy()
    for _ in range(int(rng.integers(1, 4))):
        size = [int(rng.integers(n // 10, n // 3)) for n in image.shape]
        start = [int(rng.integers(0, n - s)) for n, s in zip(image.shape, size, strict=True)]
        image[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = image.mean()
    return image


def gamma(image: Float32, rng: np.random.Generator) -> Float32:
    low, span = float(image.min()), max(float(np.ptp(image)), 1e-6)
    return (((image - low) / span) ** np.float32(rng.uniform(0.7, 1.5))).astype(np.float32)


def augment(image: Float32, rng: np.random.Generator) -> Float32:
    """(w, w, w) float32 -> the same, augmented and normalised."""
    image = normalise(image)
    if rng.random() < 0.4:
        image = normalise(fourier_amplitude(image, rng))
    if rng.random() < 0.15:
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    if rng.random() < 0.25:
        image = brightness_gradient(image, rng)
    if rng.random() < 0.2:
        image = gamma(image, rng)
    if rng.random() < 0.15:
        image = erase(image, rng)
    return normalise(image)
