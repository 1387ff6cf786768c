"""Training patches of labelled volumes, and the protocol of all sources of patches.

Patch number n depends on a seed and on n alone. It therefore does not matter which process makes it, nor whether it
made the ones before: a resumed training sees the patches that it would have seen.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import InputError, TomogramError
from membrain_cloud.training.labels import IGNORE, MEMBRANE

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.training.augmentation.policy import Augmentations

# Patches are placed at cubes of this edge length (voxels) that hold voxels which are not ignored.
CELL = 16
_VERSION = 1
# Largest magnitude of a normalised image, which is stored in half precision.
_LARGEST = 6e4

ReadPlanes = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class LabelledPatch:
    """One training patch.

    Attributes
    ----------
    image : ndarray of shape (w, w, w), float32
        Mean 0 and variance 1 before augmentation.
    label : ndarray of shape (w, w, w), uint8
        0 background, 1 membrane, 2 ignore.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]


class PatchSource(Protocol):
    """A source of training patches. It is pickled once for each process that prepares patches."""

    @property
    def volumes(self) -> int:
        """Return the number of patches in one pass over the data."""

    @property
    def identity(self) -> str:
        """Return a text that changes with the data and with the way in which patches are made."""

    def patch(self, seed: int, n: int) -> LabelledPatch:
        """Return a patch.

        Parameters
        ----------
        seed : int
            Seed of the sequence of patches.
        n : int
            Number of the patch in the sequence, from 0.

        Returns
        -------
        patch : LabelledPatch
            A function of `seed` and `n` alone.
        """


class PlanewiseVolume(NamedTuple):
    """A labelled volume that is read a few planes at a time.

    Attributes
    ----------
    shape : tuple of int
        Shape (z, y, x).
    image : callable
        Takes the first plane and the last plane + 1, and returns these planes (n, Y, X) of the density.
    label : callable
        The same for the labels: 0 background, 1 membrane, 2 ignore.
    voxel_spacing_angstrom : float or None
        In Å; None if unknown.
    """

    shape: Zyx
    image: ReadPlanes
    label: ReadPlanes
    voxel_spacing_angstrom: float | None


@dataclass(frozen=True)
class LabelledVolume:
    """A labelled volume prepared on disk, cropped to the part that is not ignored.

    Attributes
    ----------
    name : str
        Name of the volume, and of its folder.
    folder : Path
        Folder of `image.npy`, `label.npy`, `cells.npy` and `facts.json`.
    identity : str
        Identity of image and labels, and of how they were prepared.
    membrane_voxels : int
        Number of voxels labelled membrane.
    voxel_spacing_angstrom : float or None
        In Å; None if unknown.
    """

    name: str
    folder: Path
    identity: str
    membrane_voxels: int
    voxel_spacing_angstrom: float | None

    def image(self) -> NDArray[np.float16]:
        """Return the density (Z, Y, X), float16, mapped from its file: mean 0, variance 1 over the whole tomogram."""
        return _mapped(str(self.folder / "image.npy"), self.identity)

    def label(self) -> NDArray[np.uint8]:
        """Return the labels (Z, Y, X), uint8, mapped from their file."""
        return _mapped(str(self.folder / "label.npy"), self.identity)

    def cells(self) -> NDArray[np.int32]:
        """Return the cells (N, 4), int32, that are not ignored: z, y, x in cells, and 1 if there is membrane."""
        return _mapped(str(self.folder / "cells.npy"), self.identity)


