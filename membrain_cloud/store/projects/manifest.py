"""Manifests: Parquet files with one row per tomogram, so that many thousands are planned without opening one.

| column | type | |
|---|---|---|
| tomogram_id | string | the portal's id, or any unique key |
| run_name | string | a safe name; at most one tomogram per run |
| dataset_id | string | the partition `dataset=` of the tables for that run |
| deposition_id | string, nullable | |
| tomogram_type | string | copick's type name |
| voxel_spacing_angstrom | double | of the level that `url` and `level` name |
| size_z, size_y, size_x | int32 | voxels of that level |
| level | string | path of the array in the group |
| url | string | OME-Zarr group: s3://, https://, or a path |
| identity | string | changes when the data change; planning trusts it |
| bytes | int64 | stored size; 0 if unknown |

Further columns are kept and ignored. The schema's metadata has a key `membrain_cloud` with JSON: version, overlay_root,
overlay_fs_args, source_fs_args, objects (copick's pickable objects), selection (how it was chosen), and copick_config
(a config with the same overlay), if there is one. Credentials are never written: they come from the environment, or
from the copick config.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import MembrainCloudError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Zyx
from membrain_cloud.store.objects.local_files import absolute_path
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import TomogramRef, check_name
from membrain_cloud.store.volumes.ome_zarr import LARGEST_SPACING_ANGSTROM, SMALLEST_SPACING_ANGSTROM

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

MANIFEST_VERSION = 1
SUFFIX = ".parquet"
_METADATA_KEY = b"membrain_cloud"
_MAKE_ONE = "make one: membrain-cloud portal select, or membrain-cloud project manifest"
_SECRET = re.compile(r"secret|token|passw|credential|^key$|access_key|sas|account_key", re.IGNORECASE)

COLUMNS = pa.schema(
    [
        pa.field("tomogram_id", pa.string(), nullable=False),
        pa.field("run_name", pa.string(), nullable=False),
        pa.field("dataset_id", pa.string(), nullable=False),
        pa.field("deposition_id", pa.string()),
        pa.field("tomogram_type", pa.string(), nullable=False),
        pa.field("voxel_spacing_angstrom", pa.float64(), nullable=False),
        pa.field("size_z", pa.int32(), nullable=False),
        pa.field("size_y", pa.int32(), nullable=False),
        pa.field("size_x", pa.int32(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One tomogram of a manifest, with checked names.

    Attributes
    ----------
    tomogram_id : str
        The portal's id, or any unique key.
    dataset_id : str
        Partition of the tables for the rows of the run.
    deposition_id : str or None
        The portal's deposition.
    ref : TomogramRef
        Run, type and voxel spacing.
    voxel_spacing_angstrom : float
        Voxel spacing of the level in Å, unrounded.
    shape : tuple of 3 ints
        Voxels of the level, zyx.
    level : str
        Path of the array in the group.
    url : str
        Path or URL of the OME-Zarr group.
    identity : str
        Changes when the data change.
    bytes : int
        Stored size of the level; 0 if unknown.
    """

    tomogram_id: str
    dataset_id: str
    deposition_id: str | None
    ref: TomogramRef
    voxel_spacing_angstrom: float
    shape: Zyx
    level: str
    url: str
    identity: str
    bytes: int

    @property
    def grid(self) -> Grid:
        """Shape and voxel spacing; VoxelSpacingError if the spacing is out of range, TomogramError if it is empty."""
        spacing = self.voxel_spacing_angstrom
        if not SMALLEST_SPACING_ANGSTROM <= spacing <= LARGEST_SPACING_ANGSTROM:
            raise VoxelSpacingError(
                f"{self.ref.key}: a voxel spacing of {spacing:g} Å is absurd for a tomogram",
                "correct voxel_spacing_angstrom in the manifest",
            )
        if min(self.shape) <= 0:
            raise TomogramError(f"{self.ref.key}: the volume is empty (shape {self.shape})", "leave it out")
        return Grid(self.shape, spacing)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes
    ----------
    metadata : Mapping
        The JSON of the schema; see the module.
    rows : Mapping
        Rows by run, sorted.
    refused : Mapping
        Errors of the rows that cannot be used, by run.
    """

    metadata: Mapping[str, Any]
    rows: Mapping[str, ManifestRow]
    refused: Mapping[str, MembrainCloudError]


def write_manifest(
    url: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    overlay_root: str,
    overlay_fs_args: Mapping[str, Any] | None = None,
    source_fs_args: Mapping[str, Any] | None = None,
    objects: Sequence[Mapping[str, Any]] = (),
    selection: Mapping[str, Any] | None = None,
    copick_config: str | None = None,
) -> None:
    """Write a manifest atomically. Local paths are made absolute, so that it opens from any working directory.

    Parameters
    ----------
    url : str
        Path or URL of the manifest.
    rows : sequence of Mapping
        The columns of the module's table, and any further ones, of one type each.
    overlay_root : str
        Path or URL of the folder that results are written to.
    overlay_fs_args, source_fs_args : Mapping, optional
        Arguments of fsspec for the overlay and for the tomograms; credentials are left out.
    objects : sequence of Mapping
        Copick's pickable objects.
    selection : Mapping, optional
        How the tomograms were chosen.
    copick_config : str, optional
        Path or URL of a copick config with the same overlay.

    Raises
    ------
    ProjectError
        If a row lacks a column, a run has two tomograms, two ids are equal, or there is no row.
    BadNameError
        If a run, dataset or type is not safe as part of a path.
    StorageError
        If the manifest cannot be written.
    """
    metadata = {
        "version": MANIFEST_VERSION,
        "overlay_root": _absolute(overlay_root),
        "overlay_fs_args": without_secrets(overlay_fs_args or {}),
        "source_fs_args": without_secrets(source_fs_args or {}),
        "objects": [dict(entry) for entry in objects],
        "selection": dict(selection or {}),
        "copick_config": None if copick_config is None else _absolute(copick_config),
    }
    if not rows:
        raise ProjectError(f"{url}: no tomogram is left for the manifest", "widen the selection")
    table = _table(url, [{**row, "url": _absolute(str(row.get("url", "")))} for row in rows])
    manifest = _parsed(url, table, metadata)
    for error in manifest.refused.values():
        raise error
    stored = table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
    buffer = io.BytesIO()
    pq.write_table(stored, buffer, compression="zstd")
    folder, _, name = _absolute(url).rpartition("/")
    Files(folder or "/").write(name, buffer.getvalue())


def read_manifest(url: str) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    url : str
        Path or fsspec URL of the manifest.

    Returns
    -------
    Manifest
        Its content; rows with unsafe names are among `refused`.

    Raises
    ------
    ProjectError
        If it is absent, is not a manifest, has a newer version, lacks a column, or has two tomograms of one run.
    """
    try:
        content = _read(url)
    except FileNotFoundError as error:
        raise ProjectError(f"{url}: there is no such manifest", _MAKE_ONE) from error
    try:
        table = pq.read_table(io.BytesIO(content))
        metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        version = metadata["version"]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise ProjectError(f"{url} is no manifest ({error})", _MAKE_ONE) from error
    if not isinstance(version, int) or version > MANIFEST_VERSION:
        raise ProjectError(
            f"{url} is a manifest of version {version}, this version knows {MANIFEST_VERSION}", "update membrain_cloud"
        )
    if not isinstance(metadata.get("overlay_root"), str) or not metadata["overlay_root"]:
        raise ProjectError(f"{url}: the manifest names no overlay_root, where results go", _MAKE_ONE)
    return _parsed(url, table, metadata)


