"""How a cryo-electron tomogram sees a specimen: contrast transfer, missing wedge, noise.

Everything is applied in the Fourier space of the reconstructed volume. By the projection-slice theorem each tilt image
fills one plane through the tilt axis; weighted back-projection sums the planes, weighted by the distance from the axis.
So the CTF is a function of |k|; beyond the resolution of Crowther's criterion there are gaps between the planes (the
streaks of every tomogram); beyond the last tilt is the missing wedge; and white detector noise becomes noise that lies
on the same planes, of a power that grows with the distance from the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Imaging:
    """One way of taking a tomogram.

    snr : variance of the imaged specimen over variance of the noise, per voxel.
    defocus_um, phase_flipped, amplitude_contrast, voltage_kv, spherical_aberration_mm : the CTF (defocus 0: no CTF).
    b_factor_angstrom2 : envelope exp(-B k² / 4).
    tilt_range_degrees, tilt_step_degrees : the tilt series, symmetric about 0.
    tilt_axis_degrees : in-plane angle of the tilt axis from y.
    noise_exponent : noise power grows as (distance from the tilt axis)^exponent; 1 is weighted back-projection,
        less stands for the softer filters people use.
    background_fraction : share of the noise variance that is smooth (ice, thickness), of power 1/k².
    lowpass_angstrom : Gaussian low-pass of the whole tomogram (its half width in Å; 0: none), as after denoising.
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
    """kz, ky, kx in 1/Å of the real FFT of a volume, each broadcastable to its shape."""
    z, y, x = shape
    kz = np.fft.fftfreq(z, voxel_spacing_angstrom).astype(np.float32)[:, None, None]
    ky = np.fft.fftfreq(y, voxel_spacing_angstrom).astype(np.float32)[None, :, None]
    kx = np.fft.rfftfreq(x, voxel_spacing_angstrom).astype(np.float32)[None, None, :]
    return kz, ky, kx


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic wavelength of the electron."""
    volts = voltage_kv * 1e3
    return 12.2643 / float(np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def contrast_transfer(k: Float32, imaging: Imaging) -> Float32:
    """CTF at spatial frequencies `k` (1/Å), positive at low frequency: the caller makes dense dark.

    Phase flipping takes the absolute value. Source: the weak-phase approximation in every textbook of the field.
    """
    if imaging.defocus_um == 0:
        return np.ones_like(k)
    wavelength = electron_wavelength_angstrom(imaging.voltage_kv)
    k2 = k * k
    phase = (
        np.pi
        * wavelength
        * k2
        * (imaging.defocus_um * 1e4 - 0.5 * imaging.spherical_aberration_mm * 1e7 * wavelength**2 * k2)
    )
    transfer = np.sin(phase + np.arcsin(imaging.amplitude_contrast))
    return np.abs(transfer) if imaging.phase_flipped else transfer


@dataclass(frozen=True, eq=False)
class Sampling:
    """What a tilt series measures of each voxel of the real FFT of a volume.

    signal : 1 on average where measured, 0 in the missing wedge and between planes.
    noise : standard deviation of back-projected white noise.  radius : distance from the tilt axis, 1 at Nyquist.
    """

    signal: Float32
    noise: Float32
    radius: Float32


def tilt_sampling(shape: Zyx, imaging: Imaging, depth_voxels: int | None = None) -> Sampling:
    """Sum the planes of the tilt series, weighted by the ramp.

    A plane is as thick as the inverse of the reconstruction's depth, `depth_voxels` (None: the volume's own). It
    depends on kz and on the distance from the tilt axis alone, so it is made as a table of these two and looked up.
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
    """The tomogram of a specimen: dense is dark, mean 0, noise at the chosen SNR.

    Parameters
    ----------
    density : (Z, Y, X) float32, specimen minus solvent, arbitrary units.
    seed : of the noise.
    depth_voxels : depth of the reconstruction (None: the volume's); see `tilt_sampling`.
    measured : the part of the volume whose signal-to-noise ratio is the chosen one (default: all).

    Returns
    -------
    (Z, Y, X) float32. Imaging in Fourier space wraps around: what is smeared out of one side comes in at the other.
    """
    shape = density.shape
    kz, ky, kx = _frequencies(shape, voxel_spacing_angstrom)
    k = np.sqrt(kz * kz + ky * ky + kx * kx)
    sampling = tilt_sampling(shape, imaging, depth_voxels)
    transfer = contrast_transfer(k, imaging)
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
    return tomogram.astype(np.float32, copy=False)


def _noise(shape: Zyx, spacing: float, imaging: Imaging, sampling: Sampling, k: Float32, seed: int) -> Float32:
    """Noise of unit variance: white noise through the reconstruction's weighting, plus a smooth background."""
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
