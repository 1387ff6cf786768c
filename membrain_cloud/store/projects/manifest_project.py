"""A project whose tomograms a manifest lists: they are read where they are, and results go to its overlay."""

from __future__ import annotations

import difflib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import MembrainCloudError, ProjectError, TomogramError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.manifest import Manifest, ManifestRow, read_manifest, write_manifest
from membrain_cloud.store.projects.project import Project, ensure_object_in
from membrain_cloud.store.refs import ObjectRef, TomogramRef, VolumeRef, check_name
from membrain_cloud.store.volumes import ome_zarr as volumes
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid

# A copick config of the overlay, for what opens results with copick; kept only where the manifest names none.
_COPICK_CONFIG = "membrain-cloud/copick.json"
# Arrays whose metadata are kept, so that a read costs the chunks alone.
_OPEN_ARRAYS = 8


class ManifestProject(Project):
    """Tomograms from a manifest, everything else from its overlay. Pickles as the path of the manifest.

    Grids and identities come from the manifest, so planning opens nothing; the first read of a tomogram checks
    that what is stored is what the manifest says.
    """

    is_frozen = True

    def __init__(self, config: str, manifest: Manifest) -> None:
        said = manifest.metadata
        copick = _copick_settings(said.get("copick_config"))
        options = {**(copick.get("overlay_fs_args") or {}), **(said.get("overlay_fs_args") or {})}
        settings = {
            "name": config.rpartition("/")[2].removesuffix(".parquet"),
            "overlay_root": said["overlay_root"],
            "overlay_fs_args": options,
            "pickable_objects": list(said.get("objects") or copick.get("pickable_objects") or ()),
        }
        super().__init__(config, settings)
        self.manifest = manifest
        self._source_options = {**(copick.get("static_fs_args") or {}), **(said.get("source_fs_args") or {})}
        self._copick_config = said.get("copick_config")
        self._arrays: dict[TomogramRef, ChunkedArray] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: str) -> ManifestProject:
        """Open a manifest: a path or an fsspec URL; errors as `read_manifest`'s."""
        return cls(str(config), read_manifest(str(config)))

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestProject.open, (self.config,)

    # --- what there is ---------------------------------------------------------------------------------------------

    def runs(self) -> list[str]:
        return list(self.manifest.rows)

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Rows that are refused, by run, each with its error."""
        return dict(self.manifest.refused)

    def all_tomograms(self, run: str) -> list[TomogramRef]:
        row = self.manifest.rows.get(check_name(run, "run"))
        return [] if row is None else [row.ref]

    def dataset_of(self, run: str) -> str | None:
        row = self.manifest.rows.get(run)
        return None if row is None else row.dataset_id

    def tomogram_id(self, run: str) -> str | None:
        row = self.manifest.rows.get(run)
        return None if row is None else row.tomogram_id

    def has(self, ref: VolumeRef | ObjectRef) -> bool:
        return self._row(ref) is not None or super().has(ref)

    def grid(self, ref: VolumeRef) -> Grid:
        row = self._row(ref)
        return super().grid(ref) if row is None else row.grid

    def identity(self, ref: VolumeRef | ObjectRef) -> str:
        """Of a tomogram what the manifest says; of all else as in any project."""
        row = self._row(ref)
        if row is None:
            return super().identity(ref)
        return row.identity if row.level == "0" else f"{row.identity}/{row.level}"

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        row = self._row(ref)
        return (row.bytes or None) if row is not None else None

    def stored(self, ref: VolumeRef | ObjectRef, *, mesh: bool = True) -> tuple[Files, str]:
        row = self._row(ref)
        return super().stored(ref, mesh=mesh) if row is None else (self._source(row), "")

    def ensure_object(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add a pickable object to the copick config that goes with the manifest, or to one kept in the overlay."""
        if self._copick_config is not None:
            ensure_object_in(self._copick_config, name, is_particle=is_particle, identifier=identifier)
            return
        if not self._overlay.exists(_COPICK_CONFIG):
            root = f"local://{self.root_url}" if self._overlay.local else self.root_url
            config = {
                "config_type": "filesystem",
                "name": self.settings["name"],
                "description": f"results of {self.config}",
                "version": "1.31.0",
                "pickable_objects": self.settings["pickable_objects"],
                "user_id": "user",
                "overlay_root": root,
                "overlay_fs_args": dict(self.manifest.metadata.get("overlay_fs_args") or {})
                | ({"auto_mkdir": True} if self._overlay.local else {}),
            }
            self._overlay.write(_COPICK_CONFIG, json.dumps(config, indent=4).encode())
        config_url = f"{self.root_url}/{_COPICK_CONFIG}"
        ensure_object_in(config_url, name, is_particle=is_particle, identifier=identifier, options=self.storage_options)

    # --- reading ---------------------------------------------------------------------------------------------------

    def _row(self, ref: VolumeRef | ObjectRef) -> ManifestRow | None:
        """The row of a tomogram that is read from where the manifest says."""
        if not isinstance(ref, TomogramRef):
            return None
        row = self.manifest.rows.get(ref.run)
        return row if row is not None and row.ref == ref else None

    def _volume(self, ref: VolumeRef) -> tuple[ChunkedArray, Files]:
        row = self._row(ref)
        if row is None:
            return super()._volume(ref)
        with self._lock:
            array = self._arrays.get(row.ref)
        if array is None:
            array = self._opened(row)
            with self._lock:
                while len(self._arrays) >= _OPEN_ARRAYS:
                    self._arrays.pop(next(iter(self._arrays)))
                self._arrays[row.ref] = array
        files = array.files
        if self._overlay.meter is not None:
            files = files.metered(self._overlay.meter)
            array = ChunkedArray(files, array.path, array.format, sparse=False)
        return array, files

    def _opened(self, row: ManifestRow) -> ChunkedArray:
        """The array, checked against the row. Tomograms are noise everywhere: no chunk of one may be absent."""
        files = self._source(row)
        try:
            array = ChunkedArray.open(files, row.level)
        except FileNotFoundError as error:
            raise ProjectError(
                f"{row.ref.key}: there is no volume at {row.url}/{row.level}",
                "it was moved or removed since the manifest was made: make the manifest again",
            ) from error
        if array.format.shape != row.shape:
            raise TomogramError(
                f"{row.ref.key}: {row.url}/{row.level} is {array.format.shape} voxels, the manifest says {row.shape}",
                "make the manifest again",
            )
        return array

    def levels(self, ref: TomogramRef) -> list[volumes.Level]:
        """The manifest's level, and the coarser ones of the volume that it belongs to."""
        row = self._row(ref)
        if row is None:
            return super().levels(ref)
        files = self._source(row)
        attributes = volumes.from_level(volumes.read_attributes(files, ""), row.level)
        if attributes is None:
            return [volumes.Level(row.level, row.grid, 0.0)]
        return volumes.pyramid(files, "", attributes, row.grid)

    def _level(self, ref: VolumeRef, level: int) -> ChunkedArray:
        row = self._row(ref)
        if row is None or level == 0 or not isinstance(ref, TomogramRef):
            return super()._level(ref, level)
        return ChunkedArray.open(self._source(row), self.levels(ref)[level].path)

    def _source(self, row: ManifestRow) -> Files:
        inside = row.url.startswith(f"{self.root_url}/")
        return Files(row.url, self.storage_options if inside else self._source_options)

    def _checked_runs(self, runs: Sequence[str]) -> list[str]:
        for run in runs:
            check_name(run, "run")
            if run not in self.manifest.rows:
                near = difflib.get_close_matches(run, self.manifest.rows, 5, 0.5) or list(self.manifest.rows)[:5]
                hint = f"near it: {', '.join(near)}" if near else "the manifest has no rows"
                raise ProjectError(f"{self.config} has no run {run!r}", hint)
        return sorted(set(runs))


