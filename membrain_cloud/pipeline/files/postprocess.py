"""What is made of stored scores and masks, without a network: masks, components, skeletons, uncertainty maps.

Volumes of any size: they are read and written some planes or blocks at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.image.connected_components import SLAB_VOXELS, find_components
from membrain_cloud.image.skeleton import skeleton_blocks, skeletonize_box
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.uncertainty import HALO, uncertainty_planes
from membrain_cloud.store.formats.volume_reader import VolumeFile, file_stem, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, check_output

Read = Callable[[Box], NDArray[Any]]
# So many voxels are worked on at once, in whole planes; about ten bytes each.
_PLANES_VOXELS = 2**24
_SUFFIXES = ("_scores", "_segmented", "_uncertainty_map", "_skel", "_components")


@dataclass(frozen=True)
class Frame:
    """What all volumes made of one file share: the grid, and where the header puts it."""

    shape: Zyx
    voxel_spacing_angstrom: float
    origin_angstrom: tuple[float, float, float]

    def writer(self, path: str, dtype: str, *, overwrite: bool) -> VolumeFileWriter:
        return VolumeFileWriter(
            path,
            self.shape,
            self.voxel_spacing_angstrom,
            dtype,
            origin_angstrom=self.origin_angstrom,
            labels=dtype != "float32",
            overwrite=overwrite,
        )


@dataclass(frozen=True)
class Derived:
    """What was written of one file. `notes` say what was assumed about it; `count` is what was asked for in it:
    membrane voxels of each mask, components, or voxels of the skeleton.
    """

    file: str
    outputs: tuple[str, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...]


def frame_of(volume: VolumeFile, voxel_spacing_angstrom: float | None) -> Frame:
    """`voxel_spacing_angstrom` goes before the file's own; raises as `VolumeFile.spacing_angstrom`."""
    return Frame(volume.shape, volume.spacing_angstrom(voxel_spacing_angstrom), volume.origin_angstrom)


def notes_of(volume: VolumeFile) -> tuple[str, ...]:
    """What was assumed of the file; its origin is kept in what is made of it, so that one is left out."""
    return tuple(note for note in volume.notes if not note.startswith("MRC header: origin"))


def stem_of(path: str) -> str:
    """The file's name without folder and endings, as outputs begin with it."""
    return file_stem(path)


def require_own_names(files: Sequence[str]) -> None:
    """UsageError for two files whose outputs would have one name; one of no known kind has none, and fails alone."""
    seen: dict[str, str] = {}
    for file in files:
        other = file
        with contextlib.suppress(TomogramError):
            other = seen.setdefault(stem_of(file), file)
        if other != file:
            raise UsageError(
                f"{other} and {file}: their outputs would have the same names",
                "give them one by one, each with an --output of its own",
            )


def is_output(path: str) -> bool:
    """Whether a file's name is one of those that are written here: a pattern does not mean these."""
    stem = os.path.basename(path).split(".mrc")[0]
    return stem.endswith(_SUFFIXES) or "_threshold_" in stem


