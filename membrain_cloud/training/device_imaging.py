"""Imaging and augmentation of many specimens at once on a GPU: what `membranes/imaging.py` and `grey_values.py` do.

A core images some ten patches of 64³ voxels a second, a GPU trains on hundreds. The formulas are those two rooms'; here
they stand for batches, in torch. Which change a patch goes through is drawn by the same code from the same numbers;
only the noise comes from the device's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from membrain_cloud.membranes.imaging import Imaging, electron_wavelength_angstrom
from membrain_cloud.training.augmentation import Augmentations
from membrain_cloud.training.grey_values import Range, amplitude_walk

_AXES = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Unimaged:
    """A piece of a specimen and how it is to be imaged.

    density : (e, e, e) float16, specimen minus solvent, with a margin of `margin` voxels on each side.
    label : (e - 2 margin)³ uint8.  sign : -1 where dense is bright.  outside : of the label's cube, set to zero.
    noise_seed, change_seed : of the noise, and of the changes to grey values.
    """

    density: NDArray[np.float16]
    label: NDArray[np.uint8]
    voxel_spacing_angstrom: float
    imaging: Imaging
    sign: int
    outside: tuple[slice, ...]
    noise_seed: int
    change_seed: int


def can_change(augmentations: Augmentations) -> bool:
    """Whether all changes to grey values that may be drawn are there for a device."""
    return all(not getattr(augmentations, name) or name in _CHANGES for name in augmentations.grey_names())


def imaged(
    pieces: Sequence[Unimaged], augmentations: Augmentations, device: torch.device, *, margin: int, empty: int
) -> tuple[Tensor, Tensor]:
    """Images (B, 1, w, w, w) float32 on the device, as `patches.draw_patch` makes them, and labels (B, 1, w, w, w).

    margin : of specimen, `empty`: of nothing, voxels on each side that are imaged and cut off.
    """
    density = torch.from_numpy(np.stack([piece.density for piece in pieces])).to(device).float()
    density = functional.pad(density, [empty] * 6)
    white = torch.stack([_white(density.shape[1:], piece.noise_seed, device) for piece in pieces])
    around = margin + empty
    seen = slice(around, density.shape[1] - around)
    tomograms = image_densities(
        density, [p.voxel_spacing_angstrom for p in pieces], [p.imaging for p in pieces], white, measured=seen
    )[:, seen, seen, seen]
    changed = []
    for tomogram, piece in zip(tomograms, pieces, strict=True):
        made = change(piece.sign * tomogram, augmentations, np.random.default_rng(piece.change_seed))
        made[piece.outside] = 0
        changed.append(made)
    labels = torch.from_numpy(np.stack([piece.label for piece in pieces]))
    return torch.stack(changed)[:, None], labels.to(device)[:, None]


def _white(shape: Sequence[int], seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn((2, *shape), generator=generator, device=device)


def image_densities(
    density: Tensor, spacings_angstrom: Sequence[float], imagings: Sequence[Imaging], white: Tensor, *, measured: slice
) -> Tensor:
    """`membranes.imaging.image_density` for cubes (B, e, e, e) float32.

    white : (B, 2, e, e, e), normal noise for the detector's and for the smooth part.
    measured : of each axis, where the signal-to-noise ratio is the chosen one.
    """
    edge, device = density.shape[-1], density.device
    grid = _Grid(edge, device)
    of = {name: _column([getattr(imaging, name) for imaging in imagings], device) for name in _NUMBERS}
    spacing = _column(spacings_angstrom, device)
    k = grid.radius / spacing
    signal_share, noise_share, from_axis = _tilt_sampling(grid, imagings, device)
    transfer = _contrast_transfer(k, imagings, of, device)
    transfer = transfer * torch.exp(-0.25 * of["b_factor_angstrom2"] * k * k) * signal_share
    transfer[:, 0, 0, 0] = 0.0
    signal = -_filtered(density, transfer)

    damping = torch.exp(-1.5 * grid.radius**2)
    softer = from_axis.clamp(min=0.02) ** (0.5 * (of["noise_exponent"] - 1.0))
    sharp = _of_unit_deviation(_filtered(white[:, 0], noise_share * softer * damping))
    smooth = signal_share.clamp(max=1.0) / (grid.radius * 20.0).clamp(min=0.5) ** 2
    smooth[:, 0, 0, 0] = 0.0
    soft = _of_unit_deviation(_filtered(white[:, 1], smooth))
    share = of["background_fraction"]
    noise = _of_unit_deviation(torch.sqrt(1 - share) * sharp + torch.sqrt(share) * soft)
    variance = signal[:, measured, measured, measured].var(_AXES, correction=0, keepdim=True).clamp(min=1e-12)
    tomogram = signal + noise * torch.sqrt(variance / of["snr"])
    return _filtered(tomogram, torch.exp(-0.5 * (k * of["lowpass_angstrom"]) ** 2))


_NUMBERS = ("snr", "b_factor_angstrom2", "noise_exponent", "background_fraction", "lowpass_angstrom", "defocus_um",
            "amplitude_contrast", "spherical_aberration_mm", "tilt_axis_degrees", "tilt_range_degrees",
            "tilt_step_degrees")  # fmt: skip


class _Grid:
    """Frequencies (1/voxel) of the real FFT of a cube, broadcastable to (B, e, e, e // 2 + 1)."""

    def __init__(self, edge: int, device: torch.device) -> None:
        self.edge = edge
        whole, half = torch.fft.fftfreq(edge, device=device), torch.fft.rfftfreq(edge, device=device)
        self.z, self.y, self.x = whole[None, :, None, None], whole[None, None, :, None], half[None, None, None, :]
        self.radius = torch.sqrt(self.z**2 + self.y**2 + self.x**2)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float32, device=device)[:, None, None, None]


