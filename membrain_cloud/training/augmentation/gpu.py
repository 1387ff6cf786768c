"""Imaging and augmentation of many simulated specimens at once on a GPU.

A CPU core images some ten patches of 64³ voxels per second, while a GPU trains on hundreds. The formulas are those of
`simulation.imaging`, `training.augmentation.intensity` and `.fourier`, here for batches in torch. Which augmentations a
patch goes through is drawn by the same code from the same numbers; only the noise comes from the device's generator.
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
from membrain_cloud.training.augmentation.fourier import amplitude_walk
from membrain_cloud.training.augmentation.intensity import Range, random_cuboids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from membrain_cloud.simulation.imaging import Imaging
    from membrain_cloud.training.augmentation.policy import Augmentations

_AXES = (1, 2, 3)


@dataclass(frozen=True)
class Conditions:
    """How a crop of a specimen is imaged.

    Attributes
    ----------
    voxel_spacing_angstrom : float
        In Å.
    imaging : Imaging
        Microscope, tilt series and filter.
    sign : int
        -1 if dense is bright, else 1.
    outside : tuple of slice
        Part of the patch that is set to zero.
    seed : int
        Seed of the noise and of the changes of intensity.
    """

    voxel_spacing_angstrom: float
    imaging: Imaging
    sign: int
    outside: tuple[slice, ...]
    seed: int


UnimagedPatch = tuple[NDArray[np.float16], NDArray[np.uint8], Conditions]
"""Density (e, e, e) with its margins, label (w, w, w), and how it is imaged."""

UnimagedBatch = tuple[Tensor, Tensor, list[Conditions]]
"""Densities (B, e, e, e) float16 with their margins, labels (B, 1, w, w, w) uint8, and how each is imaged."""


def collate_specimens(patches: Sequence[UnimagedPatch]) -> UnimagedBatch:
    """Stack patches that are not imaged yet.

    Parameters
    ----------
    patches : sequence of (ndarray (e, e, e) float16, ndarray (w, w, w) uint8, Conditions)
        Densities with their margins, labels and conditions.

    Returns
    -------
    densities : Tensor of shape (B, e, e, e), float16
        On the CPU.
    labels : Tensor of shape (B, 1, w, w, w), uint8
        On the CPU.
    conditions : list of Conditions
        One for each patch.
    """
    densities, labels, conditions = zip(*patches, strict=True)
    return torch.from_numpy(np.stack(densities)), torch.from_numpy(np.stack(labels))[:, None], list(conditions)


def all_supported(augmentations: Augmentations) -> bool:
    """Return whether all changes of intensity with a probability above 0 are implemented on the GPU.

    Parameters
    ----------
    augmentations : Augmentations
        Probabilities of the changes.

    Returns
    -------
    supported : bool
        False for filters and noise that only `intensity` has.
    """
    return all(not getattr(augmentations, name) or name in _CHANGES for name in augmentations.intensity_names())


def image_specimens(
    batch_of_specimens: UnimagedBatch,
    augmentations: Augmentations,
    device: torch.device,
    *,
    margin: int,
    empty_margin: int,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Image and augment specimens, as `simulated_patches.draw_patch` does on the CPU.

    Parameters
    ----------
    batch_of_specimens : (Tensor (B, e, e, e) float16, Tensor (B, 1, w, w, w) uint8, list of Conditions)
        Densities with their margins, labels and conditions.
    augmentations : Augmentations
        Random changes of intensity; all must be supported (`all_supported`).
    device : torch.device
        Where they are imaged.
    margin : int
        Voxels of specimen on each side of the patch that are imaged and cut off.
    empty_margin : int
        Empty voxels beyond these, likewise.
    batch : int
        Number of specimens that draw their noise together. It must not depend on how many are imaged at once.

    Returns
    -------
    images : Tensor of shape (B, 1, w, w, w), float32
        On the device.
    labels : Tensor of shape (B, 1, w, w, w), uint8
        On the device.
    """
    density, label, conditions = batch_of_specimens
    density = functional.pad(density.to(device, non_blocking=True).float(), [empty_margin] * 6)
    edge, around = density.shape[-1], margin + empty_margin
    inside = slice(around, edge - around)
    white = _draw_noise([one.seed for one in conditions], edge, device, batch)
    spacings, imagings = [one.voxel_spacing_angstrom for one in conditions], [one.imaging for one in conditions]
    tomograms = image_densities(density, spacings, imagings, white, measured=inside)[:, inside, inside, inside]
    signs = torch.tensor([float(one.sign) for one in conditions]).to(device, non_blocking=True)
    images = _normalised(tomograms * signs[:, None, None, None])
    for image, one in zip(images, conditions, strict=True):
        image.copy_(_apply_changes(image, augmentations, np.random.default_rng(one.seed)))
    if augmentations.normalised:
        images = _normalised(images)
    for image, one in zip(images, conditions, strict=True):
        if one.outside[0].stop != 0:
            image[one.outside] = 0
    return images[:, None], label.to(device, non_blocking=True)


