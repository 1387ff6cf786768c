"""Volumes that are made of stored scores and masks without a network: masks, components, skeletons, uncertainty maps.

Volumes may be of any size: they are read and written some planes or blocks at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.image.connected_components import SLAB_VOXELS, find_components
from membrain_cloud.image.skeleton import skeleton_blocks, skeletonize_box
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.uncertainty import HALO, uncertainty_planes
from membrain_cloud.store.formats.label_volume import check_labels
from membrain_cloud.store.formats.volume_reader import VolumeFile, file_stem, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, check_output

Read = Callable[[Box], NDArray[Any]]
# Voxels that are worked on at once, in whole planes; about ten bytes each.
_PLANES_VOXELS = 2**24
_SUFFIXES = ("_scores", "_segmented", "_uncertainty_map", "_skel", "_components")


@dataclass(frozen=True)
class Frame:
    """What all volumes that are made of one file share.

    Attributes
    ----------
    shape : tuple of int
        Voxels along z, y, x.
    voxel_spacing_angstrom : float
        Å.
    origin_angstrom : tuple of float
        Of the header, xyz in Å.
    """

    shape: Zyx
    voxel_spacing_angstrom: float
    origin_angstrom: tuple[float, float, float]

    def writer(self, path: str, dtype: str, *, overwrite: bool) -> VolumeFileWriter:
        """Return a writer of a volume of this frame.

        Parameters
        ----------
        path : str
            The file to write.
        dtype : str
            float32 for densities and scores, an integer type for labels.
        overwrite : bool
            Whether an existing file is replaced.

        Returns
        -------
        VolumeFileWriter

        Raises
        ------
        UsageError, StorageError
            As `VolumeFileWriter`.
        """
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
    """What was made of one file.

    Attributes
    ----------
    file : str
        The file.
    outputs : tuple of str
        The files written.
    counts : tuple of int
        For each output: membrane voxels of a mask, components, or voxels of a skeleton.
    notes : tuple of str
        What was assumed about the file, as sentences.
    """

    file: str
    outputs: tuple[str, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...]


def frame_of(volume: VolumeFile, voxel_spacing_angstrom: float | None) -> Frame:
    """Return the frame of what is made of a volume.

    Parameters
    ----------
    volume : VolumeFile
        The volume.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.

    Returns
    -------
    Frame

    Raises
    ------
    VoxelSpacingError
        If the voxel spacing is unknown or absurd.
    """
    return Frame(volume.shape, volume.spacing_angstrom(voxel_spacing_angstrom), volume.origin_angstrom)


def notes_of(volume: VolumeFile) -> tuple[str, ...]:
    """Return what was assumed about a file, without its origin, which the outputs keep.

    Parameters
    ----------
    volume : VolumeFile
        The file.
    """
    return tuple(note for note in volume.notes if not note.startswith("MRC header: origin"))


def require_own_names(files: Sequence[str]) -> None:
    """Check that no two files have outputs of one name.

    Parameters
    ----------
    files : sequence of str
        Volume files. One of an unknown kind is left out: it fails by itself.

    Raises
    ------
    UsageError
        If two files have the same stem.
    """
    files_by_stem: dict[str, str] = {}
    for file in files:
        other = file
        with contextlib.suppress(TomogramError):
            other = files_by_stem.setdefault(file_stem(file), file)
        if other != file:
            raise UsageError(
                f"{other} and {file}: their outputs would have the same names",
                "give them one by one, each with an output folder of its own",
            )


def is_output(path: str) -> bool:
    """Return whether a file's name is one of those that are written here; patterns leave these out.

    Parameters
    ----------
    path : str
        Path or name of the file.
    """
    stem = Path(path).name.partition(".mrc")[0]
    return stem.endswith(_SUFFIXES) or "_threshold_" in stem


def planes(shape: Zyx, voxels: int = _PLANES_VOXELS) -> Iterator[Box]:
    """Iterate over boxes of whole planes, from the first plane to the last.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the volume along z, y, x.
    voxels : int
        Voxels of a box at most, if a plane has no more. Default: 2^24.

    Yields
    ------
    Box
    """
    depth = max(1, voxels // max(1, math.prod(shape[1:])))
    return iterate_chunks(shape, (depth, shape[1], shape[2]))


def threshold_file(
    path: str, thresholds: Sequence[float], *, output: str, voxel_spacing_angstrom: float | None, overwrite: bool
) -> Derived:
    """Write masks (0 and 1) of where stored scores are above thresholds, each as `<stem>_threshold_<T>.mrc`.

    Parameters
    ----------
    path : str
        A file of scores.
    thresholds : sequence of float
        Logits, finite.
    output : str
        Folder of the masks.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    overwrite : bool
        Whether existing files are replaced.

    Returns
    -------
    Derived

    Raises
    ------
    UsageError
        If there is no threshold or one that is not finite, or a file exists and `overwrite` is False.
    TomogramError
        If the file holds no scores.
    VoxelSpacingError
        If the voxel spacing is unknown.
    StorageError
        If a mask cannot be written.
    """
    if not thresholds:
        raise UsageError("there is no threshold", "give at least one, e.g. 0.5")
    if not all(map(math.isfinite, thresholds)):
        raise UsageError("a threshold is no finite number", "give a number, e.g. 0.5")
    distinct = list(dict.fromkeys(thresholds))
    names = [output_path(output, path, f"_threshold_{float(threshold)}") for threshold in distinct]
    _check_outputs(names, overwrite)
    with open_volume_file(path) as scores:
        frame = frame_of(scores, voxel_spacing_angstrom)
        if scores.dtype.kind != "f":
            raise TomogramError(
                f"{path}: values of type {scores.dtype} are no scores", "give a <stem>_scores.mrc that segment wrote"
            )
        counts = []
        for name, threshold in zip(names, distinct, strict=True):

            def above(box: Box, threshold: float = threshold) -> NDArray[np.bool_]:
                return scores_above(scores.read(box), threshold)

            counts.append(write_mask(frame, name, above, overwrite=overwrite))
        return Derived(path, tuple(names), tuple(counts), notes_of(scores))


def components_file(
    path: str,
    *,
    min_voxels: int,
    output: str,
    voxel_spacing_angstrom: float | None,
    overwrite: bool,
    label_threshold: float | None = None,
) -> Derived:
    """Write the 26-connected components of a mask as 1..N into `<stem>_components.mrc`.

    Parameters
    ----------
    path : str
        A file of a mask: labels above 0 are membrane (`store.formats.label_volume`).
    min_voxels : int
        Smaller components are left out.
    output : str
        Folder of the output.
    voxel_spacing_angstrom, overwrite
        As in `threshold_file`.
    label_threshold : float, optional
        Values above it are membrane, for scores and masks that were resampled. Default: the values are labels.

    Returns
    -------
    Derived

    Raises
    ------
    UsageError, TomogramError, VoxelSpacingError, StorageError
        As `threshold_file`.
    """
    name = output_path(output, path, "_components")
    _check_outputs([name], overwrite)
    with open_volume_file(path) as mask:
        frame = frame_of(mask, voxel_spacing_angstrom)
        labels = check_labels(mask, threshold=label_threshold)
        count = write_components(frame, name, labels.read, min_voxels=min_voxels, overwrite=overwrite)
        return Derived(path, (name,), (count,), (*notes_of(mask), *labels.notes))


def skeletonize_file(
    path: str,
    *,
    output: str,
    voxel_spacing_angstrom: float | None,
    overwrite: bool,
    label_threshold: float | None = None,
) -> Derived:
    """Write the skeleton of a mask, its centred sheets, into `<stem>_skel.mrc`.

    Parameters
    ----------
    path, output, voxel_spacing_angstrom, overwrite, label_threshold
        As in `components_file`.

    Returns
    -------
    Derived

    Raises
    ------
    UsageError, TomogramError, VoxelSpacingError, StorageError
        As `threshold_file`.
    """
    name = output_path(output, path, "_skel")
    _check_outputs([name], overwrite)
    with open_volume_file(path) as mask:
        frame = frame_of(mask, voxel_spacing_angstrom)
        labels = check_labels(mask, threshold=label_threshold)
        count = write_skeleton(frame, name, labels.read, overwrite=overwrite)
        return Derived(path, (name,), (count,), (*notes_of(mask), *labels.notes))


def write_mask(frame: Frame, path: str, read: Read, *, overwrite: bool) -> int:
    """Write a mask as 0 and 1 (int8).

    Parameters
    ----------
    frame : Frame
        Grid and origin.
    path : str
        The file to write.
    read : callable
        Returns the values (Z, Y, X) of a box; those that are not 0 are membrane.
    overwrite : bool
        Whether an existing file is replaced.

    Returns
    -------
    int
        Voxels that are 1.
    """
    count = 0
    with frame.writer(path, "int8", overwrite=overwrite) as writer:
        for box in planes(frame.shape):
            mask = read(box) != 0
            writer.write(box, mask.astype(np.int8))
            count += int(np.count_nonzero(mask))
    return count


def write_components(frame: Frame, path: str, read: Read, *, min_voxels: int, overwrite: bool) -> int:
    """Write component numbers, in the smallest type of MRC that holds them.

    Parameters
    ----------
    frame, path, read, overwrite
        As in `write_mask`.
    min_voxels : int
        Smaller components are left out.

    Returns
    -------
    int
        Number of components.
    """
    components = find_components(read, frame.shape, min_voxels=min_voxels, slab_voxels=SLAB_VOXELS)
    fitting = [dtype for dtype in ("int8", "int16", "uint16") if components.count <= np.iinfo(dtype).max]
    dtype = fitting[0] if fitting else "float32"  # exact up to 16 million
    with frame.writer(path, dtype, overwrite=overwrite) as writer:
        for index, slab in enumerate(components.slabs):
            writer.write(slab, components.labels(index, read(slab)).astype(dtype))
    return components.count


def write_skeleton(frame: Frame, path: str, read: Read, *, overwrite: bool) -> int:
    """Write the skeleton of a mask as 0 and 1 (int8).

    Parameters
    ----------
    frame, path, read, overwrite
        As in `write_mask`.

    Returns
    -------
    int
        Voxels of the skeleton.
    """
    count = 0
    with frame.writer(path, "int8", overwrite=overwrite) as writer:
        for box in skeleton_blocks(frame.shape):
            skeleton = skeletonize_box(read, frame.shape, box)
            writer.write(box, skeleton.astype(np.int8))
            count += int(np.count_nonzero(skeleton))
    return count


def write_uncertainty(frame: Frame, path: str, read_variance: Read, read_mask: Read, *, overwrite: bool) -> None:
    """Write an uncertainty map (float32); see `membrain_cloud.segmentation.uncertainty`.

    Parameters
    ----------
    frame : Frame
        Grid and origin.
    path : str
        The file to write.
    read_variance : callable
        Returns the variances (Z, Y, X) float32 of a box.
    read_mask : callable
        Returns the mask (Z, Y, X) of a box; voxels that are not 0 are membrane.
    overwrite : bool
        Whether an existing file is replaced.
    """
    with frame.writer(path, "float32", overwrite=overwrite) as writer:
        for box in planes(frame.shape):
            low, high = max(0, box.start[0] - HALO), min(frame.shape[0], box.stop[0] + HALO)
            around = Box((low, 0, 0), (high, *frame.shape[1:]))
            first, last = box.start[0] - low, box.stop[0] - low
            writer.write(box, uncertainty_planes(read_variance(around), read_mask(around), first, last))


def output_path(folder: str, file: str, suffix: str) -> str:
    """Return the name of an output.

    Parameters
    ----------
    folder : str
        Folder of the output; kept as it is written, so `./`.
    file : str
        The volume file that it is made of.
    suffix : str
        What follows the stem.

    Returns
    -------
    str
        `folder/stem<suffix>.mrc`.
    """
    return f"{folder.removesuffix('/')}/{file_stem(file)}{suffix}.mrc"


def _check_outputs(names: Sequence[str], overwrite: bool) -> None:
    """Refuse existing outputs before anything is read or computed."""
    for name in names:
        check_output(name, overwrite=overwrite)