def _filtered(volumes: Tensor, gain: Tensor) -> Tensor:
    spectra = torch.fft.rfftn(volumes, dim=_AXES)
    return torch.fft.irfftn(spectra * gain, s=volumes.shape[1:], dim=_AXES)


def _of_unit_deviation(volumes: Tensor) -> Tensor:
    return volumes / volumes.std(_AXES, correction=0, keepdim=True).clamp(min=1e-12)


def _contrast_transfer(k: Tensor, imagings: Sequence[Imaging], of: dict[str, Tensor], device: torch.device) -> Tensor:
    wavelength = _column([electron_wavelength_angstrom(imaging.voltage_kv) for imaging in imagings], device)
    flipped = _column([imaging.phase_flipped for imaging in imagings], device) > 0
    k2 = k * k
    bend = of["defocus_um"] * 1e4 - 0.5 * of["spherical_aberration_mm"] * 1e7 * wavelength**2 * k2
    transfer = torch.sin(math.pi * wavelength * k2 * bend + torch.asin(of["amplitude_contrast"]))
    transfer = torch.where(flipped, transfer.abs(), transfer)
    return torch.where(of["defocus_um"] == 0, torch.ones_like(k), transfer)


def _tilt_sampling(grid: _Grid, imagings: Sequence[Imaging], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`membranes.imaging.tilt_sampling`: signal, noise and distance from the tilt axis, for each imaging."""
    edge, depth = grid.edge, float(grid.edge)
    fine = torch.arange(math.ceil(0.75 * 4 * depth) + 1, device=device) / (4 * depth)
    step = _column([math.radians(imaging.tilt_step_degrees) for imaging in imagings], device)
    counts = [math.floor(imaging.tilt_range_degrees / imaging.tilt_step_degrees) for imaging in imagings]
    number = torch.arange(-max(counts), max(counts) + 1, device=device)[None, :, None, None]
    tilt = step * number
    table_z, table_x = grid.z[:, None, :, 0, :].reshape(1, 1, edge, 1), fine[None, None, None, :]
    ramp = (torch.hypot(table_x, table_z) * depth * step)[:, 0]
    off_plane = (table_z * torch.cos(tilt) - table_x * torch.sin(tilt)).abs_().mul_(depth)
    weight = off_plane.neg_().add_(1).clamp_(min=0).mul_(ramp[:, None])
    weight *= number.abs() <= _column(counts, device)
    signal, noise = weight.sum(1), weight.square_().sum(1)
    overlap = (1.0 - ramp).clamp(0, 1) * (signal > 0)
    signal = signal * (1 - overlap) + overlap
    noise = torch.sqrt(noise * (1 - overlap) + overlap * ramp.clamp(min=0.02))
    axis = _column([math.radians(imaging.tilt_axis_degrees) for imaging in imagings], device)
    across = (grid.x * torch.cos(axis) + grid.y * torch.sin(axis)).abs()
    columns = torch.round(across * (4 * depth)).long().clamp(max=len(fine) - 1)
    at = columns.reshape(len(imagings), 1, -1).expand(-1, edge, -1)
    shape = (len(imagings), edge, *columns.shape[2:])
    radius = 2 * torch.sqrt(across**2 + grid.z**2)
    return signal.gather(2, at).reshape(shape), noise.gather(2, at).reshape(shape), radius


def change(image: Tensor, augmentations: Augmentations, rng: np.random.Generator) -> Tensor:
    """`Augmentations.change` of a patch (w, w, w) on its device; only what `can_change` knows of."""
    image = _normalised(image)
    for name in augmentations.grey_names():
        chance = getattr(augmentations, name)
        if chance and rng.random() < chance:
            image = _CHANGES[name](image, rng, augmentations)
    return _normalised(image) if augmentations.normalised else image


def _normalised(image: Tensor) -> Tensor:
    deviation = image.std(correction=0)
    return (image - image.mean()) / torch.where(deviation > 1e-12, deviation, 1.0)


def _fourier_amplitude(image: Tensor, rng: np.random.Generator, sigma: float) -> Tensor:
    table, per_frequency = amplitude_walk(rng, sigma)
    radius = _Grid(image.shape[-1], image.device).radius[0]
    gains = torch.from_numpy(table).to(image.device)
    return _normalised(_filtered(image[None], gains[(radius * per_frequency + 0.5).long()])[0])


def _gaussian(image: Tensor, rng: np.random.Generator, sigma: Range, each_axis: bool) -> Tensor:
    """Borders are mirrored, the kernel is cut off at three sigma, as in `grey_values.gaussian`."""
    drawn = [float(rng.uniform(*sigma)) for _ in range(3 if each_axis else 1)] * (1 if each_axis else 3)
    for axis, width in enumerate(drawn):
        reach, length = int(3.0 * width + 0.5), image.shape[axis]
        at = torch.arange(-reach, reach + 1, device=image.device)
        kernel = torch.exp(-0.5 * (at / width) ** 2)
        # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
        index = torch.arange(-reach, length + reach, device=image.device).remainder(2 * length)
        padded = image.index_select(axis, torch.minimum(index, 2 * length - 1 - index))
        shape = [1] * 5
        shape[axis + 2] = len(kernel)
        image = functional.conv3d(padded[None, None], (kernel / kernel.sum()).reshape(shape))[0, 0]
    return image


def _brightness_ramp(image: Tensor, rng: np.random.Generator) -> Tensor:
    for axis, slope in enumerate(rng.normal(0, 0.5, 3)):
        line = float(slope) * torch.linspace(-1, 1, image.shape[axis], device=image.device)
        image = image + line.reshape([-1 if a == axis else 1 for a in range(3)])
    return image


def _gamma(image: Tensor, rng: np.random.Generator, exponent: Range) -> Tensor:
    low = image.min()
    span = (image.max() - low).clamp(min=1e-6)
    return ((image - low) / span) ** float(rng.uniform(*exponent))


def _erase(image: Tensor, rng: np.random.Generator, most: int) -> Tensor:
    image, mean = image.clone(), image.mean()
    for _ in range(int(rng.integers(1, most + 1))):
        size = [int(rng.integers(n // 10, n // 3)) for n in image.shape]
        start = [int(rng.integers(0, n - s)) for n, s in zip(image.shape, size, strict=True)]
        image[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = mean
    return image


_CHANGES: dict[str, Callable[[Tensor, np.random.Generator, Augmentations], Tensor]] = {
    "fourier_amplitude": lambda v, rng, a: _fourier_amplitude(v, rng, a.walk_sigma),
    "gaussian": lambda v, rng, a: _gaussian(v, rng, a.gaussian_sigma, a.gaussian_each_axis),
    "brightness_ramp": lambda v, rng, a: _brightness_ramp(v, rng),
    "gamma": lambda v, rng, a: _gamma(v, rng, a.gamma_exponent),
    "erase": lambda v, rng, a: _erase(v, rng, a.erase_most),
}
