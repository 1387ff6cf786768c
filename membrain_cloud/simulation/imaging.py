"""Image a specimen as a tilt series does: contrast transfer, missing wedge, noise.

All effects are applied in the Fourier space of the reconstructed volume. By the projection-slice theorem each tilt
image fills one plane through the tilt axis. Weighted back-projection sums the planes, weighted by the distance from
the axis. Therefore

- the contrast transfer function depends on |k| alone;
- beyond the resolution of Crowther's criterion there are gaps between the planes, the streaks of every tomogram;
- beyond the last tilt is the missing wedge;
- white detector noise lies on the same planes, and its power grows with the distance from the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from membrain_cloud.image.ctf import contrast_transfer

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Imaging:
    """One way of taking a tomogram.

    Attributes
    ----------
    snr : float
        Variance of the imaged specimen over variance of the noise, per voxel.
    defocus_um : float
        Underfocus in µm; 0: no contrast transfer function.
    phase_flipped : bool
        Whether the phases are corrected: the contrast transfer is not negative.
    amplitude_contrast, voltage_kv, spherical_aberration_mm : float
        The lens.
    b_factor_angstrom2 : float
        B of the envelope exp(-B k² / 4), in Å².
    tilt_range_degrees, tilt_step_degrees : float
        The tilt series, symmetric about 0.
    tilt_axis_degrees : float
        In-plane angle of the tilt axis from y.
    noise_exponent : float
        The noise power grows as (distance from the tilt axis)^exponent: 1 is weighted back-projection, less stands for
        softer filters.
    background_fraction : float
        Share of the noise variance that is smooth (ice, thickness), with a power of 1/k².
    lowpass_angstrom : float
        Half width in Å of a Gaussian low-pass of the tomogram, as after denoising; 0: none.
    """

    snr: float = 0.5
    defocus_um: float = 3.5
    phase_flipped: bool = True
    amplitude_contrast: float = 0.08
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    b_factor_angstrom2: float = 200.0
    tilt_range_degrees: float = 60.0
    tilt_step_degrees: float = 3.0
    tilt_axis_degrees: float = 0.0
    noise_exponent: float = 0.7
    background_fraction: float = 0.05
    lowpass_angstrom: float = 0.0


@lru_cache(maxsize=4)
def _frequencies(shape: Zyx, voxel_spacing_angstrom: float) -> tuple[Float32, Float32, Float32]:
    """Return kz, ky, kx in 1/Å of the real FFT of a volume, each broadcastable to its shape."""
    z, y, x = shape
    kz = np.fft.fftfreq(z, voxel_spacing_angstrom).astype(np.float32)[:, None, None]
    ky = np.fft.fftfreq(y, voxel_spacing_angstrom).astype(np.float32)[None, :, None]
    kx = np.fft.rfftfreq(x, voxel_spacing_angstrom).astype(np.float32)[None, None, :]
    return kz, ky, kx


def imaging_transfer(k: Float32, imaging: Imaging) -> NDArray[Any]:
    """Return the contrast transfer of one way of imaging.

    Parameters
    ----------
    k : ndarray, any shape, float32
        Spatial frequencies in 1/Å.
    imaging : Imaging
        Its defocus (0: no contrast transfer), phase flipping and lens are used.

    Returns
    -------
    ndarray, the shape of `k`
        Positive at low frequency; not negative anywhere where phases are flipped.
    """
    if imaging.defocus_um == 0:
        return np.ones_like(k)
    transfer = contrast_transfer(
        k,
        defocus_angstrom=imaging.defocus_um * 1e4,
        amplitude_contrast=imaging.amplitude_contrast,
        spherical_aberration_mm=imaging.spherical_aberration_mm,
        voltage_kv=imaging.voltage_kv,
    )
    return np.abs(transfer) if imaging.phase_flipped else transfer


@dataclass(frozen=True, eq=False)
class Sampling:
    """What a tilt series measures of each voxel of the real FFT of a volume.

    Attributes
    ----------
    signal : ndarray, shape (Z, Y, X // 2 + 1), float32
        1 on average where measured, 0 in the missing wedge and between planes.
    noise : ndarray, shape (Z, Y, X // 2 + 1), float32
        Standard deviation of back-projected white noise.
    radius : ndarray, shape (Z, Y, X // 2 + 1), float32
        Distance from the tilt axis, 1 at Nyquist.
    """

    signal: Float32
    noise: Float32
    radius: Float32


def tilt_sampling(shape: Zyx, imaging: Imaging, depth_voxels: int | None = None) -> Sampling:
    """Sum the planes of a tilt series, weighted by the ramp filter.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the volume along (z, y, x).
    imaging : Imaging
        Its tilts and tilt axis are used.
    depth_voxels : int, optional
        Depth of the reconstruction; a plane is as thick as its inverse. Default: the depth of the volume.

    Returns
    -------
    Sampling
        What is measured. It depends on kz and on the distance from the tilt axis alone, so it is computed as a table of
        these two.
    """
    kz, ky, kx = _frequencies(shape, 1.0)
    axis = np.deg2rad(imaging.tilt_axis_degrees)
    across = np.abs(kx * np.cos(axis) + ky * np.sin(axis))
    count = int(np.floor(imaging.tilt_range_degrees / imaging.tilt_step_degrees))
    tilts = np.deg2rad(imaging.tilt_step_degrees * np.arange(-count, count + 1))
    depth = float(depth_voxels or shape[0])
    fine = np.arange(0, int(np.ceil(0.75 * 4 * depth)) + 1, dtype=np.float32) / np.float32(4 * depth)
    table_z, table_x = kz[:, 0, 0][:, None], fine[None, :]
    ramp = np.hypot(table_x, table_z) * depth * np.deg2rad(imaging.tilt_step_degrees)
    signal, noise = np.zeros(ramp.shape), np.zeros(ramp.shape)
    for tilt in tilts:
        off_plane = np.abs(table_z * np.cos(tilt) - table_x * np.sin(tilt)) * depth
        weight = np.maximum(1 - off_plane, 0) * ramp
        signal += weight
        noise += weight**2
    # Near the axis the planes overlap, and the discrete ramp must not fade out the lowest frequencies.
    overlap = np.clip(1.0 - ramp, 0, 1) * (signal > 0)
    signal, noise = signal * (1 - overlap) + overlap, np.sqrt(noise * (1 - overlap) + overlap * np.maximum(ramp, 0.02))
    rows = np.arange(shape[0])[:, None, None]
    columns = np.minimum(np.round(across * (4 * depth)).astype(np.int64), len(fine) - 1)
    radius = 2 * np.sqrt(across**2 + kz**2)
    return Sampling(signal.astype(np.float32)[rows, columns], noise.astype(np.float32)[rows, columns], radius)


def image_density(
    density: Float32,
    voxel_spacing_angstrom: float,
    imaging: Imaging,
    seed: int,
    *,
    depth_voxels: int | None = None,
    measured: tuple[slice, ...] = (),
) -> Float32:
    """Compute the tomogram of a specimen: dense is dark, the mean is 0.

    Parameters
    ----------
    density : ndarray, shape (Z, Y, X), float32
        Specimen minus solvent, in arbitrary units.
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    imaging : Imaging
        How the tomogram is taken.
    seed : int
        Seed of the noise.
    depth_voxels : int, optional
        Depth of the reconstruction, as for `tilt_sampling`. Default: the depth of the volume.
    measured : tuple of slice
        Part of the volume that has the signal-to-noise ratio of `imaging`. Default: all of it.

    Returns
    -------
    ndarray, shape (Z, Y, X), float32
        The tomogram. Imaging in Fourier space wraps around: what is smeared out of one side enters at the other.
    """
    shape = density.shape
    kz, ky, kx = _frequencies(shape, voxel_spacing_angstrom)
    k = np.sqrt(kz * kz + ky * ky + kx * kx)
    sampling = tilt_sampling(shape, imaging, depth_voxels)
    transfer = imaging_transfer(k, imaging)
    transfer *= np.exp(-0.25 * imaging.b_factor_angstrom2 * k * k)
    transfer *= sampling.signal
    transfer.flat[0] = 0.0
    signal = -fft.irfftn(fft.rfftn(density, workers=1) * transfer, shape, workers=1)

    noise = _noise(shape, voxel_spacing_angstrom, imaging, sampling, k, seed)
    noise *= np.sqrt(max(float(signal[measured].var()), 1e-12) / imaging.snr)
    tomogram = signal + noise
    if imaging.lowpass_angstrom > 0:
        blur = np.exp(-0.5 * (k * imaging.lowpass_angstrom) ** 2)
        tomogram = fft.irfftn(fft.rfftn(tomogram, workers=1) * blur, shape, workers=1)
    result: Float32 = tomogram.astype(np.float32, copy=False)
    return result


def _noise(shape: Zyx, spacing: float, imaging: Imaging, sampling: Sampling, k: Float32, seed: int) -> Float32:
    """Return noise of unit variance: white noise with the reconstruction's weighting, plus a smooth background."""
    rng = np.random.default_rng(seed)
    # Bilinear back-projection damps the highest frequencies.
    damping = np.exp(-1.5 * (k * spacing) ** 2)
    softer = np.power(np.maximum(sampling.radius, 0.02), 0.5 * (imaging.noise_exponent - 1.0))
    white = fft.rfftn(rng.standard_normal(shape, dtype=np.float32), workers=1)
    sharp = fft.irfftn(white * (sampling.noise * softer * damping), shape, workers=1)
    sharp /= max(float(sharp.std()), 1e-12)
    share = imaging.background_fraction
    if share <= 0:
        return np.asarray(sharp, np.float32)
    smooth = np.minimum(sampling.signal, 1.0) / np.maximum(k * spacing * 20.0, 0.5) ** 2
    smooth.flat[0] = 0.0
    white = fft.rfftn(rng.standard_normal(shape, dtype=np.float32), workers=1)
    soft = fft.irfftn(white * smooth, shape, workers=1)
    soft /= max(float(soft.std()), 1e-12)
    mixed = np.sqrt(1.0 - share) * sharp + np.sqrt(share) * soft
    return np.asarray(mixed / max(float(mixed.std()), 1e-12), np.float32)
