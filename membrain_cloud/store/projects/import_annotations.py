"""Bring segmentations, picks and meshes from files of other programs into a project."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import BadNameError, ProjectError, TomogramError, UsageError
from membrain_cloud.geometry import Grid, iterate_chunks
from membrain_cloud.store.formats.label_volume import check_labels
from membrain_cloud.store.formats.meshes import read_h5, read_meshes
from membrain_cloud.store.formats.motl import is_stopgap, read_motive_list, read_stopgap
from membrain_cloud.store.formats.pick_units import check_positions
from membrain_cloud.store.formats.star import read_csv_picks, read_star_picks
from membrain_cloud.store.formats.volume_reader import open_volume_file
from membrain_cloud.store.projects.create import MEMBRANE_OBJECT, Report, scratch_folder, spacing_of_file
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, parse_uri
from membrain_cloud.store.volumes.labels import check_extent
from membrain_cloud.store.volumes.ome_zarr import DEFAULT_CHUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.geometry import Picks
    from membrain_cloud.store.projects.project import Project


def import_segmentation(  # noqa: PLR0913 - all but three are keywords of one command
    project: Project,
    file: str,
    target: ObjectRef,
    *,
    instance: bool,
    voxel_spacing_angstrom: float | None = None,
    label: int | None = None,
    label_threshold: float | None = None,
    fill_empty_chunks: bool = False,
    report: Report = lambda note: None,
    chunk: int = DEFAULT_CHUNK,
) -> SegmentationRef:
    """Bring a label volume into a run, which is made if it is absent.

    A mask becomes 0 and 1: of the one value above 0, or of `label`. Instances keep their values.

    Parameters
    ----------
    project : Project
        The project to write to.
    file : str
        Path of a volume; kinds as in `create.init_project`.
    target : ObjectRef
        Run, name, user and session of the segmentation.
    instance : bool
        Whether the labels are numbered membranes, or a mask.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: the header's, else that of the run's tomogram of the same shape.
    label : int, optional
        The value that is membrane, for a mask of several labels.
    label_threshold : float, optional
        Values above it are membrane, for scores and masks that were resampled. Default: the values are labels.
    fill_empty_chunks : bool
        Whether chunks of a Zarr that are not there are read as its fill value. Default: they are refused.
    report : callable
        Called with one sentence on each assumption.
    chunk : int
        Edge of the chunks in voxels. Default: 256.

    Returns
    -------
    SegmentationRef
        The segmentation.

    Raises
    ------
    TomogramError
        For values that are not labels, or a mask of several labels without `label`.
    InputError
        If its physical size is that of none of the run's tomograms.
    VoxelSpacingError
        Without a plausible voxel spacing.
    """
    _check_uri(target)
    run = target.run
    scratch = scratch_folder(project.root_url)
    with open_volume_file(file, scratch, fill_empty_chunks=fill_empty_chunks) as volume:
        header = volume.header
        spacing = (
            voxel_spacing_angstrom or header.voxel_spacing_angstrom or _tomogram_spacing(project, run, header.shape)
        )
        spacing = spacing_of_file(file, header, spacing)
        ref = SegmentationRef(run, target.name, target.user, target.session, spacing, instance)
        for note in header.notes:
            report(f"{run}: {note}")
        z, y, x = header.shape
        grid = Grid((z, y, x), ref.voxel_spacing_angstrom)
        tomograms = {tomogram.key: project.grid(tomogram) for tomogram in project.all_tomograms(run)}
        check_extent(grid, file, tomograms)
        labels = check_labels(volume, threshold=label_threshold)
        for note in labels.notes:
            report(f"{run}: {note}")
        mask_label = None if instance else _one_label(labels.values, label, file)
        dtype = np.min_scalar_type(labels.top if instance else 1)
        project.ensure_object(target.name, is_particle=False, identifier=None)
        project.create_labels(ref, grid, dtype.name, chunk)
        for box in iterate_chunks(grid.shape, project.label_chunk(grid, chunk)):
            part = labels.read(box)
            project.write_labels(ref, box, (part if mask_label is None else part == mask_label).astype(dtype))
    project.finish_labels(ref)
    return ref


def import_picks(  # noqa: PLR0913 - all but three are keywords of one command
    project: Project,
    file: str,
    ref: ObjectRef,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    tomogram: str | None = None,
    inverse_angles: bool = False,
    keep_outside: bool = False,
    report: Report = lambda note: None,
) -> ObjectRef:
    """Bring particles into a run, which is made if it is absent.

    Parameters
    ----------
    project : Project
        The project to write to.
    file : str
        Path of a .star file (RELION's or STOPGAP's), .csv, .em motive list, or MemBrain-pick's .h5.
    ref : ObjectRef
        Run, name, user and session of the picks.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å of the voxels that coordinates are counted in; unused for coordinates in Å.
    origin_angstrom : sequence of 3 floats
        Subtracted from the positions, xyz in Å: programs that honour the origin of an MRC header add it.
    tomogram : str, optional
        Name of the tomogram in a STAR file of several, or its number in a motive list.
    inverse_angles : bool
        Whether the angles turn the particle into the tomogram, the inverse of RELION's. Default: False.
    keep_outside : bool
        Whether particles are taken of which more than half lie outside of the tomogram. Default: False.
    report : callable
        Called with one sentence on each assumption, on particles left out, and on how many were taken.

    Returns
    -------
    ObjectRef
        The picks.

    Raises
    ------
    ProjectError
        If the file is of an unknown kind, or holds no particles.
    InputError
        If the positions are clearly in other units (`pick_units.check_positions`).
    UsageError
        If a motive list's tomogram is not given by its number.
    """
    _check_uri(ref)
    name = file.lower()
    tomograms = project.all_tomograms(ref.run)
    grid = project.grid(tomograms[0]) if tomograms else None
    if name.endswith(".csv"):
        picks = read_csv_picks(
            file, voxel_spacing_angstrom=voxel_spacing_angstrom, origin_angstrom=origin_angstrom, report=report
        )
    elif name.endswith(".em") or (name.endswith(".star") and is_stopgap(file)):
        picks = _subtract(_motive_list(file, voxel_spacing_angstrom, tomogram, report), origin_angstrom)
    elif name.endswith(".star"):
        picks = read_star_picks(
            file,
            voxel_spacing_angstrom=voxel_spacing_angstrom,
            tomogram=tomogram,
            origin_angstrom=origin_angstrom,
            grid=grid,
            inverse_angles=inverse_angles,
            report=report,
        )
    elif name.endswith(".h5"):
        stored = read_h5(file, voxel_spacing_angstrom=voxel_spacing_angstrom).picks
        if stored is None:
            raise ProjectError(f"{file} has no cluster_centers", "give a file of membrain_pick predict with mean shift")
        picks = _subtract(stored, origin_angstrom)
    else:
        raise ProjectError(f"{file}: the kind of this file is not known", "give .star, .csv, .em or .h5")
    check_positions(picks, grid, file, keep_outside=keep_outside, report=report)
    project.ensure_object(ref.name, is_particle=True, identifier=None)
    project.write_picks(ref, picks)
    return ref


def import_meshes(
    project: Project,
    files: Sequence[str],
    ref: ObjectRef,
    *,
    voxel_spacing_angstrom: float | None = None,
    report: Report = lambda note: None,
) -> ObjectRef:
    """Bring meshes of membranes into a run, as one annotation.

    Parameters
    ----------
    project : Project
        The project to write to.
    files : sequence of str
        Paths of .glb, .obj, or MemBrain-pick's .h5 files. Membranes keep the numbers of a single GLB file; those of
        several files are numbered in the files' order.
    ref : ObjectRef
        Run, name, user and session of the meshes.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å, for files that count voxels.
    report : callable
        Called with one sentence on each mesh whose vertices were merged.

    Returns
    -------
    ObjectRef
        The meshes.

    Raises
    ------
    UsageError
        If the files hold no mesh.
    """
    _check_uri(ref)
    membranes = [read_meshes(file, voxel_spacing_angstrom=voxel_spacing_angstrom, report=report) for file in files]
    if not any(membranes):
        raise UsageError(f"no meshes in {', '.join(files) or 'no files'}", "give .glb, .obj or .h5 files with faces")
    meshes = [mesh for of_file in membranes for mesh in of_file.values()]
    numbers = list(membranes[0]) if len(membranes) == 1 else range(1, len(meshes) + 1)
    identifier = MEMBRANE_OBJECT[2] if ref.name == MEMBRANE_OBJECT[0] else None
    project.ensure_object(ref.name, is_particle=False, identifier=identifier)
    project.write_meshes(ref, dict(zip(numbers, meshes, strict=True)))
    return ref


def _check_uri(ref: ObjectRef) -> None:
    """Refuse names with which the annotation's URI would not name it: `a:b@c/1` has a spacing and no session."""
    try:
        parsed = parse_uri(ref.uri)
        named = (parsed.name, parsed.user, parsed.session) == (ref.name, ref.user, ref.session)
    except ProjectError:
        named = False
    if not named:
        raise BadNameError(
            f"{ref.uri}: object {ref.name!r}, user {ref.user!r} and session {ref.session!r} make no URI",
            'take names without "@", ":", "/" and "?"',
        )