def freeze(
    project: Project,
    output: str,
    tomograms: Sequence[TomogramRef],
    *,
    dataset: str,
    selection: Mapping[str, Any],
    threads: int = 16,
) -> dict[str, MembrainCloudError]:
    """Write a manifest of tomograms of a project. Results stay in that project.

    Identities are the project's own, so tasks that are done there count as done for runs from the manifest.

    Parameters
    ----------
    project : Project
        The project to freeze.
    output : str
        Path or URL of the manifest.
    tomograms : sequence of TomogramRef
        The tomograms, at most one per run.
    dataset : str
        The partition of the tables for all runs.
    selection : Mapping
        How the tomograms were chosen.
    threads : int
        Number of tomograms whose metadata are read at the same time. Default: 16.

    Returns
    -------
    dict
        The runs that are left out, each with its error.

    Raises
    ------
    MembrainCloudError
        The first error, if no tomogram is left.
    """

    def row(ref: TomogramRef) -> dict[str, Any] | MembrainCloudError:
        try:
            return _frozen_row(project, ref, dataset)
        except MembrainCloudError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        results = list(zip(tomograms, pool.map(row, tomograms), strict=True))
    left_out = {ref.run: result for ref, result in results if isinstance(result, MembrainCloudError)}
    rows = [result for _, result in results if not isinstance(result, MembrainCloudError)]
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