def planes(shape: Zyx, voxels: int = _PLANES_VOXELS) -> Iterator[Box]:
    """Boxes of whole planes of about so many voxels, from the first plane to the last."""
    depth = max(1, voxels // max(1, math.prod(shape[1:])))
    return iterate_chunks(shape, (depth, shape[1], shape[2]))


def threshold_file(
    path: str, thresholds: Sequence[float], *, output: str, voxel_spacing_angstrom: float | None, overwrite: bool
) -> Derived:
    """Masks (0 and 1) of where stored scores are above thresholds: `<stem>_threshold_<T>.mrc` each.

    Raises TomogramError where the file holds no scores.
    """
    if not thresholds:
        raise UsageError("there is no threshold", "give --threshold 0.5; repeat it for several")
    if not all(map(math.isfinite, thresholds)):
        raise UsageError("a threshold is no finite number", "give e.g. --threshold 0.5")
    names = [os.path.join(output, f"{stem_of(path)}_threshold_{float(t)}.mrc") for t in dict.fromkeys(thresholds)]
    _check(names, overwrite)
    with open_volume_file(path) as scores:
        frame = frame_of(scores, voxel_spacing_angstrom)
        if scores.dtype.kind != "f":
            raise TomogramError(
                f"{path}: values of type {scores.dtype} are no scores", "give a <stem>_scores.mrc that segment wrote"
            )
        counts = []
        for name, threshold in zip(names, dict.fromkeys(thresholds), strict=True):

            def above(box: Box, threshold: float = threshold) -> NDArray[np.bool_]:
                return scores_above(scores.read(box), threshold)

            counts.append(write_mask(frame, name, above, overwrite=overwrite))
        return Derived(path, tuple(names), tuple(counts), notes_of(scores))


def components_file(
    path: str, *, min_voxels: int, output: str, voxel_spacing_angstrom: float | None, overwrite: bool
) -> Derived:
    """The 26-connected components of a mask with at least `min_voxels`, as 1..N: `<stem>_components.mrc`."""
    name = os.path.join(output, f"{stem_of(path)}_components.mrc")
    _check([name], overwrite)
    with open_volume_file(path) as mask:
        frame = frame_of(mask, voxel_spacing_angstrom)
        count = write_components(frame, name, mask.read, min_voxels=min_voxels, overwrite=overwrite)
        return Derived(path, (name,), (count,), notes_of(mask))


def skeletonize_file(path: str, *, output: str, voxel_spacing_angstrom: float | None, overwrite: bool) -> Derived:
    """The centred sheets of a mask (nonzero is membrane): `<stem>_skel.mrc`."""
    name = os.path.join(output, f"{stem_of(path)}_skel.mrc")
    _check([name], overwrite)
    with open_volume_file(path) as mask:
        frame = frame_of(mask, voxel_spacing_angstrom)
        return Derived(path, (name,), (write_skeleton(frame, name, mask.read, overwrite=overwrite),), notes_of(mask))


def write_mask(frame: Frame, path: str, read: Read, *, overwrite: bool) -> int:
    """A file of 0 and 1; returns how many voxels are 1."""
    count = 0
    with frame.writer(path, "int8", overwrite=overwrite) as writer:
        for box in planes(frame.shape):
            mask = read(box) != 0
            writer.write(box, mask.astype(np.int8))
            count += int(np.count_nonzero(mask))
    return count


def write_components(frame: Frame, path: str, read: Read, *, min_voxels: int, overwrite: bool) -> int:
    """A file of component numbers, in the smallest type that MRC has for them; returns how many there are."""
    found = find_components(read, frame.shape, min_voxels=min_voxels, slab_voxels=SLAB_VOXELS)
    fitting = [dtype for dtype in ("int8", "int16", "uint16") if found.count <= np.iinfo(dtype).max]
    dtype = fitting[0] if fitting else "float32"  # exact up to 16 million
    with frame.writer(path, dtype, overwrite=overwrite) as writer:
        for index, slab in enumerate(found.slabs):
            writer.write(slab, found.labels(index, read(slab)).astype(dtype))
    return found.count


def write_skeleton(frame: Frame, path: str, read: Read, *, overwrite: bool) -> int:
    """A file of 0 and 1; returns the voxels of the skeleton."""
    count = 0
    with frame.writer(path, "int8", overwrite=overwrite) as writer:
        for box in skeleton_blocks(frame.shape):
            thin = skeletonize_box(read, frame.shape, box)
            writer.write(box, thin.astype(np.int8))
            count += int(np.count_nonzero(thin))
    return count


def write_uncertainty(frame: Frame, path: str, read_variance: Read, read_mask: Read, *, overwrite: bool) -> None:
    """A file of the uncertainty that `membranes.uncertainty` describes."""
    with frame.writer(path, "float32", overwrite=overwrite) as writer:
        for box in planes(frame.shape):
            low, high = max(0, box.start[0] - HALO), min(frame.shape[0], box.stop[0] + HALO)
            around = Box((low, 0, 0), (high, *frame.shape[1:]))
            first, last = box.start[0] - low, box.stop[0] - low
            writer.write(box, uncertainty_planes(read_variance(around), read_mask(around), first, last))


def _check(names: Sequence[str], overwrite: bool) -> None:
    """Before anything is read or computed."""
    for name in names:
        check_output(name, overwrite=overwrite)
