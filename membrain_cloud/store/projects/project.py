"""A copick project: the one place that turns references into stored arrays, meshes and picks.

The layout on disk is copick's (1.31, file system projects), read and written here without copick: its listings stop at
the first foreign file, its import takes seconds in every worker, and its objects do not survive a trip to a worker.
The tests open everything that is written with copick itself.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from membrain_cloud.errors import ChunkError, ProjectError, TomogramError, UnfinishedError
from membrain_cloud.geometry import Box, Grid, Mesh, Picks, Zyx, iterate_chunks
from membrain_cloud.store.formats import copick_files as annotation_files
from membrain_cloud.store.objects.lock import alone_with
from membrain_cloud.store.objects.object_store import Files, ObjectInfo
from membrain_cloud.store.projects.catalog import Catalog
from membrain_cloud.store.refs import (
    FeaturesRef,
    ObjectRef,
    SegmentationRef,
    TomogramRef,
    VolumeRef,
    check_object_name,
)
from membrain_cloud.store.run_state.receipts import Receipts
from membrain_cloud.store.volumes import ome_zarr as volumes
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.store.objects.io_meter import Meter

USER = "membrain"
RECEIPTS_FOLDER = "membrain-cloud/receipts"
_WRITTEN_ANEW = "create it, write every chunk, then finish it; where another run is making it anew, run again"


class Project(Catalog):
    """One copick project. Made by `Project.open`; pickles as the path of its config.

    A `metered` one serves one task: it looks up once where a volume lies and what its metadata say. Nobody else writes
    what a task writes or reads while it is at work.
    """

    _known: dict[str, tuple[Files, ChunkedArray, dict[str, Any]]] | None = None

    @classmethod
    def open(cls, config: str) -> Project:
        """Open a copick config: a path or an fsspec URL. ProjectError when it is none, or its data are not there."""
        config = str(config)
        try:
            settings = json.loads(_config_file(config)[0].read(_config_file(config)[1]))
        except FileNotFoundError as error:
            raise ProjectError(
                f"{config}: there is no such config",
                "give a copick config.json, or make one: membrain-cloud project init",
            ) from error
        except ValueError as error:
            raise ProjectError(f"{config} is not JSON ({error})", "give a copick config.json") from error
        _check_settings(config, settings)
        project = cls(config, settings)
        if project._static is None and project._overlay.local and not project._overlay.exists(""):
            raise ProjectError(
                f"{config}: its overlay_root {project.root_url} does not exist",
                "if the project was moved, correct overlay_root in the config",
            )
        return project

    def __reduce__(self) -> tuple[Any, ...]:
        return Project.open, (self.config,)

    @property
    def files(self) -> Files:
        """The objects of the overlay, where all that is written goes."""
        return self._overlay

    def check_writable(self) -> None:
        """StorageError, with the cure, where results cannot be written: asked once, before a run begins."""
        self._overlay.below("membrain-cloud").check_writable()

    def metered(self, meter: Meter) -> Self:
        """The same project for one task; all that is read and written through the result is counted by `meter`."""
        other = object.__new__(type(self))  # a copy would read the config anew
        vars(other).update(vars(self))
        other._known = {}
        other._overlay = self._overlay.metered(meter)
        other._static = self._static and self._static.metered(meter)
        return other

    @property
    def receipts(self) -> Receipts:
        return Receipts(f"{self.root_url}/{RECEIPTS_FOLDER}", self.storage_options)

    def identity(self, ref: VolumeRef | ObjectRef) -> str:
        """A short hash that changes when the stored data are replaced: names, sizes and ETags or modification times.

        No voxel is read. Of a volume only level 0 and the spacing count: rewriting the pyramid changes nothing.
        """
        if isinstance(ref, ObjectRef):
            infos = {path: files.info(path) for files, path in self._places((ref.mesh_path, ref.picks_path))}
            listing = {path: info for path, info in infos.items() if info is not None}
            extra = ""
        else:
            array, files = self._volume(ref)
            listing = files.listing(array.path)
            extra = repr(self.grid(ref))
        if not listing:
            raise ProjectError(f"{ref.key}: there is nothing to identify", "check the name, or write it first")
        return _digest(listing, extra)

    def listed_identity(self, ref: VolumeRef | ObjectRef, there: Mapping[str, ObjectInfo]) -> str:
        """`identity` of an annotation in the overlay, from a listing of it: of a volume the metadata are read as well.

        there : all objects of the annotation, by their paths in the overlay.
        """
        if isinstance(ref, ObjectRef):
            return _digest({path: there[path] for path in (ref.mesh_path, ref.picks_path) if path in there}, "")
        array, attributes = volumes.open_volume(self._overlay, ref.path, sparse=True)
        grid = volumes.grid_of(array, attributes, ref.voxel_spacing_angstrom, ref.key)
        below = f"{array.path}/"
        listing = {path.removeprefix(below): info for path, info in there.items() if path.startswith(below)}
        return _digest(listing, repr(grid))

    # --- volumes ---------------------------------------------------------------------------------------------------

    def grid(self, ref: VolumeRef) -> Grid:
        """Shape and spacing, from metadata only.

        VoxelSpacingError for an absurd or contradictory spacing; TomogramError for an empty volume; ChunkError for
        torn metadata; ProjectError when there is no such volume.
        """
        _, array, attributes = self._looked_up(ref)
        return volumes.grid_of(array, attributes, ref.voxel_spacing_angstrom, ref.key)

    def levels(self, ref: TomogramRef) -> list[volumes.Level]:
        """The levels of a tomogram's pyramid, the finest first, from metadata only."""
        files, _, attributes = self._looked_up(ref)
        return volumes.pyramid(files, ref.path, attributes, self.grid(ref))

    def read_density(self, ref: TomogramRef, box: Box | None = None, *, level: int = 0) -> NDArray[Any]:
        """The voxels of `box` (default: all) in their own type, zyx, of a level of the pyramid.

        ChunkError, naming the chunk, for one that is missing, truncated or cannot be decoded: real tomograms are noise
        everywhere, so an absent chunk is never a block of zeros. TomogramError for a type no tomogram has.
        """
        array = self._level(ref, level)
        volumes.check_density_type(array, ref.key)
        return array.read(box or array.box)

    def read_labels(self, ref: SegmentationRef, box: Box | None = None) -> NDArray[Any]:
        """The labels of `box` (default: all) as an unsigned integer type, zyx.

        In volumes of other tools an absent chunk is the fill value (masks are mostly background); in ours it is a
        ChunkError, because we write every chunk. TomogramError for values that are no labels.
        """
        array, _ = self._volume(ref)
        return as_labels(array.read(box or array.box), ref.key)

    def label_chunk(self, grid: Grid, chunk: int = volumes.DEFAULT_CHUNK) -> Zyx:
        """The chunk shape that `create_labels` uses; cores of blocks must be multiples of it."""
        return volumes.chunk_shape(grid.shape, chunk)

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        """Bytes of a volume as stored, where that is known without asking the store."""
        return None

    def stored_chunk(self, ref: VolumeRef, *, level: int = 0) -> Zyx:
        """Shape of the chunks of a stored volume: reading whole ones reads each once."""
        z, y, x = self._level(ref, level).format.chunk
        return z, y, x

    def create_labels(self, ref: SegmentationRef, grid: Grid, dtype: str, chunk: int = volumes.DEFAULT_CHUNK) -> None:
        """Make an empty label volume, in place of any earlier one. Called once, before workers write chunks."""
        self._create(ref, grid, dtype, chunk)

    def write_labels(self, ref: SegmentationRef, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks; safe beside other processes that write other chunks.

        ValueError where `box` cuts a chunk or the type is not the volume's; StorageError when it cannot be written;
        UnfinishedError where the volume was not created.
        """
        self._created(ref).write(box, array)

    def finish_labels(self, ref: SegmentationRef) -> None:
        """Write pyramid levels 1 and 2 (every second voxel, so labels stay labels) and announce them.

        UnfinishedError where the volume, or a chunk of it, is not there.
        """
        self._finish(ref, None, mean=False)

    def write_segmentation(self, ref: SegmentationRef, array: NDArray[Any], chunk: int = volumes.DEFAULT_CHUNK) -> None:
        """Write a whole label volume with its pyramid."""
        grid = _grid_of_array(array, ref)
        self.create_labels(ref, grid, array.dtype.name, chunk)
        self.write_labels(ref, grid.box, array)
        self.finish_labels(ref)

    def read_features(self, ref: FeaturesRef, box: Box | None = None) -> NDArray[Any]:
        """The values of `box` (default: all) in their own type, zyx; a chunk that is not there is a ChunkError."""
        array, _ = self._volume(ref)
        volumes.check_density_type(array, ref.key)
        return array.read(box or array.box)

    def create_features(self, ref: FeaturesRef, grid: Grid, dtype: str, chunk: int = volumes.DEFAULT_CHUNK) -> None:
        """Make an empty map beside its tomogram, in place of any earlier one: chunks as in `create_labels`."""
        if np.dtype(dtype).name not in volumes.DENSITY_TYPES:
            raise ValueError(f"{dtype} is not one of {', '.join(volumes.DENSITY_TYPES)}")
        self._create(ref, grid, dtype, chunk)

    def write_features(self, ref: FeaturesRef, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks, as `write_labels` does."""
        self._created(ref).write(box, array)

    def finish_features(self, ref: FeaturesRef) -> None:
        """Write pyramid levels 1 and 2 (local means) and announce them; UnfinishedError as in `finish_labels`."""
        self._finish(ref, None, mean=True)

    def write_tomogram(self, ref: TomogramRef, array: Any, chunk: int = volumes.DEFAULT_CHUNK) -> None:
        """Write a tomogram with its pyramid (local means), chunk by chunk.

        `array` is anything with `shape`, `dtype` and zyx slicing, so a memory-mapped file is never loaded whole.
        """
        dtype = np.dtype(array.dtype).newbyteorder("=")
        if dtype.name not in volumes.DENSITY_TYPES:
            raise TomogramError(f"{ref.key}: data type {dtype} is not one of a tomogram", "convert it to float32")
        grid = _grid_of_array(array, ref)
        stored = self._create(ref, grid, dtype.name, chunk)
        for box in iterate_chunks(grid.shape, stored.format.chunk):
            stored.write(box, np.asarray(array[box.slices], dtype))
        self._finish(ref, grid.voxel_spacing_angstrom, mean=True)

    def is_complete(self, ref: VolumeRef) -> bool:
        """Whether a volume is there with all its levels announced, as we do last."""
        place = self._find(ref.path)
        return place is not None and volumes.is_finished(volumes.read_attributes(*place))

    # --- meshes and picks ------------------------------------------------------------------------------------------

    def write_meshes(self, ref: ObjectRef, meshes: Mapping[int, Mesh]) -> None:
        """One GLB file with a geometry `membrane_{id}` for each mesh; vertices are kept as float32, in Å."""
        self._overlay.write(ref.mesh_path, annotation_files.meshes_to_glb(meshes))

    def read_meshes(self, ref: ObjectRef) -> dict[int, Mesh]:
        """Meshes by the number in their names. ProjectError when absent or torn."""
        return annotation_files.meshes_from_glb(self._read(ref.mesh_path, f"mesh {ref.key}"), f"mesh {ref.key}")

    def write_picks(self, ref: ObjectRef, picks: Picks) -> None:
        self._overlay.write(ref.picks_path, annotation_files.picks_to_json(picks, ref))

    def read_picks(self, ref: ObjectRef) -> Picks:
        """ProjectError when absent or torn."""
        return annotation_files.picks_from_json(self._read(ref.picks_path, f"picks {ref.key}"), f"picks {ref.key}")

    def remove(self, ref: VolumeRef | ObjectRef) -> None:
        """Remove what the reference stands for from the overlay; nothing happens when it is not there."""
        paths = (ref.mesh_path, ref.picks_path) if isinstance(ref, ObjectRef) else (ref.path,)
        if not isinstance(ref, ObjectRef):
            self._forget(ref)
        for path in paths:
            self._overlay.remove(path)

    def ensure_object(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add a pickable object to the config, unless it is there; ProjectError if it is there as the other kind."""
        inherited = self.settings["pickable_objects"]
        settings = ensure_object_in(
            self.config, name, is_particle=is_particle, identifier=identifier, inherited=inherited
        )
        self.settings = self.settings | settings

    def _create(self, ref: VolumeRef, grid: Grid, dtype: str, chunk: int) -> ChunkedArray:
        self._forget(ref)
        return volumes.create_volume(self._overlay, ref.path, grid, dtype, chunk)

    def _finish(self, ref: VolumeRef, spacing: float | None, *, mean: bool) -> None:
        """Spacing : in Å; None: as the volume says."""
        try:
            spacing = self.grid(ref).voxel_spacing_angstrom if spacing is None else spacing
            self._forget(ref)
            volumes.finish_volume(self._overlay, ref.path, spacing, mean=mean)
        except (ChunkError, ProjectError, FileNotFoundError) as error:
            why = getattr(error, "message", f"there is no {error}")
            raise UnfinishedError(f"{ref.key} cannot be finished: {why}", _WRITTEN_ANEW) from error

    def _created(self, ref: VolumeRef) -> ChunkedArray:
        """Level 0 of a volume that `create_labels` or `create_features` made; UnfinishedError where it is not there."""
        if self._known is not None and ref.path in self._known and self._known[ref.path][0] is self._overlay:
            return self._known[ref.path][1]
        try:
            return ChunkedArray.open(self._overlay, f"{ref.path}/0")
        except FileNotFoundError as error:
            raise UnfinishedError(f"{ref.key} cannot be written to: it was not created", _WRITTEN_ANEW) from error

    def _looked_up(self, ref: VolumeRef) -> tuple[Files, ChunkedArray, dict[str, Any]]:
        """Where a volume lies, its finest level and its attributes."""
        if self._known is not None and ref.path in self._known:
            return self._known[ref.path]
        files, path = self._located(ref)
        array, attributes = volumes.open_volume(files, path, sparse=isinstance(ref, SegmentationRef))
        if self._known is not None:
            self._known[ref.path] = files, array, attributes
        return files, array, attributes

    def _forget(self, ref: VolumeRef) -> None:
        if self._known is not None:
            self._known.pop(ref.path, None)

    def _volume(self, ref: VolumeRef) -> tuple[ChunkedArray, Files]:
        files, array, _ = self._looked_up(ref)
        return array, files

    def _level(self, ref: VolumeRef, level: int) -> ChunkedArray:
        if level == 0 or not isinstance(ref, TomogramRef):
            return self._volume(ref)[0]
        files, _, _ = self._looked_up(ref)
        return ChunkedArray.open(files, f"{ref.path}/{self.levels(ref)[level].path}")

    def _read(self, path: str, what: str) -> bytes:
        for files in self._layers():
            try:
                return files.read(path)
            except FileNotFoundError:
                continue
        raise ProjectError(f"there is no {what}", "check the name, or make it first")


def as_labels(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Labels as an unsigned integer array; TomogramError for negative, fractional or not finite values."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "u":
        return array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise TomogramError(f"{what}: the values are not whole numbers", "give labels, not scores or densities")
    if array.size and array.min() < 0:
        raise TomogramError(f"{what}: label {array.min():g} is below 0", "give labels of 0 and above")
    return array.astype(np.uint32 if array.dtype.kind == "f" else f"u{array.dtype.itemsize}")


def pickable_object(
    others: Sequence[Mapping[str, Any]], name: str, *, is_particle: bool, identifier: str | None
) -> dict[str, Any]:
    """A config entry with a label and a colour that no other object of the config has."""
    taken = {other.get("label") for other in others}
    label = next(number for number in range(1, len(others) + 2) if number not in taken)
    colour = [64 + (97 * label) % 192, 64 + (157 * label) % 192, 64 + (41 * label) % 192, 255]
    entry = {"name": check_object_name(name, "object"), "is_particle": is_particle, "label": label, "color": colour}
    return entry | ({"identifier": identifier} if identifier else {})


def ensure_object_in(
    config: str,
    name: str,
    *,
    is_particle: bool,
    identifier: str | None,
    options: Mapping[str, Any] | None = None,
    inherited: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """`Project.ensure_object` on a copick config of any type; returns what the config says then.

    options : of fsspec, to reach the config.  inherited : objects of a config that names none itself (a Croissant
    manifest's); they are written with the new one, since copick looks for the manifest's only where there are none.
    """
    files, file = _config_file(config, options)

    def current() -> dict[str, Any]:
        read: dict[str, Any] = json.loads(files.read(file))
        read["pickable_objects"] = read.get("pickable_objects") or [dict(entry) for entry in inherited]
        return read

    settings = current()
    if _has_object(config, settings, name, is_particle=is_particle, identifier=identifier):
        return settings
    with alone_with(files, file):
        settings = current()  # somebody else may have been quicker
        if not _has_object(config, settings, name, is_particle=is_particle, identifier=identifier):
            objects = settings["pickable_objects"]
            named = next((entry for entry in objects if entry["name"] == name), None)
            if named is None:
                objects.append(pickable_object(objects, name, is_particle=is_particle, identifier=identifier))
            else:
                named["identifier"] = identifier
            files.write(file, json.dumps(settings, indent=4).encode())
    return settings


def _has_object(
    config: str, settings: Mapping[str, Any], name: str, *, is_particle: bool, identifier: str | None
) -> bool:
    """Whether a config has an object, with an identifier where one is wanted; ProjectError if it is the other kind."""
    for entry in settings["pickable_objects"]:
        if entry["name"] == name:
            if bool(entry["is_particle"]) != is_particle:
                kind = "a particle" if entry["is_particle"] else "a segmented object"
                raise ProjectError(f"object {name!r} of {config} is {kind}", "choose another object name")
            return identifier is None or bool(entry.get("identifier"))
    return False


def _config_file(config: str, options: Mapping[str, Any] | None = None) -> tuple[Files, str]:
    folder, _, name = config.rpartition("/")
    return Files(folder or ("/" if config.startswith("/") else "."), options), name


def _check_settings(config: str, settings: Any) -> None:
    kind = settings.get("config_type", "filesystem") if isinstance(settings, dict) else None
    if kind == "mlcroissant" and not settings.get("overlay_root"):
        raise ProjectError(
            f"{config} has no overlay_root, and what a manifest lists is only read",
            "give results a place: copick config mlcroissant --overlay DIR",
        )
    if kind == "mlcroissant":
        return
    if not isinstance(settings, dict) or "overlay_root" not in settings or "pickable_objects" not in settings:
        raise ProjectError(
            f"{config} is not a copick config (it has no overlay_root or no pickable_objects)",
            "give a copick config.json, or make one: membrain-cloud project init",
        )
    if kind == "cryoet_data_portal":
        raise ProjectError(
            f"{config}: projects of type {kind!r} name whole datasets, and a run needs its tomograms named",
            "select them once, and give the manifest: membrain-cloud portal select DIR --dataset ID",
        )
    if kind != "filesystem":
        raise ProjectError(
            f"{config}: projects of type {kind!r} cannot be opened here",
            "copy what you need into a project of type 'filesystem': copick sync",
        )


def _grid_of_array(array: Any, ref: VolumeRef) -> Grid:
    if len(array.shape) != 3 or 0 in array.shape:
        raise TomogramError(f"{ref.key}: shape {tuple(array.shape)} is not a volume", "give an array z, y, x")
    z, y, x = map(int, array.shape)
    return Grid((z, y, x), ref.voxel_spacing_angstrom)


def _digest(listing: Mapping[str, ObjectInfo], extra: str) -> str:
    lines = [f"{name}\t{info.size}\t{info.tag}" for name, info in sorted(listing.items())]
    return hashlib.sha256("\n".join([extra, *lines]).encode()).hexdigest()[:16]
