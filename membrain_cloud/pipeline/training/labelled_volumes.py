"""Labelled volumes to train on: annotations of a copick project, and folders in MemBrain-seg's layout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.store.formats.label_volume import check_labels
from membrain_cloud.store.formats.volume_reader import file_stem, open_volume_file, read_header, read_volume
from membrain_cloud.store.volumes.labels import as_marks, check_extent
from membrain_cloud.training.labels import MARKED_BACKGROUND, merge_labels
from membrain_cloud.training.segmentation.labelled_patches import CELL, LabelledVolume, PlanewiseVolume, prepare_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import SegmentationRef, TomogramRef

# Largest part of a volume that is read at once.
_SLAB_BYTES = 1 << 29


def project_volumes(
    project: Project, runs: Sequence[str], uris: Sequence[str], folder: Path, *, margin: int
) -> list[LabelledVolume]:
    """Prepare the labelled tomograms of a project.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of runs; those without any of the labels are left out.
    uris : sequence of str
        Labels as `name:user/session@spacing`, merged in this order (`training.labels.merge_labels`).
    folder : Path
        Folder of the prepared volumes.
    margin : int
        Voxels of the image kept around the labelled part.

    Returns
    -------
    volumes : list of LabelledVolume
        One for each run with labels.

    Raises
    ------
    ProjectError
        If no run has any of the labels.
    InputError
        If shape or values of labels do not fit; also what `prepare_volume` raises.
    """
    volumes = []
    for run in runs:
        layers = find_layers(project, run, uris)
        if layers:
            tomogram = project.tomograms([run], None, layers[0].voxel_spacing_angstrom)[0]
            identity = "\n".join([project.identity(tomogram), *(project.identity(ref) for ref in layers)])
            open_volume = functools.partial(_open_run, project, tomogram, layers)
            volumes.append(prepare_volume(folder, run, identity, open_volume, margin=margin))
    if not volumes:
        raise ProjectError(
            f"{project.config}: none of {len(runs)} runs has {' or '.join(uris)}", "check the URIs, spacing included"
        )
    return volumes


def find_layers(project: Project, run: str, uris: Sequence[str]) -> list[SegmentationRef]:
    """Return the annotations that a run has.

    Parameters
    ----------
    project : Project
        The project.
    run : str
        Name of the run.
    uris : sequence of str
        Labels as `name:user/session@spacing`.

    Returns
    -------
    layers : list of SegmentationRef
        In the order of `uris`; empty if there are none.

    Raises
    ------
    InputError
        If their voxel spacings differ.
    ProjectError
        If a URI without spacing stands for several annotations.
    """
    layers = []
    for uri in uris:
        try:
            layers.append(project.segmentation(run, uri))
        except ProjectError:
            # An ambiguous name without a spacing is an error; an absent annotation is not.
            if any(ref.uri.startswith(f"{uri}@") for ref in project.segmentations(run)):
                raise
    spacings = {ref.voxel_spacing_angstrom for ref in layers}
    if len(spacings) > 1:
        raise InputError(
            f"{run}: annotations of {' and '.join(f'{s:g}' for s in sorted(spacings))} Å cannot be merged",
            "name those of one voxel spacing",
        )
    return layers


def read_merged_labels(
    project: Project, layers: Sequence[SegmentationRef], box: Box, *, partial: bool
) -> NDArray[np.uint8]:
    """Read and merge the labels of a box.

    Parameters
    ----------
    project : Project
        The project.
    layers : sequence of SegmentationRef
        Annotations, merged in this order.
    box : Box
        Part of the volume, in voxels.
    partial : bool
        Whether unmarked voxels are ignored, as `is_partial` says for the first layer.

    Returns
    -------
    labels : ndarray of shape `box.shape`, uint8
        0 background, 1 membrane, 2 ignore.
    """
    return merge_labels([_read_marks(project, ref, box) for ref in layers], partial=partial)


def is_partial(project: Project, layer: SegmentationRef) -> bool:
    """Return whether unmarked voxels are ignored if this is the first layer: it marks background somewhere.

    Parameters
    ----------
    project : Project
        The project.
    layer : SegmentationRef
        The annotation; it is read in slabs until background is met.

    Returns
    -------
    partial : bool
        True for corrected patches, False for a mask of the whole tomogram.
    """
    z, y, x = project.grid(layer).shape
    depth = _slab_depth(project, layer, 1)
    return any(
        bool((_read_marks(project, layer, Box((a, 0, 0), (min(a + depth, z), y, x))) == MARKED_BACKGROUND).any())
        for a in range(0, z, depth)
    )


def _read_marks(project: Project, ref: SegmentationRef, box: Box) -> NDArray[np.uint8]:
    values: NDArray[np.integer[Any]] = project.read_labels(ref, box)
    if ref.instance:
        mask: NDArray[np.uint8] = (values != 0).astype(np.uint8)
        return mask
    return as_marks(values, ref.key)


def _open_run(project: Project, tomogram: TomogramRef, layers: Sequence[SegmentationRef]) -> PlanewiseVolume:
    grid = project.grid(tomogram)
    for ref in layers:
        if project.grid(ref).shape != grid.shape:
            raise InputError(
                f"{ref.key} is of shape {project.grid(ref).shape}, its tomogram {grid.shape}",
                "train on annotations that were made on this tomogram",
            )
        check_extent(project.grid(ref), ref.key, {tomogram.key: grid})
    partial = is_partial(project, layers[0])
    return PlanewiseVolume(
        grid.shape,
        _Slabs(lambda box: project.read_density(tomogram, box), grid.shape, _slab_depth(project, tomogram, 4)),
        _Slabs(
            lambda box: read_merged_labels(project, layers, box, partial=partial),
            grid.shape,
            _slab_depth(project, layers[0], 2),
        ),
        grid.voxel_spacing_angstrom,
    )


class _Slabs:
    """Planes of a chunked volume, read in slabs as deep as its chunks, so that no chunk is decoded twice.

    `depth` is a multiple of the number of planes that are asked for, which must start at a multiple of that number.
    """

    def __init__(self, read: Callable[[Box], NDArray[Any]], shape: Zyx, depth: int) -> None:
        self._read, self._shape, self._depth = read, shape, depth
        self._first, self._planes = -1, np.zeros((0, 0, 0))

    def __call__(self, first: int, last: int) -> NDArray[Any]:
        start = first // self._depth * self._depth
        if start != self._first:
            z, y, x = self._shape
            self._planes = self._read(Box((start, 0, 0), (min(start + self._depth, z), y, x)))
            self._first = start
        return self._planes[first - start : last - start]


def _slab_depth(project: Project, ref: TomogramRef | SegmentationRef, voxel_bytes: int) -> int:
    """Return the depth of a chunk, limited by memory and rounded to a multiple of `CELL`."""
    _, y, x = project.grid(ref).shape
    most = max(_SLAB_BYTES // (y * x * voxel_bytes), CELL)
    return min(-(-project.stored_chunk(ref)[0] // CELL), most // CELL) * CELL


def folder_volumes(source: Path, part: str, folder: Path, *, margin: int) -> list[LabelledVolume]:
    """Prepare the volumes of a folder in MemBrain-seg's layout.

    Parameters
    ----------
    source : Path
        The folder. `images{part}/X_0000.nii.gz` belongs to `labels{part}/X.nii.gz`. Files may also be .mrc, .rec or
        other volumes, and the image may be named X.
    part : str
        "Tr" or "Val".
    folder : Path
        Folder of the prepared volumes.
    margin : int
        Voxels of the image kept around the labelled part.

    Returns
    -------
    volumes : list of LabelledVolume
        One for each pair of files.

    Raises
    ------
    InputError
        If a file has no partner or their shapes differ; also what `prepare_volume` raises.
    VoxelSpacingError
        If their voxel spacings differ.
    """
    volumes = []
    for name, (image, label) in _pairs(source / f"images{part}", source / f"labels{part}").items():
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (image, label)]
        open_volume = functools.partial(_open_files, image, label)
        volumes.append(prepare_volume(folder, name, repr(stats), open_volume, margin=margin))
    return volumes


def _pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """Return the image and the label of each volume, by name."""
    pairs = {}
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder", "training data lie in imagesTr and labelsTr")
    image_by_stem, label_by_stem = _by_stem(images), _by_stem(labels)
    for stem, label in label_by_stem.items():
        candidates = [image_by_stem.pop(key) for key in (f"{stem}_0000", stem) if key in image_by_stem]
        if len(candidates) != 1:
            raise InputError(
                f"{label}: {len(candidates)} images belong to it in {images}",
                f"one is needed, called {stem}_0000.nii.gz",
            )
        pairs[stem] = (candidates[0], label)
    if image_by_stem:
        stray = next(iter(image_by_stem.values()))
        raise InputError(f"{stray}: it has no labels in {labels}", "add them, or take the image out")
    if not pairs:
        raise InputError(f"{labels}: it is empty", "put labels there, X.nii.gz for the image X_0000.nii.gz")
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        stem = file_stem(str(path))
        if stem in paths:
            raise InputError(f"{path}: {paths[stem].name} is called the same", "leave one of them")
        paths[stem] = path
    return paths


def _open_files(image: Path, label: Path) -> PlanewiseVolume:
    image_header, label_header = read_header(str(image)), read_header(str(label))
    if image_header.shape != label_header.shape:
        raise InputError(
            f"{label} is of shape {label_header.shape}, its image {image_header.shape}", "give the labels of this image"
        )
    spacings = image_header.voxel_spacing_angstrom, label_header.voxel_spacing_angstrom
    if spacings[0] and spacings[1] and abs(spacings[0] - spacings[1]) > 0.01 * spacings[0]:
        raise VoxelSpacingError(
            f"{label} has voxels of {spacings[1]:g} Å, its image of {spacings[0]:g} Å", "correct the wrong header"
        )
    density, _ = read_volume(str(image))
    with open_volume_file(str(label)) as volume:
        values = check_labels(volume).read(Box((0, 0, 0), volume.shape))
    z, y, x = image_header.shape
    if min(z, y, x) < 2:
        raise TomogramError(f"{image}: {image_header.shape} is no volume", "give volumes, not slices")
    shape: Zyx = (z, y, x)
    return PlanewiseVolume(shape, lambda a, b: density[a:b], lambda a, b: values[a:b], spacings[0] or spacings[1])
