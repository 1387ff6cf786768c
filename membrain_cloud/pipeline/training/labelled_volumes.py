"""Volumes with labels to train on: annotations of a copick project, and folders in MemBrain-seg's layout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.store.formats.volume_reader import file_stem, read_header, read_volume
from membrain_cloud.training.labels import MARKED_BACKGROUND, merge_labels
from membrain_cloud.training.segmentation.labelled_patches import CELL, LabelledVolume, PlanewiseVolume, prepare_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import SegmentationRef, TomogramRef

_SLAB_BYTES = 1 << 29


def project_volumes(
    project: Project, runs: Sequence[str], uris: Sequence[str], folder: Path, *, margin: int
) -> list[LabelledVolume]:
    """The runs that have any of the annotations, prepared below `folder`.

    uris : `name:user/session@spacing`, merged in this order (`training.labels.merge_labels`); a run needs one of them.

    Raises ProjectError where no run has any, InputError and VoxelSpacingError where an annotation does not lie on its
    tomogram, and what `prepare` raises.
    """
    volumes = []
    for run in runs:
        layers = layers_of(project, run, uris)
        if layers:
            tomogram = project.tomograms([run], None, layers[0].voxel_spacing_angstrom)[0]
            identity = "\n".join([project.identity(tomogram), *(project.identity(ref) for ref in layers)])
            opened = functools.partial(_open_run, project, tomogram, layers)
            volumes.append(prepare_volume(folder, run, identity, opened, margin=margin))
    if not volumes:
        raise ProjectError(
            f"{project.config}: none of {len(runs)} runs has {' or '.join(uris)}", "check the URIs, spacing included"
        )
    return volumes


def layers_of(project: Project, run: str, uris: Sequence[str]) -> list[SegmentationRef]:
    """Those of the annotations that a run has, in the order given. InputError where their voxel spacings differ."""
    there = []
    for uri in uris:
        try:
            there.append(project.segmentation(run, uri))
        except ProjectError:
            # A name without a spacing may stand for several; which one is for the user to say.
            if any(ref.uri.startswith(f"{uri}@") for ref in project.segmentations(run)):
                raise
    spacings = {ref.voxel_spacing_angstrom for ref in there}
    if len(spacings) > 1:
        raise InputError(
            f"{run}: annotations of {' and '.join(f'{s:g}' for s in sorted(spacings))} Å cannot be merged",
            "name those of one voxel spacing",
        )
    return there


def read_merged_labels(project: Project, layers: Sequence[SegmentationRef], box: Box, *, partial: bool) -> NDArray:
    """The labels (0, 1, 2) of a box, of annotations that are there; partial : as `is_partial` says."""
    return merge_labels([_marks(project, ref, box) for ref in layers], partial=partial)


def is_partial(project: Project, layer: SegmentationRef) -> bool:
    """Whether the unmarked is ignored where this is the first layer: it holds marked background anywhere."""
    z, y, x = project.grid(layer).shape
    depth = _slab_depth(project, layer, 1)
    return any(
        bool((_marks(project, layer, Box((a, 0, 0), (min(a + depth, z), y, x))) == MARKED_BACKGROUND).any())
        for a in range(0, z, depth)
    )


def _marks(project: Project, ref: SegmentationRef, box: Box) -> NDArray:
    values = project.read_labels(ref, box)
    if ref.instance:
        return (values != 0).astype(np.uint8)
    if values.size and values.max() > MARKED_BACKGROUND:
        raise InputError(
            f"{ref.key} holds the value {values.max()}",
            "marks are 0 nothing, 1 membrane, 2 ignore, 3 background; numbered membranes are read as "
            "URI?instance=true once they are imported with `import segmentation --instances`",
        )
    return values


def _open_run(project: Project, tomogram: TomogramRef, layers: Sequence[SegmentationRef]) -> PlanewiseVolume:
    grid = project.grid(tomogram)
    for ref in layers:
        if project.grid(ref).shape != grid.shape:
            raise InputError(
                f"{ref.key} is of shape {project.grid(ref).shape}, its tomogram {grid.shape}",
                "train on annotations that were made on this tomogram",
            )
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
    """Planes of a chunked volume, read as deep as its chunks are: else each chunk would be unpacked many times."""

    def __init__(self, read: Callable[[Box], NDArray], shape: Zyx, depth: int) -> None:
        """Depth : a multiple of what is asked for, which must begin at a multiple of that."""
        self._read, self._shape, self._depth = read, shape, depth
        self._first, self._planes = -1, np.zeros((0, 0, 0))

    def __call__(self, first: int, last: int) -> NDArray:
        start = first // self._depth * self._depth
        if start != self._first:
            z, y, x = self._shape
            self._planes = self._read(Box((start, 0, 0), (min(start + self._depth, z), y, x)))
            self._first = start
        return self._planes[first - start : last - start]


def _slab_depth(project: Project, ref: TomogramRef | SegmentationRef, voxel_bytes: int) -> int:
    """As deep as a chunk, as far as memory goes; a multiple of `CELL`."""
    _, y, x = project.grid(ref).shape
    most = max(_SLAB_BYTES // (y * x * voxel_bytes), CELL)
    return min(-(-project.stored_chunk(ref)[0] // CELL), most // CELL) * CELL


def folder_volumes(source: Path, part: str, folder: Path, *, margin: int) -> list[LabelledVolume]:
    """The volumes of a folder in MemBrain-seg's layout, prepared below `folder`.

    part : "Tr" or "Val": `images{part}/X_0000.nii.gz` belongs to `labels{part}/X.nii.gz`; .mrc, .rec and other volume
        files do as well, and the image may be called X.

    Raises InputError where one has no other or their shapes differ, VoxelSpacingError where their spacings do, and what
    `prepare` raises.
    """
    volumes = []
    for name, (image, label) in _pairs(source / f"images{part}", source / f"labels{part}").items():
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (image, label)]
        opened = functools.partial(_open_files, image, label)
        volumes.append(prepare_volume(folder, name, repr(stats), opened, margin=margin))
    return volumes


def _pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    found = {}
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder", "training data lie in imagesTr and labelsTr")
    of_images, of_labels = _by_stem(images), _by_stem(labels)
    for stem, label in of_labels.items():
        named = [of_images.pop(key) for key in (f"{stem}_0000", stem) if key in of_images]
        if len(named) != 1:
            raise InputError(
                f"{label}: {len(named)} images belong to it in {images}", f"one is needed, called {stem}_0000.nii.gz"
            )
        found[stem] = (named[0], label)
    if of_images:
        stray = next(iter(of_images.values()))
        raise InputError(f"{stray}: it has no labels in {labels}", "add them, or take the image out")
    if not found:
        raise InputError(f"{labels}: it is empty", "put labels there, X.nii.gz for the image X_0000.nii.gz")
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        stem = file_stem(str(path))
        if stem in found:
            raise InputError(f"{path}: {found[stem].name} is called the same", "leave one of them")
        found[stem] = path
    return found


def _open_files(image: Path, label: Path) -> PlanewiseVolume:
    of_image, of_label = read_header(str(image)), read_header(str(label))
    if of_image.shape != of_label.shape:
        raise InputError(
            f"{label} is of shape {of_label.shape}, its image {of_image.shape}", "give the labels of this image"
        )
    spacings = of_image.voxel_spacing_angstrom, of_label.voxel_spacing_angstrom
    if spacings[0] and spacings[1] and abs(spacings[0] - spacings[1]) > 0.01 * spacings[0]:
        raise VoxelSpacingError(
            f"{label} has voxels of {spacings[1]:g} Å, its image of {spacings[0]:g} Å", "correct the wrong header"
        )
    density, _ = read_volume(str(image))
    values, _ = read_volume(str(label))
    z, y, x = of_image.shape
    if min(z, y, x) < 2:
        raise TomogramError(f"{image}: {of_image.shape} is no volume", "give volumes, not slices")
    shape: Zyx = (z, y, x)
    return PlanewiseVolume(shape, lambda a, b: density[a:b], lambda a, b: values[a:b], spacings[0] or spacings[1])