def _draw_noise(seeds: Sequence[int], edge: int, device: torch.device, batch: int) -> Tensor:
    """Draw normal noise (B, 2, e, e, e); `batch` specimens share the generator, seeded for the first of them."""
    generator, parts = torch.Generator(device), []
    for first in range(0, len(seeds), batch):
        generator.manual_seed(seeds[first])
        shape = (min(batch, len(seeds) - first), 2, edge, edge, edge)
        parts.append(torch.randn(shape, generator=generator, device=device))
    return torch.cat(parts)


def image_densities(
    density: Tensor, spacings_angstrom: Sequence[float], imagings: Sequence[Imaging], white: Tensor, *, measured: slice
) -> Tensor:
    """Image cubes of density, as `simulation.imaging.image_density` does for one volume.

    Parameters
    ----------
    density : Tensor of shape (B, e, e, e), float32
        Densities; dense is positive.
    spacings_angstrom : sequence of float
        Voxel spacing of each, in Å.
    imagings : sequence of Imaging
        Imaging conditions of each.
    white : Tensor of shape (B, 2, e, e, e), float32
        Normal noise, for the detector's noise and for the smooth background.
    measured : slice
        Part of every axis in which the signal-to-noise ratio is that of the conditions.

    Returns
    -------
    tomograms : Tensor of shape (B, e, e, e), float32
        The imaged cubes; dense is dark.
    """
    edge, device = density.shape[-1], density.device
    grid = _Grid(edge, device)
    values = _columns_of(imagings, device)
    spacing = _column(spacings_angstrom, device)
    k = grid.radius / spacing
    most = max(math.floor(imaging.tilt_range_degrees / imaging.tilt_step_degrees) for imaging in imagings)
    signal_share, noise_share, from_axis = _tilt_sampling(grid, values, most)
    transfer = _contrast_transfer(k, values)
    transfer = transfer * torch.exp(-0.25 * values["b_factor_angstrom2"] * k * k) * signal_share
    transfer[:, 0, 0, 0] = 0.0
    signal = -_filtered(density, transfer)

    damping = torch.exp(-1.5 * grid.radius**2)
    softer = from_axis.clamp(min=0.02) ** (0.5 * (values["noise_exponent"] - 1.0))
    sharp = _of_unit_deviation(_filtered(white[:, 0], noise_share * softer * damping))
    smooth = signal_share.clamp(max=1.0) / (grid.radius * 20.0).clamp(min=0.5) ** 2
    smooth[:, 0, 0, 0] = 0.0
    soft = _of_unit_deviation(_filtered(white[:, 1], smooth))
    share = values["background_fraction"]
    noise = _of_unit_deviation(torch.sqrt(1 - share) * sharp + torch.sqrt(share) * soft)
    variance = signal[:, measured, measured, measured].var(_AXES, correction=0, keepdim=True).clamp(min=1e-12)
    tomogram = signal + noise * torch.sqrt(variance / values["snr"])
    return _filtered(tomogram, torch.exp(-0.5 * (k * values["lowpass_angstrom"]) ** 2))


_NUMBERS = ("snr", "b_factor_angstrom2", "noise_exponent", "background_fraction", "lowpass_angstrom", "defocus_um",
            "amplitude_contrast", "spherical_aberration_mm", "phase_flipped", "tilt_axis_degrees", "tilt_step_degrees",
            "tilt_range_degrees")  # fmt: skip


def _columns_of(imagings: Sequence[Imaging], device: torch.device) -> dict[str, Tensor]:
    """Return the imaging conditions as columns (B, 1, 1, 1), copied to the device at once."""
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
    filtered: Tensor = torch.fft.irfftn(spectra * gain, s=volumes.shape[1:], dim=_AXES)
    return filtered


def _of_unit_deviation(volumes: Tensor) -> Tensor:
    return volumes / volumes.std(_AXES, correction=0, keepdim=True).clamp(min=1e-12)


