"""Imaging and augmentation of many specimens at once on a GPU: what `membranes/imaging.py` and `grey_values.py` do.

A core images some ten patches of 64³ voxels a second, a GPU trains on hundreds. The formulas are those two rooms'; here
they stand for batches, in torch. Which change a patch goes through is drawn by the same code from the same numbers;
only the noise comes from the device's own generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from membrain_cloud.image.ctf import ctf_phase, electron_wavelength_angstrom
from membrain_cloud.simulation.imaging import Imaging
from membrain_cloud.training.augmentation.intensity import Range, amplitude_walk, cuboids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from membrain_cloud.training.augmentation.policy import Augmentations

_AXES = (1, 2, 3)


@dataclass(frozen=True)
class Conditions:
    """How a piece of a specimen is to be imaged.

    sign : -1 where dense is bright.  outside : of the patch, set to zero.
    seed : of the noise, and of the changes to grey values.
    """

    voxel_spacing_angstrom: float
    imaging: Imaging
    sign: int
    outside: tuple[slice, ...]
    seed: int


Piece = tuple[NDArray[np.float16], NDArray[np.uint8], Conditions]
Pieces = tuple[Tensor, Tensor, list[Conditions]]


def together(pieces: Sequence[Piece]) -> Pieces:
    """Densities (B, e, e, e) float16 with their margins, labels (B, 1, w, w, w) uint8, conditions."""
    densities, labels, conditions = zip(*pieces, strict=True)
    return torch.from_numpy(np.stack(densities)), torch.from_numpy(np.stack(labels))[:, None], list(conditions)


def can_change(augmentations: Augmentations) -> bool:
    """Whether all changes to grey values that may be drawn are there for a device."""
    return all(not getattr(augmentations, name) or name in _CHANGES for name in augmentations.grey_names())


def imaged(
    pieces: Pieces, augmentations: Augmentations, device: torch.device, *, margin: int, empty: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Images (B, 1, w, w, w) float32 on the device, as `patches.draw_patch` makes them, and the labels there.

    margin : of specimen, `empty`: of nothing, voxels on each side that are imaged and cut off.
    batch : how many draw their noise together; it does not hang on how many are imaged at once.
    """
    density, label, conditions = pieces
    density = functional.pad(density.to(device, non_blocking=True).float(), [empty] * 6)
    edge, around = density.shape[-1], margin + empty
    seen = slice(around, edge - around)
    generator, parts = torch.Generator(device), []
    for first in range(0, len(conditions), batch):
        generator.manual_seed(conditions[first].seed)
        shape = (min(batch, len(conditions) - first), 2, edge, edge, edge)
        parts.append(torch.randn(shape, generator=generator, device=device))
    white = torch.cat(parts)
    spacings, imagings = [c.voxel_spacing_angstrom for c in conditions], [c.imaging for c in conditions]
    tomograms = image_densities(density, spacings, imagings, white, measured=seen)[:, seen, seen, seen]
    signs = torch.tensor([float(c.sign) for c in conditions]).to(device, non_blocking=True)
    images = _normalised(tomograms * signs[:, None, None, None])
    for image, one in zip(images, conditions, strict=True):
        image.copy_(_drawn(image, augmentations, np.random.default_rng(one.seed)))
    if augmentations.normalised:
        images = _normalised(images)
    for image, one in zip(images, conditions, strict=True):
        if one.outside[0].stop != 0:
            image[one.outside] = 0
    return images[:, None], label.to(device, non_blocking=True)


def image_densities(
    density: Tensor, spacings_angstrom: Sequence[float], imagings: Sequence[Imaging], white: Tensor, *, measured: slice
) -> Tensor:
    """`membranes.imaging.image_density` for cubes (B, e, e, e) float32.

    white : (B, 2, e, e, e), normal noise for the detector's and for the smooth part.
    measured : of each axis, where the signal-to-noise ratio is the chosen one.
    """
    edge, device = density.shape[-1], density.device
    grid = _Grid(edge, device)
    of = _numbers(imagings, device)
    spacing = _column(spacings_angstrom, device)
    k = grid.radius / spacing
    most = max(math.floor(imaging.tilt_range_degrees / imaging.tilt_step_degrees) for imaging in imagings)
    signal_share, noise_share, from_axis = _tilt_sampling(grid, of, most)
    transfer = _contrast_transfer(k, of)
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
            "amplitude_contrast", "spherical_aberration_mm", "phase_flipped", "tilt_axis_degrees", "tilt_step_degrees",
            "tilt_range_degrees")  # fmt: skip


def _numbers(imagings: Sequence[Imaging], device: torch.device) -> dict[str, Tensor]:
    """Of the imagings, in columns; one copy for all."""
    rows = [
        *([float(getattr(imaging, name)) for imaging in imagings] for name in _NUMBERS),
        [electron_wavelength_angstrom(imaging.voltage_kv) for imaging in imagings],
        [math.floor(imaging.tilt_range_degrees / imaging.tilt_step_degrees) for imaging in imagings],
    ]
    table = torch.tensor(rows, dtype=torch.float32).to(device)[:, :, None, None, None]
    return dict(zip((*_NUMBERS, "wavelength_angstrom", "tilts"), table, strict=True))


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


