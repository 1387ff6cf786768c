"""Where training patches come from: anything that makes patch number n, and volumes with labels as one such source.

Patch number n is a function of a seed and of n alone. So it does not matter which process makes it, nor whether the
ones before it were made by the same process: a training that was stopped goes on with what it would have seen.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import InputError, TomogramError
from membrain_cloud.training.labels import IGNORE, MEMBRANE

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.training.augmentation.policy import Augmentations

# Patches are placed by cubes of this edge (voxels) that hold something known.
CELL = 16
_VERSION = 1

Read = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Patch:
    """image : (w, w, w) float32, mean 0, variance 1 but for augmentation.  label : (w, w, w) uint8, 0, 1 or 2."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]


class PatchSource(Protocol):
    """Pickled once for each process that prepares patches."""

    @property
    def volumes(self) -> int:
        """How many patches make one pass over what there is."""

    @property
    def identity(self) -> str:
        """Changes when the data or how patches are made of them change."""

    def patch(self, seed: int, n: int) -> Patch:
        """Patch number n of the sequence that `seed` stands for."""


class Planes(NamedTuple):
    """A volume with labels that can be read a few planes at a time: (first plane, last plane + 1) -> those planes.

    shape : zyx.  label : 0, 1 or 2.  voxel_spacing_angstrom : None where nobody knows.
    """

    shape: Zyx
    image: Read
    label: Read
    voxel_spacing_angstrom: float | None


@dataclass(frozen=True)
class LabelledVolume:
    """A volume with labels, prepared on disk: its known part, the image of mean 0 and variance 1 in half precision."""

    name: str
    folder: Path
    identity: str
    membrane_voxels: int
    voxel_spacing_angstrom: float | None

    def image(self) -> NDArray[np.float16]:
        """(Z, Y, X), mapped from its file."""
        return _mapped(str(self.folder / "image.npy"), self.identity)

    def label(self) -> NDArray[np.uint8]:
        """(Z, Y, X), mapped from its file."""
        return _mapped(str(self.folder / "label.npy"), self.identity)

    def cells(self) -> NDArray[np.int32]:
        """(N, 4): zyx of the cells of `CELL`^3 voxels that hold anything known, and whether they hold membrane."""
        return _mapped(str(self.folder / "cells.npy"), self.identity)


@functools.lru_cache(maxsize=512)
def _mapped(path: str, identity: str) -> NDArray[Any]:
    """Identity : of what is in the file, so that what has been replaced is not taken for it."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


@dataclass(frozen=True)
class VolumePatches:
    """Patches of labelled volumes: each pass takes one of each, in a new order.

    foreground : the share of patches placed on purpose where there is membrane; the others lie anywhere known.
    """

    labelled: tuple[LabelledVolume, ...]
    window: int
    augmentations: Augmentations
    foreground: float = 0.33

    @property
    def volumes(self) -> int:
        return len(self.labelled)

    @property
    def identity(self) -> str:
        made = f"{self.window} {self.augmentations} {self.foreground}"
        return "\n".join([made, *(f"{volume.name} {volume.identity}" for volume in self.labelled)])

    def patch(self, seed: int, n: int) -> Patch:
        order = np.random.default_rng((seed, n // self.volumes, 1)).permutation(self.volumes)
        volume = self.labelled[int(order[n % self.volumes])]
        rng = np.random.default_rng((seed, n))
        label = volume.label()
        middle = _middle(volume.cells(), label.shape, self.window, self.foreground, rng)
        image, truth = self.augmentations.cut(volume.image(), label, middle, self.window, rng)  # type: ignore[arg-type]
        return Patch(self.augmentations.change(image, rng), truth)


def _middle(
    cells: NDArray[np.int32], shape: tuple[int, ...], window: int, foreground: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Of a patch that holds a voxel of some cell, inside the volume where it is long enough, else around its middle."""
    wanted = cells[cells[:, 3] == 1] if rng.random() < foreground else cells
    cell = (wanted if len(wanted) else cells)[int(rng.integers(len(wanted) or len(cells)))]
    voxel = cell[:3] * CELL + rng.integers(0, CELL, 3)
    middle = voxel + rng.uniform(-0.4, 0.4, 3) * window
    half, last = (window - 1) / 2, np.array(shape) - 1
    return np.where(last < 2 * half, last / 2, np.clip(middle, half, np.maximum(last - half, half)))