def _motive_list(file: str, voxel_spacing_angstrom: float | None, tomogram: str | None, report: Report) -> Picks:
    if tomogram is not None and not tomogram.isdigit():
        raise UsageError(f"a motive list numbers its tomograms, {tomogram!r} is a name", "give the number")
    number = None if tomogram is None else int(tomogram)
    read = read_motive_list if file.lower().endswith(".em") else read_stopgap
    return read(file, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram_number=number, report=report)


def _subtract(picks: Picks, origin_angstrom: Sequence[float]) -> Picks:
    return replace(picks, positions=picks.positions - np.asarray(origin_angstrom, np.float64))


def _tomogram_spacing(project: Project, run: str, shape: Sequence[int]) -> float | None:
    """Return the voxel spacing of the run's tomograms of a shape, or None if there is none or they differ."""
    spacings = {
        ref.voxel_spacing_angstrom for ref in project.all_tomograms(run) if project.grid(ref).shape == tuple(shape)
    }
    return spacings.pop() if len(spacings) == 1 else None


def _one_label(values: Sequence[int], label: int | None, file: str) -> int:
    """Return the value that is membrane in a mask: `label`, or the only value above 0."""
    if label is None and len(values) > 1:
        listed = ", ".join(map(str, values[:8]))
        raise TomogramError(f"{file} holds {len(values)} labels ({listed})", "say which one, or import it as instances")
    if label is not None and label not in values:
        raise TomogramError(f"{file} has no label {label}", f"it has: {', '.join(map(str, values[:8]))}")
    return label if label is not None else next(iter(values), 1)