def _contrast_transfer(k: Tensor, of: dict[str, Tensor]) -> Tensor:
    phase = ctf_phase(k * k, of["wavelength_angstrom"], of["defocus_um"] * 1e4, of["spherical_aberration_mm"])
    transfer = torch.sin(phase + torch.asin(of["amplitude_contrast"]))
    transfer = torch.where(of["phase_flipped"] > 0, transfer.abs(), transfer)
    return torch.where(of["defocus_um"] == 0, torch.ones_like(k), transfer)


def _tilt_sampling(grid: _Grid, of: dict[str, Tensor], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """`membranes.imaging.tilt_sampling`: signal, noise and distance from the tilt axis, for each imaging.

    most : tilts to a side, of any of them.
    """
    edge, depth, device = grid.edge, float(grid.edge), grid.radius.device
    fine = torch.arange(math.ceil(0.75 * 4 * depth) + 1, device=device) / (4 * depth)
    step = torch.deg2rad(of["tilt_step_degrees"])
    number = torch.arange(-most, most + 1, device=device)[None, :, None, None]
    tilt = step * number
    table_z, table_x = grid.z[:, None, :, 0, :].reshape(1, 1, edge, 1), fine[None, None, None, :]
    ramp = (torch.hypot(table_x, table_z) * depth * step)[:, 0]
    off_plane = (table_z * torch.cos(tilt) - table_x * torch.sin(tilt)).abs_().mul_(depth)
    weight = off_plane.neg_().add_(1).clamp_(min=0).mul_(ramp[:, None])
    weight *= number.abs() <= of["tilts"]
    signal, noise = weight.sum(1), weight.square_().sum(1)
    overlap = (1.0 - ramp).clamp(0, 1) * (signal > 0)
    signal = signal * (1 - overlap) + overlap
    noise = torch.sqrt(noise * (1 - overlap) + overlap * ramp.clamp(min=0.02))
    axis = torch.deg2rad(of["tilt_axis_degrees"])
    across = (grid.x * torch.cos(axis) + grid.y * torch.sin(axis)).abs()
    columns = torch.round(across * (4 * depth)).long().clamp(max=len(fine) - 1)
    at = columns.reshape(len(columns), 1, -1).expand(-1, edge, -1)
    shape = (len(columns), edge, *columns.shape[2:])
    radius = 2 * torch.sqrt(across**2 + grid.z**2)
    return signal.gather(2, at).reshape(shape), noise.gather(2, at).reshape(shape), radius


def change(image: Tensor, augmentations: Augmentations, rng: np.random.Generator) -> Tensor:
    """`Augmentations.change` of a patch (w, w, w) on its device; only what `can_change` knows of."""
    image = _drawn(_normalised(image[None])[0], augmentations, rng)
    return _normalised(image[None])[0] if augmentations.normalised else image


def _drawn(image: Tensor, augmentations: Augmentations, rng: np.random.Generator) -> Tensor:
    for name in augmentations.grey_names():
        chance = getattr(augmentations, name)
        if chance and rng.random() < chance:
            image = _CHANGES[name](image, rng, augmentations)
    return image


def _normalised(images: Tensor) -> Tensor:
    """(B, w, w, w), each."""
    deviation, mean = torch.std_mean(images, _AXES, correction=0, keepdim=True)
    return (images - mean) / torch.where(deviation > 1e-12, deviation, 1.0)


def _fourier_amplitude(image: Tensor, rng: np.random.Generator, sigma: float) -> Tensor:
    table, per_frequency = amplitude_walk(rng, sigma)
    radius = _Grid(image.shape[-1], image.device).radius[0]
    gains = torch.from_numpy(table).to(image.device)
    return _normalised(_filtered(image[None], gains[(radius * per_frequency + 0.5).long()]))[0]


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
    mean, image = image.mean(), image.clone()
    for cuboid in cuboids(tuple(image.shape), rng, most):
        image[cuboid] = mean
    return image


_CHANGES: dict[str, Callable[[Tensor, np.random.Generator, Augmentations], Tensor]] = {
    "fourier_amplitude": lambda v, rng, a: _fourier_amplitude(v, rng, a.walk_sigma),
    "gaussian": lambda v, rng, a: _gaussian(v, rng, a.gaussian_sigma, a.gaussian_each_axis),
    "brightness_ramp": lambda v, rng, a: _brightness_ramp(v, rng),
    "gamma": lambda v, rng, a: _gamma(v, rng, a.gamma_exponent),
    "erase": lambda v, rng, a: _erase(v, rng, a.erase_most),
}