@functools.lru_cache(maxsize=512)
def _mapped(path: str, identity: str) -> NDArray[Any]:
    """Map an array from its file; `identity` keeps the cache from returning a file that was replaced."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


@dataclass(frozen=True)
class VolumePatches:
    """Patches of labelled volumes. Each pass takes one patch of each volume, in a new order.

    Attributes
    ----------
    labelled : tuple of LabelledVolume
        The volumes.
    window : int
        Edge length of the patches, in voxels.
    augmentations : Augmentations
        Random changes to the patches.
    foreground : float
        Fraction of the patches that are placed at membrane; the others are placed at any voxel that is not ignored.
    """

    labelled: tuple[LabelledVolume, ...]
    window: int
    augmentations: Augmentations
    foreground: float = 0.33

    @property
    def volumes(self) -> int:
        """Return the number of volumes."""
        return len(self.labelled)

    @property
    def identity(self) -> str:
        """Return a text that changes with the volumes, the augmentations, and the placement of patches."""
        settings = f"{self.window} {self.augmentations} {self.foreground}"
        return "\n".join([settings, *(f"{volume.name} {volume.identity}" for volume in self.labelled)])

    def patch(self, seed: int, n: int) -> LabelledPatch:
        """Return a patch.

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
        order = np.random.default_rng((seed, n // self.volumes, 1)).permutation(self.volumes)
        volume = self.labelled[int(order[n % self.volumes])]
        rng = np.random.default_rng((seed, n))
        label = volume.label()
        center = _draw_center(volume.cells(), label.shape, self.window, self.foreground, rng)
        image, truth = self.augmentations.cut_patch(volume.image(), label, center, self.window, rng)
        return LabelledPatch(self.augmentations.augment_intensity(image, rng), truth)


def _draw_center(
    cells: NDArray[np.int32], shape: tuple[int, ...], window: int, foreground: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the centre of a patch that holds a voxel of some cell.

    The patch lies inside the volume along axes that are long enough; along others it is centred on the volume.
    """
    preferred = cells[cells[:, 3] == 1] if rng.random() < foreground else cells
    cell = (preferred if len(preferred) else cells)[int(rng.integers(len(preferred) or len(cells)))]
    voxel = cell[:3] * CELL + rng.integers(0, CELL, 3)
    center = voxel + rng.uniform(-0.4, 0.4, 3) * window
    half, last = (window - 1) / 2, np.array(shape) - 1
    return np.where(last < 2 * half, last / 2, np.clip(center, half, np.maximum(last - half, half)))


def prepare_volume(
    folder: Path, name: str, identity: str, open_volume: Callable[[], PlanewiseVolume], *, margin: int
) -> LabelledVolume:
    """Check a labelled volume and write its known part to disk, unless it was prepared before.

    Parameters
    ----------
    folder : Path
        Folder of all prepared volumes.
    name : str
        Name of the volume.
    identity : str
        Identity of image and labels. If it equals that of the prepared files, these are returned.
    open_volume : callable
        Opens the volume; called only if it has to be prepared.
    margin : int
        Voxels of the image kept around the part that is not ignored.

    Returns
    -------
    volume : LabelledVolume
        The prepared volume.

    Raises
    ------
    TomogramError
        If the image is constant or holds values that are not finite.
    InputError
        If labels hold other values, or ignore every voxel.
    """
    target, facts = folder / name, folder / name / "facts.json"
    identity = f"{_VERSION} {margin} {identity}"
    if facts.exists() and (stored := json.loads(facts.read_text(encoding="utf-8")))["identity"] == identity:
        return LabelledVolume(name, target, **stored)
    volume = open_volume()
    cells, membrane = _find_cells(name, volume)
    scale = _mean_and_deviation(name, volume)
    shutil.rmtree(target, ignore_errors=True)  # not overwritten: another process may have the old files mapped
    target.mkdir(parents=True)
    first = np.maximum(cells[:, :3].min(axis=0) * CELL - margin, 0) // CELL * CELL  # at the border of a cell
    last = np.minimum((cells[:, :3].max(axis=0) + 1) * CELL + margin, volume.shape)
    _write_arrays(target, volume, scale, first, last)
    cells[:, :3] -= (first // CELL).astype(np.int32)
    np.save(target / "cells.npy", cells)
    content: dict[str, Any] = {
        "identity": identity,
        "membrane_voxels": membrane,
        "voxel_spacing_angstrom": volume.voxel_spacing_angstrom,
    }
    replace_atomically(facts, lambda path: path.write_text(json.dumps(content), encoding="utf-8"))
    return LabelledVolume(name, target, **content)


def _write_arrays(
    target: Path,
    volume: PlanewiseVolume,
    scale: tuple[np.float32, np.float32],
    first: NDArray[np.integer[Any]],
    last: NDArray[np.integer[Any]],
) -> None:
    """Write the normalised image and the labels of the box from `first` to `last`, some planes at a time."""
    shape = tuple(int(n) for n in last - first)
    image = np.lib.format.open_memmap(target / "image.npy", "w+", np.float16, shape)
    label = np.lib.format.open_memmap(target / "label.npy", "w+", np.uint8, shape)
    rows, columns = (slice(int(a), int(b)) for a, b in zip(first[1:], last[1:], strict=True))
    mean, deviation = scale
    for z in range(0, shape[0], CELL):
        planes = int(first[0]) + z, int(first[0]) + min(z + CELL, shape[0])
        part = (volume.image(*planes)[:, rows, columns].astype(np.float32) - mean) / deviation
        image[z : z + CELL] = np.clip(part, -_LARGEST, _LARGEST)
        label[z : z + CELL] = volume.label(*planes)[:, rows, columns]
    image.flush()
    label.flush()


def require_membrane(volumes: Sequence[LabelledVolume]) -> None:
    """Check that at least one volume has a voxel labelled membrane.

    Parameters
    ----------
    volumes : sequence of LabelledVolume
        Prepared volumes.

    Raises
    ------
    InputError
        If none has.
    """
    if not sum(volume.membrane_voxels for volume in volumes):
        names = ", ".join(volume.name for volume in volumes[:3]) + (" ..." if len(volumes) > 3 else "")
        raise InputError(f"no voxel is labelled membrane in {names}", "labels are 0 background, 1 membrane, 2 ignore")


def _find_cells(name: str, volume: PlanewiseVolume) -> tuple[NDArray[np.int32], int]:
    """Return the cells (N, 4) that are not ignored, with 1 for membrane last, and the number of membrane voxels."""
    cells, membrane = [], 0
    depth, padding = volume.shape[0], [(0, -n % CELL) for n in volume.shape[1:]]
    for z in range(0, depth, CELL):
        planes = volume.label(z, min(z + CELL, depth))
        if planes.size and (planes.min() < 0 or planes.max() > IGNORE or planes.dtype.kind not in "bu"):
            unknown = np.setdiff1d(np.unique(planes), [0, MEMBRANE, IGNORE])
            if unknown.size:
                raise InputError(
                    f"{name}: labels hold the value {unknown[0]:g}", "labels are 0 background, 1 membrane, 2 ignore"
                )
        membrane += int(np.count_nonzero(planes == MEMBRANE))
        labelled = _any_in_cells(planes != IGNORE, padding)
        with_membrane = _any_in_cells(planes == MEMBRANE, padding)
        for y, x in np.argwhere(labelled):
            cells.append((z // CELL, int(y), int(x), int(with_membrane[y, x])))
    if not cells:
        raise InputError(
            f"{name}: every voxel is labelled ignore", "mark some background and membrane, or leave it out"
        )
    return np.array(cells, np.int32), membrane


def _any_in_cells(mask: NDArray[np.bool_], padding: list[tuple[int, int]]) -> NDArray[np.bool_]:
    flat = np.pad(mask.any(axis=0), padding)
    rows, columns = flat.shape
    return np.asarray(flat.reshape(rows // CELL, CELL, columns // CELL, CELL).any(axis=(1, 3)))


def _mean_and_deviation(name: str, volume: PlanewiseVolume) -> tuple[np.float32, np.float32]:
    """Return mean and standard deviation of a volume, read a few planes at a time."""
    count, mean, squares = 0, 0.0, 0.0
    for z in range(0, volume.shape[0], CELL):
        planes = volume.image(z, min(z + CELL, volume.shape[0])).astype(np.float64)
        if not np.isfinite(planes).all():
            raise TomogramError(
                f"{name}: the image holds values that are not finite", "remove NaN and infinity from it"
            )
        change = planes.mean() - mean
        total = count + planes.size
        squares += float(((planes - planes.mean()) ** 2).sum()) + change**2 * count * planes.size / total
        mean, count = mean + change * planes.size / total, total
    deviation = np.sqrt(squares / max(count, 1))
    if not deviation > 1e-7 * max(abs(mean), 1e-30):
        raise TomogramError(f"{name}: the image is constant", "give the tomogram that the labels were made on")
    return np.float32(mean), np.float32(deviation)
