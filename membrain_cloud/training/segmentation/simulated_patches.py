"""Training patches from simulated specimens.

Making a specimen costs seconds, imaging a crop of one a tenth of a second. So a pool of specimens is made once and
kept on disk, and every patch is a fresh crop, turned or mirrored, imaged under conditions of its own: other defocus,
wedge, noise and filter each time.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.simulation.imaging import Imaging, image_density
from membrain_cloud.simulation.phantom import KINDS, PhantomSettings, make_specimen
from membrain_cloud.training.augmentation.gpu import Conditions, Piece, Pieces, imaged
from membrain_cloud.training.segmentation.labelled_patches import Patch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from membrain_cloud.training.augmentation.policy import Augmentations
    from membrain_cloud.training.segmentation.config import SegmentationTraining

# Crops are imaged with this margin of specimen on each side, and then nothing for as many voxels as EMPTY_MARGIN, both
# cut off afterwards: Fourier imaging wraps around, and what leaves on one side must not come back as a ghost.
MARGIN, EMPTY_MARGIN = 8, 12
POOL_VERSION = 5
# Of the patches.
_INVERTED, _AT_BORDER = 0.08, 0.15
_COARSE_ANGSTROM = 11.0


def random_specimen_settings(rng: np.random.Generator, edge: int) -> PhantomSettings:
    """Specimens as varied as the portal's: crowded and empty, thick and thin bilayers, with look-alikes."""
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
        # Microtubules are what a network takes for membranes first: many, and often with no membrane beside them.
        microtubules=microtubules,
        gold_beads=(0, 3) if rng.random() < 0.3 else (0, 0),
        void_angstrom=(0.0, 200.0) if rng.random() < 0.4 else (0.0, 0.0),
    )


def random_imaging(rng: np.random.Generator) -> Imaging:
    """Imaging as varied as the portal's."""
    return Imaging(
        snr=float(np.exp(rng.uniform(np.log(0.07), np.log(2.5)))),
        defocus_um=float(rng.uniform(1.5, 6.0)),
        phase_flipped=bool(rng.random() < 0.5),
        amplitude_contrast=float(rng.uniform(0.05, 0.2)),
        b_factor_angstrom2=float(rng.uniform(0, 1500)),
        # A full range now and then: volumes without a wedge (averages, filled-in tomograms) are met as well.
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
    """Make (or complete) a pool of `count` specimens of `edge`³ voxels; `done` is told how many exist."""
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
    staging = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    np.savez(
        staging,
        density=specimen.density.astype(np.float16),
        label=specimen.labels,
        facts=json.dumps({"voxel_spacing_angstrom": settings.voxel_spacing_angstrom}),
    )
    staging.replace(path)


def load_specimen(path: Path) -> tuple[NDArray[np.float16], NDArray[np.uint8], float]:
    """Returns density, label and voxel spacing (Å) of a pooled specimen."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["density"], stored["label"], _spacing(stored)


def voxel_spacing(path: Path) -> float:
    """Of a pooled specimen, in Å, without reading its voxels."""
    with np.load(path, allow_pickle=False) as stored:
        return _spacing(stored)


def _spacing(stored: Mapping[str, NDArray[Any]]) -> float:
    return float(json.loads(str(stored["facts"]))["voxel_spacing_angstrom"])


def draw_patch(
    specimen: tuple[NDArray[np.float16], NDArray[np.uint8], float],
    window: int,
    augmentations: Augmentations,
    rng: np.random.Generator,
) -> Patch:
    """A random crop of a specimen, turned, imaged at random and augmented.

    augmentations : of its grey values alone; turns come before the imaging.
    """
    crop, truth, spacing = _crop(specimen, window, rng)
    oddity = _oddity(window, rng)
    around = MARGIN + EMPTY_MARGIN
    seen = (slice(around, around + window),) * 3
    padded = np.pad(crop.astype(np.float32), EMPTY_MARGIN)
    imaging = random_imaging(rng)
    image = image_density(padded, spacing, imaging, int(rng.integers(2**31)), measured=seen)
    changed = augmentations.change(oddity.sign * image[seen], rng)
    changed[oddity.outside] = 0
    return Patch(changed, oddity.label(truth))


@dataclass(frozen=True)
class Oddity:
    """What some patches are, and all are that a network must not be fooled by.

    sign : -1 where dense is bright: then there are no (dark) membranes, and nothing is to be found.
    outside : beyond the volume, where windows are filled up with zeros.
    """

    sign: int
    outside: tuple[slice, ...]

    def label(self, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
        made = truth.copy() if self.sign > 0 else np.zeros_like(truth)
        made[self.outside] = 0
        return made


def _oddity(window: int, rng: np.random.Generator) -> Oddity:
    sign = -1 if rng.random() < _INVERTED else 1
    outside = [slice(0, 0)] * 3
    if rng.random() < _AT_BORDER:
        count, last = int(rng.integers(1, window // 2 + 1)), rng.random() < 0.5
        outside = [slice(None)] * 3
        outside[int(rng.integers(3))] = slice(window - count, None) if last else slice(count)
    return Oddity(sign, tuple(outside))


def _crop(
    specimen: tuple[NDArray[np.float16], NDArray[np.uint8], float], window: int, rng: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.uint8], float]:
    """A random piece, turned and mirrored: the density with its margin, the label without, the voxel spacing."""
    density, label, spacing = specimen
    edge = window + 2 * MARGIN
    corner = [int(rng.integers(0, n - edge + 1)) for n in density.shape]
    cut = tuple(slice(a, a + edge) for a in corner)
    axes = tuple(int(a) for a in rng.permutation(3))
    flips = tuple(a for a in range(3) if rng.random() < 0.5)
    crop = np.ascontiguousarray(np.flip(density[cut].transpose(axes), flips))
    truth = np.flip(label[cut].transpose(axes), flips)[(slice(MARGIN, -MARGIN),) * 3]
    return crop, np.ascontiguousarray(truth), spacing


@dataclass(frozen=True)
class SpecimenPatches:
    """Patches of a pool's specimens, each imaged anew: a `PatchSource`."""

    paths: tuple[Path, ...]
    window: int
    augmentations: Augmentations

    @property
    def volumes(self) -> int:
        return len(self.paths)

    @property
    def identity(self) -> str:
        return "\n".join([f"{self.window} {self.augmentations}", *(path.name for path in self.paths)])

    def patch(self, seed: int, n: int) -> Patch:
        specimen, rng = self._specimen(seed, n)
        return draw_patch(specimen, self.window, self.augmentations, rng)

    def unimaged(self, seed: int, n: int) -> Piece:
        """What a device needs to image patch number n; it differs from `patch` in the noise and the changes drawn."""
        specimen, rng = self._specimen(seed, n)
        crop, truth, spacing = _crop(specimen, self.window, rng)
        oddity = _oddity(self.window, rng)
        conditions = Conditions(spacing, random_imaging(rng), oddity.sign, oddity.outside, int(rng.integers(2**31)))
        return crop, oddity.label(truth), conditions

    def imaged(self, pieces: Pieces, device: torch.device, batch: int) -> tuple[Tensor, Tensor]:
        """Images and labels (B, 1, w, w, w) on the device; `batch` of them at a time draw their noise."""
        return imaged(pieces, self.augmentations, device, margin=MARGIN, empty=EMPTY_MARGIN, batch=batch)

    def _specimen(
        self, seed: int, n: int
    ) -> tuple[tuple[NDArray[np.float16], NDArray[np.uint8], float], np.random.Generator]:
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