def _frozen_row(project: Project, ref: TomogramRef, dataset: str) -> dict[str, Any]:
    files, path = project.stored_level(ref)
    folder, _, level = path.rpartition("/")
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
        "bytes": sum(info.size for info in files.listing(path).values()),
    }


def extra_columns(url: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return columns that only some manifests have.

    Parameters
    ----------
    url : str
        Path or URL of the manifest.
    names : sequence of str
        Names of the columns.

    Returns
    -------
    dict
        Run to name to value; None for a column that is absent.
    """
    table = pq.read_table(io.BytesIO(_read(url)))
    present = [column for column in ("run_name", *names) if column in table.column_names]
    rows = table.select(present).to_pylist()
    return {str(row["run_name"]): {name: row.get(name) for name in names} for row in rows}


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of fsspec without those that look like credentials, nested ones included.

    Parameters
    ----------
    options : mapping
        Arguments of an fsspec file system.
    """
    return {
        key: without_secrets(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if not _SECRET.search(str(key))
    }


def _table(url: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    further = sorted({key for row in rows for key in row} - set(COLUMNS.names))
    columns = []
    for field in COLUMNS:
        values = [row.get(field.name) for row in rows]
        if not field.nullable and None in values:
            raise ProjectError(f"{url}: row {values.index(None) + 1} has no {field.name}", "every row needs one")
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, TypeError) as error:
            raise ProjectError(f"{url}: {field.name} must be {field.type} ({error})", "correct the rows") from error
    arrays = [*columns, *(pa.array([row.get(name) for row in rows]) for name in further)]
    return pa.Table.from_arrays(arrays, names=[*COLUMNS.names, *further])


def _parsed(url: str, table: pa.Table, metadata: Mapping[str, Any]) -> Manifest:
    lacking = [name for name in COLUMNS.names if name not in table.column_names and name != "deposition_id"]
    if lacking:
        raise ProjectError(f"{url}: the manifest has no column {', '.join(lacking)}", _MAKE_ONE)
    rows: dict[str, ManifestRow] = {}
    refused: dict[str, MembrainCloudError] = {}
    ids: dict[str, str] = {}
    for values in table.select([name for name in COLUMNS.names if name in table.column_names]).to_pylist():
        run, identifier = str(values["run_name"]), str(values["tomogram_id"])
        if run in rows:
            raise ProjectError(
                f"{url}: run {run} has two tomograms, {rows[run].tomogram_id} and {identifier}",
                "keep one of them: results of a run would overwrite each other",
            )
        if identifier in ids:
            raise ProjectError(f"{url}: runs {ids[identifier]} and {run} are both tomogram {identifier}", "keep one")
        ids[identifier] = run
        try:
            rows[run] = _row(values)
        except MembrainCloudError as error:
            refused[run] = error
    return Manifest(metadata, dict(sorted(rows.items())), dict(sorted(refused.items())))


def _row(values: Mapping[str, Any]) -> ManifestRow:
    run = str(values["run_name"])
    missing = [field.name for field in COLUMNS if not field.nullable and values[field.name] in (None, "")]
    if missing:
        raise ProjectError(f"{run}: the manifest has no {missing[0]} for it", "correct its row")
    return ManifestRow(
        str(values["tomogram_id"]),
        check_name(str(values["dataset_id"]), "dataset"),
        values.get("deposition_id"),
        TomogramRef(run, str(values["tomogram_type"]), float(values["voxel_spacing_angstrom"])),
        float(values["voxel_spacing_angstrom"]),
        (int(values["size_z"]), int(values["size_y"]), int(values["size_x"])),
        _safe_level(run, str(values["level"])),
        str(values["url"]).rstrip("/"),
        str(values["identity"]),
        int(values["bytes"]),
    )


def _safe_level(run: str, level: str) -> str:
    for part in level.split("/"):
        check_name(part, f"level of {run}")
    return level


def _absolute(path: str) -> str:
    path = path.removeprefix("local://").removeprefix("file://")
    return path if "://" in path or not path else absolute_path(path)


def _read(url: str) -> bytes:
    folder, _, name = url.rpartition("/")
    return Files(folder or ("/" if url.startswith("/") else ".")).read(name)