def _contrast_transfer(k: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return the contrast transfer function at the spatial frequencies `k` (1/Å); 1 without defocus."""
    phase = ctf_phase(
        k * k, values["wavelength_angstrom"], values["defocus_um"] * 1e4, values["spherical_aberration_mm"]
    )
    transfer = torch.sin(phase + torch.asin(values["amplitude_contrast"]))
    transfer = torch.where(values["phase_flipped"] > 0, transfer.abs(), transfer)
    return torch.where(values["defocus_um"] == 0, torch.ones_like(k), transfer)


def _tilt_sampling(grid: _Grid, values: dict[str, Tensor], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `simulation.imaging.tilt_sampling`: weights of signal and noise, and the distance from the tilt axis.

    `most` is the largest number of tilts to one side of any of the tilt series.
    """
    edge, depth, device = grid.edge, float(grid.edge), grid.radius.device
    fine = torch.arange(math.ceil(0.75 * 4 * depth) + 1, device=device) / (4 * depth)
    step = torch.deg2rad(values["tilt_step_degrees"])
    number = torch.arange(-most, most + 1, device=device)[None, :, None, None]
    tilt = step * number
    table_z, table_x = grid.z[:, None, :, 0, :].reshape(1, 1, edge, 1), fine[None, None, None, :]
    ramp = (torch.hypot(table_x, table_z) * depth * step)[:, 0]
    off_plane = (table_z * torch.cos(tilt) - table_x * torch.sin(tilt)).abs_().mul_(depth)
    weight = off_plane.neg_().add_(1).clamp_(min=0).mul_(ramp[:, None])
    weight *= number.abs() <= values["tilts"]
    signal, noise = weight.sum(1), weight.square_().sum(1)
    overlap = (1.0 - ramp).clamp(0, 1) * (signal > 0)
    signal = signal * (1 - overlap) + overlap
    noise = torch.sqrt(noise * (1 - overlap) + overlap * ramp.clamp(min=0.02))
    axis = torch.deg2rad(values["tilt_axis_degrees"])
    across = (grid.x * torch.cos(axis) + grid.y * torch.sin(axis)).abs()
    columns = torch.round(across * (4 * depth)).long().clamp(max=len(fine) - 1)
    at = columns.reshape(len(columns), 1, -1).expand(-1, edge, -1)
    shape = (len(columns), edge, *columns.shape[2:])
    radius = 2 * torch.sqrt(across**2 + grid.z**2)
    return signal.gather(2, at).reshape(shape), noise.gather(2, at).reshape(shape), radius


def augment_intensity(image: Tensor, augmentations: Augmentations, rng: np.random.Generator) -> Tensor:
    """Normalise a patch and apply the changes of intensity, as `Augmentations.augment_intensity` does in NumPy.

    Parameters
    ----------
    image : Tensor of shape (w, w, w), float32
        The patch.
    augmentations : Augmentations
        Random changes; all must be supported (`all_supported`).
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    image : Tensor of shape (w, w, w), float32
        A new patch on the same device.
    """
    image = _apply_changes(_normalised(image[None])[0], augmentations, rng)
    return _normalised(image[None])[0] if augmentations.normalised else image


def _apply_changes(image: Tensor, augmentations: Augmentations, rng: np.random.Generator) -> Tensor:
    for name in augmentations.intensity_names():
        chance = getattr(augmentations, name)
        if chance and rng.random() < chance:
            image = _CHANGES[name](image, rng, augmentations)
    return image


def _normalised(images: Tensor) -> Tensor:
    """Scale each image of (B, w, w, w) to mean 0 and standard deviation 1."""
    deviation, mean = torch.std_mean(images, _AXES, correction=0, keepdim=True)
    return (images - mean) / torch.where(deviation > 1e-12, deviation, 1.0)


def _fourier_amplitude(image: Tensor, rng: np.random.Generator, sigma: float) -> Tensor:
    table, per_frequency = amplitude_walk(rng, sigma)
    radius = _Grid(image.shape[-1], image.device).radius[0]
    gains = torch.from_numpy(table).to(image.device)
    return _normalised(_filtered(image[None], gains[(radius * per_frequency + 0.5).long()]))[0]


def _gaussian(image: Tensor, rng: np.random.Generator, sigma: Range, each_axis: bool) -> Tensor:
    """Apply a Gaussian filter with reflected borders, its kernel cut off at three sigma as in `intensity.gaussian`."""
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
    for cuboid in random_cuboids(tuple(image.shape), rng, most):
        image[cuboid] = mean
    return image


_CHANGES: dict[str, Callable[[Tensor, np.random.Generator, Augmentations], Tensor]] = {
    "fourier_amplitude": lambda v, rng, a: _fourier_amplitude(v, rng, a.walk_sigma),
    "gaussian": lambda v, rng, a: _gaussian(v, rng, a.gaussian_sigma, a.gaussian_each_axis),
    "brightness_ramp": lambda v, rng, a: _brightness_ramp(v, rng),
    "gamma": lambda v, rng, a: _gamma(v, rng, a.gamma_exponent),
    "erase": lambda v, rng, a: _erase(v, rng, a.erase_most),
}