def freeze(
    project: Project,
    output: str,
    tomograms: Sequence[TomogramRef],
    *,
    dataset: str,
    selection: Mapping[str, Any],
    threads: int = 16,
) -> dict[str, MembrainCloudError]:
    """Write a manifest of `tomograms` of a copick project, whose results stay in that project.

    Grids and identities are looked up side by side. Identities are the project's own, so what is done already counts as
    done for runs from the manifest. Returns the runs that are left out, each with the error that says why.
    """

    def row(ref: TomogramRef) -> dict[str, Any] | MembrainCloudError:
        try:
            return _row_of(project, ref, dataset)
        except MembrainCloudError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        made = list(zip(tomograms, pool.map(row, tomograms), strict=True))
    left_out = {ref.run: found for ref, found in made if isinstance(found, MembrainCloudError)}
    rows = [found for _, found in made if not isinstance(found, MembrainCloudError)]
    if left_out and not rows:
        raise next(iter(left_out.values()))
    write_manifest(
        output,
        rows,
        overlay_root=project.root_url,
        overlay_fs_args=project.storage_options,
        source_fs_args=project.settings.get("static_fs_args") or {},
        objects=project.settings["pickable_objects"],
        selection=selection,
        copick_config=project.config,
    )
    return left_out


def _row_of(project: Project, ref: TomogramRef, dataset: str) -> dict[str, Any]:
    array, files = project._volume(ref)
    folder, _, level = array.path.rpartition("/")
    grid = project.grid(ref)
    z, y, x = grid.shape
    return {
        "tomogram_id": ref.key,
        "run_name": ref.run,
        "dataset_id": dataset,
        "deposition_id": None,
        "tomogram_type": ref.tomogram_type,
        "voxel_spacing_angstrom": grid.voxel_spacing_angstrom,
        "size_z": z,
        "size_y": y,
        "size_x": x,
        "level": level,
        "url": f"{files.url}/{folder}",
        "identity": project.identity(ref),
        "bytes": sum(info.size for info in files.listing(array.path).values()),
    }


def _copick_settings(config: str | None) -> dict[str, Any]:
    """The copick config that goes with a manifest; empty where it names none or it is gone."""
    if config is None:
        return {}
    folder, _, name = config.rpartition("/")
    try:
        found = json.loads(Files(folder or "/").read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