def prepare(folder: Path, name: str, identity: str, opened: Callable[[], Planes], *, margin: int) -> LabelledVolume:
    """Check a volume with labels and write its known part below `folder`, or take what is there already.

    identity : of image and labels; where it is that of what is there, nothing is opened.
    margin : voxels of image kept around what is known.

    Raises TomogramError for a constant image or one with values that are not finite, InputError for labels of other
    values or that are all ignore.
    """
    target, facts = folder / name, folder / name / "facts.json"
    identity = f"{_VERSION} {margin} {identity}"
    if facts.exists() and (stored := json.loads(facts.read_text(encoding="utf-8")))["identity"] == identity:
        return LabelledVolume(name, target, **stored)
    planes = opened()
    cells, membrane = _cells(name, planes)
    scale = _statistics(name, planes)
    shutil.rmtree(target, ignore_errors=True)  # not written over: somebody may have the old files mapped
    target.mkdir(parents=True)
    first = np.maximum(cells[:, :3].min(axis=0) * CELL - margin, 0) // CELL * CELL  # cells keep their borders
    last = np.minimum((cells[:, :3].max(axis=0) + 1) * CELL + margin, planes.shape)
    _write(target, planes, scale, first, last)
    cells[:, :3] -= (first // CELL).astype(np.int32)
    np.save(target / "cells.npy", cells)
    found: dict[str, Any] = {
        "identity": identity,
        "membrane_voxels": membrane,
        "voxel_spacing_angstrom": planes.voxel_spacing_angstrom,
    }
    staging = facts.with_suffix(f".{os.getpid()}.tmp")
    staging.write_text(json.dumps(found), encoding="utf-8")
    staging.replace(facts)
    return LabelledVolume(name, target, **found)


def _write(
    target: Path,
    planes: Planes,
    scale: tuple[np.float32, np.float32],
    first: NDArray[np.integer],
    last: NDArray[np.integer],
) -> None:
    shape = tuple(int(n) for n in last - first)
    image = np.lib.format.open_memmap(target / "image.npy", "w+", np.float16, shape)
    label = np.lib.format.open_memmap(target / "label.npy", "w+", np.uint8, shape)
    rows, columns = (slice(int(a), int(b)) for a, b in zip(first[1:], last[1:], strict=True))
    mean, deviation = scale
    for z in range(0, shape[0], CELL):
        some = int(first[0]) + z, int(first[0]) + min(z + CELL, shape[0])
        part = (planes.image(*some)[:, rows, columns].astype(np.float32) - mean) / deviation
        image[z : z + CELL] = np.clip(part, -6e4, 6e4)
        label[z : z + CELL] = planes.label(*some)[:, rows, columns]
    image.flush()
    label.flush()


def require_membrane(volumes: Sequence[LabelledVolume]) -> None:
    """InputError where not one voxel of all of them is membrane."""
    if not sum(volume.membrane_voxels for volume in volumes):
        names = ", ".join(volume.name for volume in volumes[:3]) + (" ..." if len(volumes) > 3 else "")
        raise InputError(f"no voxel is labelled membrane in {names}", "labels are 0 background, 1 membrane, 2 ignore")


def _cells(name: str, volume: Planes) -> tuple[NDArray[np.int32], int]:
    found, membrane = [], 0
    depth, padding = volume.shape[0], [(0, -n % CELL) for n in volume.shape[1:]]
    for z in range(0, depth, CELL):
        planes = volume.label(z, min(z + CELL, depth))
        if planes.size and (planes.min() < 0 or planes.max() > IGNORE or planes.dtype.kind not in "bu"):
            strange = np.setdiff1d(np.unique(planes), [0, MEMBRANE, IGNORE])
            if strange.size:
                raise InputError(
                    f"{name}: labels hold the value {strange[0]:g}", "labels are 0 background, 1 membrane, 2 ignore"
                )
        membrane += int(np.count_nonzero(planes == MEMBRANE))
        known = _any_in_cells(planes != IGNORE, padding)
        holds = _any_in_cells(planes == MEMBRANE, padding)
        for y, x in np.argwhere(known):
            found.append((z // CELL, int(y), int(x), int(holds[y, x])))
    if not found:
        raise InputError(
            f"{name}: every voxel is labelled ignore", "mark some background and membrane, or leave it out"
        )
    return np.array(found, np.int32), membrane


def _any_in_cells(mask: NDArray[np.bool_], padding: list[tuple[int, int]]) -> NDArray[np.bool_]:
    flat = np.pad(mask.any(axis=0), padding)
    rows, columns = flat.shape
    return np.asarray(flat.reshape(rows // CELL, CELL, columns // CELL, CELL).any(axis=(1, 3)))


def _statistics(name: str, volume: Planes) -> tuple[np.float32, np.float32]:
    """Mean and standard deviation of a volume, a few planes at a time."""
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
        raise TomogramError(f"{name}: the image is constant", "give the tomogram the labels were made on")
    return np.float32(mean), np.float32(deviation)
