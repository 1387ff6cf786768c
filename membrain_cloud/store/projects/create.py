"""Make a copick project: an empty one, or one of volume files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from membrain_cloud.errors import BadNameError, InputError, TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.store.formats.local_input import unreadable
from membrain_cloud.store.formats.volume_reader import VolumeHeader, file_stem, open_volume_file, read_header
from membrain_cloud.store.objects.local_files import absolute_path
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.copick_config import new_config, pickable_object
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import TomogramRef, check_name, clean_name
from membrain_cloud.store.volumes import ome_zarr

MEMBRANE_OBJECT = ("membrane", False, "GO:0016020")
"""Name, whether it is a particle, and identifier of the object that membranes are annotations of."""

Report = Callable[[str], None]
"""Takes one sentence on what was assumed or done."""

OnFailure = Callable[[str, InputError], None]
"""Takes a file that cannot be used, and why."""


@dataclass(frozen=True)
class _Source:
    """One file that becomes one tomogram."""

    path: str
    ref: TomogramRef
    header: VolumeHeader


def create_project(folder: str, *, objects: Sequence[tuple[str, bool, str | None]]) -> CopickProject:
    """Make a copick file system project, with `config.json` and the overlay in one folder.

    A project that exists is opened, and objects that it lacks are added. The overlay is written as an absolute path,
    so the project opens from any working directory.

    Parameters
    ----------
    folder : str
        Path or URL of the folder; it is made if it is absent.
    objects : sequence of (str, bool, str or None)
        Name of each pickable object, whether it is a particle, and its identifier.

    Returns
    -------
    CopickProject
        The project.
    """
    files = Files(folder if "://" in folder else absolute_path(folder))
    if not files.exists("config.json"):
        entries: list[dict[str, Any]] = []
        for name, is_particle, identifier in objects:
            entries.append(pickable_object(entries, name, is_particle=is_particle, identifier=identifier))
        files.make_folder("ExperimentRuns")
        name = files.url.rsplit("/", 1)[-1]
        files.write("config.json", new_config(name, "made by membrain_cloud", files, objects=entries))
    project = CopickProject.open(f"{files.url}/config.json")
    for name, is_particle, identifier in objects:
        project.ensure_object(name, is_particle=is_particle, identifier=identifier)
    return project


def init_project(
    folder: str,
    files: Sequence[str],
    *,
    voxel_spacing_angstrom: float | None,
    tomogram_type: str,
    report: Report,
    fill_empty_chunks: bool = False,
    on_failure: OnFailure | None = None,
) -> CopickProject:
    """Make a copick project of volume files, or add them to one.

    Each file becomes a run that is named by its cleaned stem. All headers, and the sizes that they announce, are
    checked before anything is written. A tomogram that is complete in the project already is kept. Memory stays at a
    few chunks.

    Parameters
    ----------
    folder : str
        Path or URL of the project's folder.
    files : sequence of str
        Paths of volumes: .mrc, .rec, .map (also .gz), .tif, .npy, .zarr.
    voxel_spacing_angstrom : float or None
        Voxel spacing in Å in place of the headers'; None: as each header says.
    tomogram_type : str
        Type of the tomograms in the project, such as wbp or denoised.
    report : callable
        Called with one sentence on each tomogram and on each assumption.
    fill_empty_chunks : bool
        Whether chunks of a Zarr that are not there are read as its fill value. Default: they are refused.
    on_failure : callable, optional
        Called with each bad file and its error, while the others are taken. Default: the first bad file is raised.

    Returns
    -------
    CopickProject
        The project.

    Raises
    ------
    UsageError
        If `files` is empty.
    VoxelSpacingError
        If a header gives no plausible spacing and none is given.
    BadNameError
        If a stem cannot become a name, or two files give the same name.
    TomogramError, ChunkError
        If a file cannot be read.
    """
    if not files:
        raise UsageError("no files were given", "check the pattern of the volume files")
    fail = on_failure or _raise
    sources = _sources(files, voxel_spacing_angstrom, tomogram_type, fail)
    project = create_project(folder, objects=[MEMBRANE_OBJECT])
    scratch = scratch_folder(project.root_url)
    for source in sources:
        ref, header = source.ref, source.header
        shape = " x ".join(str(n) for n in reversed(header.shape))
        report(f"{ref.run}: {shape} voxels (x, y, z), {header.dtype.name}, {ref.voxel_spacing_angstrom:g} Å")
        for note in header.notes:
            report(f"{ref.run}: {note}")
        if header.voxel_spacing_angstrom not in (None, voxel_spacing_angstrom or header.voxel_spacing_angstrom):
            report(f"{ref.run}: the file says {header.voxel_spacing_angstrom:g} Å, the one given is used")
        if project.is_complete(ref):
            report(f"{ref.run}: is in the project already and is kept; remove it to have it replaced")
            continue
        try:
            with open_volume_file(source.path, scratch, fill_empty_chunks=fill_empty_chunks) as volume:
                project.write_tomogram(ref, volume)
        except InputError as error:
            project.remove(ref)
            fail(source.path, error)
        except OSError as error:
            project.remove(ref)
            fail(source.path, TomogramError(unreadable(source.path, error), "check the file and its permissions"))
    return project


def _raise(path: str, error: InputError) -> None:
    raise error


def scratch_folder(root_url: str) -> str | None:
    """Return the folder for unpacked copies of compressed volumes: that of a local project, or None (the default).

    Parameters
    ----------
    root_url : str
        Path or URL of the project's overlay.
    """
    return root_url if "://" not in root_url else None


def spacing_of_file(path: str, header: VolumeHeader, spacing_angstrom: float | None) -> float:
    """Return the voxel spacing of a volume file in Å.

    Parameters
    ----------
    path : str
        Path of the file, for error messages.
    header : VolumeHeader
        Its header.
    spacing_angstrom : float or None
        The spacing in place of the header's.

    Raises
    ------
    VoxelSpacingError
        If neither gives a plausible spacing.
    """
    if spacing_angstrom is not None:
        return ome_zarr.checked_spacing(spacing_angstrom, path, "the voxel spacing, such as 10")
    if header.voxel_spacing_angstrom is None:
        cause = "; ".join(note for note in header.notes if "spacing" in note or "cubes" in note)
        raise VoxelSpacingError(
            f"{path}: no plausible voxel spacing ({cause})", "give the voxel spacing: voxel_spacing_angstrom, e.g. 10"
        )
    return header.voxel_spacing_angstrom


def _sources(
    files: Sequence[str], spacing_angstrom: float | None, tomogram_type: str, fail: OnFailure
) -> list[_Source]:
    """Read the headers of volume files and name a tomogram for each; bad files are handed to `fail`."""
    check_name(tomogram_type, "tomogram type")
    paths: dict[str, str] = {}
    sources = []
    for path in sorted(map(str, files)):
        try:
            source = _source(path, spacing_angstrom, tomogram_type)
            other = paths.setdefault(source.ref.run, path)
            if other != path:
                raise BadNameError(
                    f"{path} and {other} would both become run {source.ref.run!r}", "rename one, or leave one out"
                )
            sources.append(source)
        except InputError as error:
            fail(path, error)
    return sources


def _source(path: str, spacing_angstrom: float | None, tomogram_type: str) -> _Source:
    run = clean_name(file_stem(path))
    header = read_header(path, check_size=True)
    if header.dtype.newbyteorder("=").name not in ome_zarr.DENSITY_TYPES:
        raise TomogramError(f"{path}: data type {header.dtype} is not one of a tomogram", "convert it to float32")
    return _Source(path, TomogramRef(run, tomogram_type, spacing_of_file(path, header, spacing_angstrom)), header)
