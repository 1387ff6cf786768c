"""Making a project: an empty one, one from volume files, and bringing other people's labels and picks into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import BadNameError, ProjectError, TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, iterate_chunks
from membrain_cloud.store.formats.meshes import read_h5, read_meshes
from membrain_cloud.store.formats.motl import is_stopgap, read_motive_list, read_stopgap
from membrain_cloud.store.formats.star import read_csv_picks, read_star_picks
from membrain_cloud.store.formats.volume_reader import VolumeHeader, file_stem, open_volume_file, read_header
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.project import Project, as_labels, pickable_object
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef, check_name, clean_name
from membrain_cloud.store.volumes import ome_zarr as volumes

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEMBRANE_OBJECT = ("membrane", False, "GO:0016020")
# Not our own user: what people draw in a viewer must not be recorded as made by the pipeline.
_DEFAULT_USER = "user"

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Source:
    """One file that becomes one tomogram."""

    path: str
    ref: TomogramRef
    header: VolumeHeader


def create_project(folder: str, *, objects: Sequence[tuple[str, bool, str | None]]) -> Project:
    """A copick file system project in `folder` (made if needed): `config.json`, with the overlay in the same folder.

    `objects` are (name, is_particle, identifier). A project that is there already is opened, and objects it lacks are
    added. The overlay is written as an absolute path, so the project opens from any working directory.
    """
    files = Files(folder if "://" in folder else os.path.abspath(folder))
    config = f"{files.url}/config.json"
    if not files.exists("config.json"):
        entries: list[dict[str, Any]] = []
        for name, is_particle, identifier in objects:
            entries.append(pickable_object(entries, name, is_particle=is_particle, identifier=identifier))
        settings = {
            "config_type": "filesystem",
            "name": files.url.rsplit("/", 1)[-1],
            "description": "made by membrain_cloud",
            "version": "1.31.0",
            "pickable_objects": entries,
            "user_id": _DEFAULT_USER,
            "overlay_root": f"local://{files.url}" if files.local else files.url,
            "overlay_fs_args": {"auto_mkdir": True} if files.local else {},
        }
        files.make_folder("ExperimentRuns")
        files.write("config.json", json.dumps(settings, indent=4).encode())
    project = Project.open(config)
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
) -> Project:
    """Make a copick project of volume files (.mrc, .rec, .map, also .gz; .tif, .npy, .zarr), or add them to one.

    Each file becomes a run named by its cleaned stem. All headers are checked before anything is written; memory stays
    at a few chunks. What was assumed about a file goes to `report`, one sentence a call. A tomogram that is complete
    in the project already is kept.

    Raises VoxelSpacingError when a header gives no believable spacing and none is given here; BadNameError when a stem
    cannot become a name, or two files give the same; TomogramError or ChunkError for a file that cannot be read.
    """
    if not files:
        raise UsageError("no files were given", "check the pattern of --tomograms")
    sources = _sources(files, voxel_spacing_angstrom, tomogram_type)
    project = create_project(folder, objects=[MEMBRANE_OBJECT])
    scratch = project.root_url if "://" not in project.root_url else None
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
        with open_volume_file(source.path, scratch) as volume:
            project.write_tomogram(ref, volume)
    return project


def _sources(files: Sequence[str], spacing: float | None, tomogram_type: str) -> list[_Source]:
    check_name(tomogram_type, "tomogram type")
    taken: dict[str, str] = {}
    found = []
    for path in sorted(map(str, files)):
        run = clean_name(file_stem(path))
        if run in taken:
            raise BadNameError(f"{path} and {taken[run]} would both become run {run!r}", "rename one, or leave one out")
        taken[run] = path
        header = read_header(path)
        if header.dtype.newbyteorder("=").name not in volumes.DENSITY_TYPES:
            raise TomogramError(f"{path}: data type {header.dtype} is not one of a tomogram", "convert it to float32")
        found.append(_Source(path, TomogramRef(run, tomogram_type, _chosen_spacing(path, header, spacing)), header))
    return found


def _chosen_spacing(path: str, header: VolumeHeader, given: float | None) -> float:
    if given is None:
        if header.voxel_spacing_angstrom is None:
            why = "; ".join(note for note in header.notes if "spacing" in note or "cubes" in note)
            raise VoxelSpacingError(f"{path}: no believable voxel spacing ({why})", "give it in Å: --voxel-spacing 10")
        return header.voxel_spacing_angstrom
    return volumes.checked_spacing(given, path, "--voxel-spacing 10")


def import_segmentation(
    project: Project,
    run: str,
    file: str,
    *,
    name: str,
    user: str,
    session: str,
    instance: bool,
    voxel_spacing_angstrom: float | None = None,
    label: int | None = None,
    report: Report = lambda note: None,
    chunk: int = volumes.DEFAULT_CHUNK,
) -> SegmentationRef:
    """Bring a label volume (file kinds of `init_project`) into a run, which is made if it is not there.

    A mask that is not `instance` becomes 0 and 1: of its one value above 0, or of `label`. With `instance` the values
    are kept. The spacing is the one given, else the header's, else that of the run's tomogram of the same shape.

    Raises TomogramError for values that are no labels or a mask of several labels without `label`;
    VoxelSpacingError without a believable spacing.
    """
    scratch = project.root_url if "://" not in project.root_url else None
    with open_volume_file(file, scratch) as volume:
        header = volume.header
        spacing = (
            voxel_spacing_angstrom or header.voxel_spacing_angstrom or _tomogram_spacing(project, run, header.shape)
        )
        ref = SegmentationRef(run, name, user, session, _chosen_spacing(file, header, spacing), instance)
        for note in header.notes:
            report(f"{run}: {note}")
        z, y, x = header.shape
        grid = Grid((z, y, x), ref.voxel_spacing_angstrom)
        boxes = list(iterate_chunks(grid.shape, project.label_chunk(grid, chunk)))
        chosen = None if instance else _one_label(volume, boxes, label, file)
        top = 1 if not instance else max(int(as_labels(np.asarray(volume[b.slices]), file).max()) for b in boxes)
        dtype = np.min_scalar_type(top)
        project.ensure_object(name, is_particle=False, identifier=None)
        project.create_labels(ref, grid, dtype.name, chunk)
        for box in boxes:
            part: NDArray[Any] = as_labels(np.asarray(volume[box.slices]), file)
            project.write_labels(ref, box, (part if chosen is None else part == chosen).astype(dtype))
    project.finish_labels(ref)
    return ref


def import_picks(
    project: Project,
    run: str,
    file: str,
    *,
    object: str,
    user: str,
    session: str,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    tomogram: str | None = None,
    inverse_angles: bool = False,
) -> ObjectRef:
    """Bring particles into a run, which is made if it is not there: .star (RELION's, STOPGAP's), .csv,
    .em motive list, MemBrain-pick's .h5.

    `voxel_spacing_angstrom` is that of the pixels the coordinates count (unused for columns in Å). `origin_angstrom`,
    xyz, is subtracted: programs that honour the origin of an MRC header count it into their positions. `tomogram`
    is the tomogram's name in a STAR file of several, its number in a motive list. `inverse_angles` is for files whose
    angles turn the particle into the tomogram, the inverse of RELION's.
    """
    ref = ObjectRef(run, object, user, session)
    if file.lower().endswith(".csv"):
        picks = read_csv_picks(file, voxel_spacing_angstrom=voxel_spacing_angstrom, origin_angstrom=origin_angstrom)
    elif file.lower().endswith(".em") or (file.lower().endswith(".star") and is_stopgap(file)):
        if tomogram is not None and not tomogram.isdigit():
            raise UsageError(f"a motive list numbers its tomograms, {tomogram!r} is a name", "give the number")
        number = None if tomogram is None else int(tomogram)
        read_list = read_motive_list if file.lower().endswith(".em") else read_stopgap
        picks = read_list(file, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram_number=number)
        picks = replace(picks, positions=picks.positions - np.asarray(origin_angstrom, np.float64))
    elif file.lower().endswith(".star"):
        tomograms = project.all_tomograms(run)
        picks = read_star_picks(
            file,
            voxel_spacing_angstrom=voxel_spacing_angstrom,
            tomogram=tomogram,
            origin_angstrom=origin_angstrom,
            grid=project.grid(tomograms[0]) if tomograms else None,
            inverse_angles=inverse_angles,
        )
    elif file.lower().endswith(".h5"):
        found = read_h5(file, voxel_spacing_angstrom=voxel_spacing_angstrom).picks
        if found is None:
            raise ProjectError(f"{file} has no cluster_centers", "give a file of membrain_pick predict with mean shift")
        picks = replace(found, positions=found.positions - np.asarray(origin_angstrom, np.float64))
    else:
        raise ProjectError(f"{file}: the kind of this file is not known", "give .star, .csv, .em or .h5")
    project.ensure_object(object, is_particle=True, identifier=None)
    project.write_picks(ref, picks)
    return ref


def import_meshes(
    project: Project,
    run: str,
    files: Sequence[str],
    *,
    user: str,
    session: str,
    voxel_spacing_angstrom: float | None = None,
) -> ObjectRef:
    """Bring membranes' meshes (.glb, .obj, .h5 of MemBrain-pick) into a run, as one annotation.

    voxel_spacing_angstrom : where the files count voxels. Membranes keep the numbers of a single GLB file; those of
    several files are numbered in the files' order.
    """
    found = [read_meshes(file, voxel_spacing_angstrom=voxel_spacing_angstrom) for file in files]
    if not any(found):
        raise UsageError(f"no meshes in {', '.join(files) or 'no files'}", "give .glb, .obj or .h5 files with faces")
    meshes = [mesh for membranes in found for mesh in membranes.values()]
    numbers = list(found[0]) if len(found) == 1 else range(1, len(meshes) + 1)
    ref = ObjectRef(run, MEMBRANE_OBJECT[0], user, session)
    project.ensure_object(MEMBRANE_OBJECT[0], is_particle=False, identifier=MEMBRANE_OBJECT[2])
    project.write_meshes(ref, dict(zip(numbers, meshes, strict=True)))
    return ref


def _tomogram_spacing(project: Project, run: str, shape: Sequence[int]) -> float | None:
    spacings = {
        ref.voxel_spacing_angstrom for ref in project.all_tomograms(run) if project.grid(ref).shape == tuple(shape)
    }
    return spacings.pop() if len(spacings) == 1 else None


def _one_label(volume: Any, boxes: Sequence[Any], label: int | None, file: str) -> int:
    values: set[int] = set()
    for box in boxes:
        values |= set(np.unique(as_labels(np.asarray(volume[box.slices]), file)).tolist())
    values.discard(0)
    if label is None and len(values) > 1:
        listed = ", ".join(map(str, sorted(values)[:8]))
        raise TomogramError(f"{file} holds {len(values)} labels ({listed})", "say which one, or import it as instances")
    if label is not None and label not in values:
        raise TomogramError(f"{file} has no label {label}", f"it has: {', '.join(map(str, sorted(values)[:8]))}")
    return label if label is not None else next(iter(values), 1)
