"""Training patches of simulated specimens.

Simulating a specimen takes seconds, imaging a crop of it a tenth of a second. Therefore a pool of specimens is made
once and kept on disk, and every patch is a new crop, rotated or mirrored and imaged under its own conditions: defocus,
missing wedge, noise and filter.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.simulation.imaging import Imaging, image_density
from membrain_cloud.simulation.phantom import KINDS, PhantomSettings, make_specimen
from membrain_cloud.training.augmentation.gpu import Conditions, UnimagedBatch, UnimagedPatch, image_specimens
from membrain_cloud.training.segmentation.labelled_patches import LabelledPatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from membrain_cloud.training.augmentation.policy import Augmentations
    from membrain_cloud.training.segmentation.config import SegmentationTraining

# Crops are imaged with MARGIN voxels of specimen and EMPTY_MARGIN voxels of nothing on each side, which are cut off
# afterwards: imaging in Fourier space is periodic, and the far side must not appear as a ghost.
MARGIN, EMPTY_MARGIN = 8, 12
POOL_VERSION = 5
# Fractions of the patches with inverted contrast, and of those that reach beyond the volume.
_INVERTED, _AT_BORDER = 0.08, 0.15
# Voxel spacing from which on `SegmentationTraining.coarse` draws a specimen more often.
_COARSE_ANGSTROM = 11.0


class Specimen(NamedTuple):
    """A simulated specimen.

    Attributes
    ----------
    density : ndarray of shape (Z, Y, X), float16
        Density before imaging; dense is positive.
    label : ndarray of shape (Z, Y, X), uint8
        1 for membrane.
    voxel_spacing_angstrom : float
        In Å.
    """

    density: NDArray[np.float16]
    label: NDArray[np.uint8]
    voxel_spacing_angstrom: float


def random_specimen_settings(rng: np.random.Generator, edge: int) -> PhantomSettings:
    """Draw a specimen as varied as the CryoET Data Portal's: crowded or empty, thick or thin bilayers, look-alikes.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    edge : int
        Edge length of the specimen, in voxels.

    Returns
    -------
    settings : PhantomSettings
        Settings of the specimen.
    """
    low = float(rng.uniform(25, 42))
    membranes = int(rng.choice([0, 2, 3, 4, 5, 7], p=[0.2, 0.12, 0.17, 0.17, 0.17, 0.17]))
    microtubules = (3, 9) if membranes == 0 else (1, 5) if rng.random() < 0.5 else (0, 0)
    return PhantomSettings(
        shape=(edge, edge, edge),
        voxel_spacing_angstrom=float(rng.choice([10.0, rng.uniform(8.0, 14.0)])),
        kinds=KINDS,
        membranes=membranes,
        leaflet_separation_angstrom=(low, low + 6.0),
        membrane_contrast=(0.2, 1.0),
        particles=("dimer", "tower", "head-on-stalk", "hump", "random", "random", "random"),
        particles_per_um2=(0.0, 1500.0),
        lattice_fraction=0.3,
        cytosolic_per_um3=(5e3, 2.5e5),
        filaments=(0, 4),
        # Microtubules are the most frequent false positives: there are many, often without any membrane.
        microtubules=microtubules,
        gold_beads=(0, 3) if rng.random() < 0.3 else (0, 0),
        void_angstrom=(0.0, 200.0) if rng.random() < 0.4 else (0.0, 0.0),
    )


def random_imaging(rng: np.random.Generator) -> Imaging:
    """Draw imaging conditions as varied as the CryoET Data Portal's.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    imaging : Imaging
        Microscope, tilt series, noise and filter.
    """
    return Imaging(
        snr=float(np.exp(rng.uniform(np.log(0.07), np.log(2.5)))),
        defocus_um=float(rng.uniform(1.5, 6.0)),
        phase_flipped=bool(rng.random() < 0.5),
        amplitude_contrast=float(rng.uniform(0.05, 0.2)),
        b_factor_angstrom2=float(rng.uniform(0, 1500)),
        # At times a full range: there are volumes without a missing wedge (averages, filled-in tomograms).
        tilt_range_degrees=float(rng.uniform(50, 65)) if rng.random() < 0.9 else 90.0,
        tilt_step_degrees=float(rng.choice([1.5, 2.0, 3.0])),
        tilt_axis_degrees=float(rng.choice([0.0, 90.0]) + rng.normal(0, 8)),
        noise_exponent=float(rng.uniform(-0.3, 1.4)),
        background_fraction=float(rng.uniform(0, 0.25)),
        lowpass_angstrom=float(rng.uniform(2, 9)) if rng.random() < 0.35 else 0.0,
    )


def make_pool(
    folder: Path, *, count: int, edge: int, seed: int, processes: int, done: Callable[[int], None]
) -> list[Path]:
    """Simulate a pool of specimens, or complete one.

    Parameters
    ----------
    folder : Path
        Folder of the specimens; it is created.
    count : int
        Number of specimens.
    edge : int
        Their edge length, in voxels.
    seed : int
        Seed of the pool.
    processes : int
        Number of processes.
    done : callable
        Called with the number of specimens that exist, after each new one.

    Returns
    -------
    paths : list of Path
        Files of the specimens, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"specimen-v{POOL_VERSION}-{edge}-{seed}-{k:04d}.npz" for k in range(count)]
    missing = [(path, seed * 100_003 + k, edge) for k, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for finished, _ in enumerate(pool.map(_make_and_save, missing), start=count - len(missing) + 1):
                done(finished)
    return paths


def _make_and_save(job: tuple[Path, int, int]) -> None:
    path, seed, edge = job
    rng = np.random.default_rng(seed)
    settings = random_specimen_settings(rng, edge)
    specimen = make_specimen(int(rng.integers(2**31)), settings)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(
                file,
                density=specimen.density.astype(np.float16),
                label=specimen.labels,
                facts=json.dumps({"voxel_spacing_angstrom": settings.voxel_spacing_angstrom}),
            )

    replace_atomically(path, write)


def load_specimen(path: Path) -> Specimen:
    """Read a specimen of a pool.

    Parameters
    ----------
    path : Path
        File of the pool.
    """
    with np.load(path, allow_pickle=False) as stored:
        return Specimen(stored["density"], stored["label"], _spacing(stored))


def voxel_spacing(path: Path) -> float:
    """Return the voxel spacing of a specimen of a pool, in Å, without reading its voxels.

    Parameters
    ----------
    path : Path
        File of the pool.
    """
    with np.load(path, allow_pickle=False) as stored:
        return _spacing(stored)


def _spacing(stored: Mapping[str, NDArray[Any]]) -> float:
    return float(json.loads(str(stored["facts"]))["voxel_spacing_angstrom"])


def draw_patch(
    specimen: Specimen, window: int, augmentations: Augmentations, rng: np.random.Generator
) -> LabelledPatch:
    """Draw a crop of a specimen, rotate it, image it under random conditions and augment it.

    Parameters
    ----------
    specimen : Specimen
        The specimen.
    window : int
        Edge length of the patch, in voxels.
    augmentations : Augmentations
        Random changes; only those of intensity are used, because rotations come before the imaging.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    patch : LabelledPatch
        Image and label.
    """
    crop = _crop(specimen, window, rng)
    variant = _draw_variant(window, rng)
    around = MARGIN + EMPTY_MARGIN
    inside = (slice(around, around + window),) * 3
    padded = np.pad(crop.density.astype(np.float32), EMPTY_MARGIN)
    imaging = random_imaging(rng)
    image = image_density(padded, crop.voxel_spacing_angstrom, imaging, int(rng.integers(2**31)), measured=inside)
    augmented = augmentations.augment_intensity(variant.sign * image[inside], rng)
    augmented[variant.outside] = 0
    return LabelledPatch(augmented, variant.label(crop.label))


@dataclass(frozen=True)
class Variant:
    """Rare kinds of patches that a network must handle.

    Attributes
    ----------
    sign : int
        -1 if dense is bright. Membranes are dark by convention, so such a patch has none.
    outside : tuple of slice
        The part beyond the volume, where windows are filled with zeros; empty slices if there is none.
    """

    sign: int
    outside: tuple[slice, ...]

    def label(self, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels of the patch: background everywhere if it is inverted, and outside of the volume.

        Parameters
        ----------
        truth : ndarray of shape (w, w, w), uint8
            Labels of the specimen.

        Returns
        -------
        label : ndarray of shape (w, w, w), uint8
            A copy with changes.
        """
        label = truth.copy() if self.sign > 0 else np.zeros_like(truth)
        label[self.outside] = 0
        return label


def _draw_variant(window: int, rng: np.random.Generator) -> Variant:
    sign = -1 if rng.random() < _INVERTED else 1
    outside = [slice(0, 0)] * 3
    if rng.random() < _AT_BORDER:
        count, last = int(rng.integers(1, window // 2 + 1)), rng.random() < 0.5
        outside = [slice(None)] * 3
        outside[int(rng.integers(3))] = slice(window - count, None) if last else slice(count)
    return Variant(sign, tuple(outside))


def _crop(specimen: Specimen, window: int, rng: np.random.Generator) -> Specimen:
    """Draw a crop, with permuted and flipped axes: the density with `MARGIN` voxels on each side, the label without."""
    edge = window + 2 * MARGIN
    corner = [int(rng.integers(0, n - edge + 1)) for n in specimen.density.shape]
    cut = tuple(slice(a, a + edge) for a in corner)
    axes = tuple(int(a) for a in rng.permutation(3))
    flips = tuple(a for a in range(3) if rng.random() < 0.5)
    density = np.ascontiguousarray(np.flip(specimen.density[cut].transpose(axes), flips))
    label = np.flip(specimen.label[cut].transpose(axes), flips)[(slice(MARGIN, -MARGIN),) * 3]
    return Specimen(density, np.ascontiguousarray(label), specimen.voxel_spacing_angstrom)


@dataclass(frozen=True)
class SpecimenPatches:
    """Patches of the specimens of a pool, each imaged anew (a `PatchSource`).

    Attributes
    ----------
    paths : tuple of Path
        Files of the specimens; one that is listed several times is drawn more often.
    window : int
        Edge length of the patches, in voxels.
    augmentations : Augmentations
        Random changes of intensity.
    """

    paths: tuple[Path, ...]
    window: int
    augmentations: Augmentations

    @property
    def volumes(self) -> int:
        """Return the number of specimens."""
        return len(self.paths)

    @property
    def identity(self) -> str:
        """Return a text that changes with specimens, window and augmentations."""
        return "\n".join([f"{self.window} {self.augmentations}", *(path.name for path in self.paths)])

    def patch(self, seed: int, n: int) -> LabelledPatch:
        """Return a patch that is imaged on the CPU.

        Parameters
        ----------
        seed : int
            Seed of the sequence of patches.
        n : int
            Number of the patch in the sequence, from 0.

        Returns
        -------
        patch : LabelledPatch
            Augmented image and label.
        """
        specimen, rng = self._draw_specimen(seed, n)
        return draw_patch(specimen, self.window, self.augmentations, rng)

    def unimaged(self, seed: int, n: int) -> UnimagedPatch:
        """Return what a GPU needs to image a patch.

        Parameters
        ----------
        seed : int
            Seed of the sequence of patches.
        n : int
            Number of the patch in the sequence, from 0.

        Returns
        -------
        patch : (ndarray (e, e, e) float16, ndarray (w, w, w) uint8, Conditions)
            Density, label and conditions. Noise and augmentation differ from those of `patch`.
        """
        specimen, rng = self._draw_specimen(seed, n)
        crop = _crop(specimen, self.window, rng)
        variant = _draw_variant(self.window, rng)
        conditions = Conditions(
            crop.voxel_spacing_angstrom, random_imaging(rng), variant.sign, variant.outside, int(rng.integers(2**31))
        )
        return crop.density, variant.label(crop.label), conditions

    def image(self, unimaged: UnimagedBatch, device: torch.device, batch: int) -> tuple[Tensor, Tensor]:
        """Image and augment patches on a device.

        Parameters
        ----------
        unimaged : UnimagedBatch
            Patches, as `collate_specimens` returns them.
        device : torch.device
            Where they are imaged.
        batch : int
            Number of patches that draw their noise together.

        Returns
        -------
        images : Tensor of shape (B, 1, w, w, w), float32
            On the device.
        labels : Tensor of shape (B, 1, w, w, w), uint8
            On the device.
        """
        return image_specimens(
            unimaged, self.augmentations, device, margin=MARGIN, empty_margin=EMPTY_MARGIN, batch=batch
        )

    def _draw_specimen(self, seed: int, n: int) -> tuple[Specimen, np.random.Generator]:
        rng = np.random.default_rng((seed, n))
        return load_specimen(self.paths[int(rng.integers(len(self.paths)))]), rng


def simulated_sources(
    work: Path, settings: SegmentationTraining, progress: Callable[[int, str], None]
) -> tuple[SpecimenPatches, SpecimenPatches]:
    """Return the sources of simulated patches to train on and to validate on.

    Parameters
    ----------
    work : Path
        Folder whose subfolder `pool` keeps the specimens; missing ones are simulated.
    settings : SegmentationTraining
        Number and size of the specimens, seed, augmentations, and how often coarse specimens are drawn.
    progress : callable
        Called with 0 and a line of text after each specimen.

    Returns
    -------
    training, validation : SpecimenPatches
        Patches of different specimens.
    """
    pool = make_pool(
        work / "pool",
        count=settings.specimens,
        edge=settings.specimen_edge,
        seed=settings.seed,
        processes=settings.threads,
        done=lambda n: progress(0, f"specimens {n}/{settings.specimens}"),
    )
    held_back, training = pool[: settings.validation_specimens], pool[settings.validation_specimens :]
    if settings.coarse > 1:
        training += (settings.coarse - 1) * [path for path in training if voxel_spacing(path) >= _COARSE_ANGSTROM]
    return (
        SpecimenPatches(tuple(training), settings.window, settings.augmentations),
        SpecimenPatches(tuple(held_back), settings.window, settings.augmentations),
    )
