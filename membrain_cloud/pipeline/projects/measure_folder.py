"""Statistics of a folder in the layout of membrain-stats: its meshes and particles are measured into tables.

No project and no tomogram is needed. What depends on a tomogram (its size, the distance to its border, the density of a
membrane) is NULL in the rows.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, MembrainCloudError, ProjectError, UsageError
from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.provenance import versions
from membrain_cloud.pipeline.stages.measure import MEASURE
from membrain_cloud.store.formats.membrain_stats import Units, list_folder, read_mesh, read_particles, read_star
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION, receipt_name
from membrain_cloud.units import ANGSTROM_PER_NM
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.geometry import MeshSurface
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.formats.membrain_stats import MembraneFile
    from membrain_cloud.store.tables.parquet_tables import Tables

# The part of a run's rows, where the rows of a project have the name of the tomogram.
PLACE = "meshes"
# Columns that depend on a tomogram, by table.
_TOMOGRAM_COLUMNS = {
    "tomograms": ("shape_z", "shape_y", "shape_x", "volume_um3"),
    "membranes": ("touches_border",),
    "particles": ("distance_to_border_nm",),
}


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is read.

    Attributes
    ----------
    dataset : str
        The tables' partition.
    units : Units
        Factors from the files' coordinates to Å.
    particles : str or None
        Path of a STAR file with the particles of all runs, whose rlnTomoName is the run; None to read one file for each
        membrane.
    object_name : str
        Name of the particles, with the class number behind it where there are several classes.
    objects : mapping of int to str
        Names of class numbers, in place of `object_name`.
    inverse_angles : bool
        Whether the STAR files' angles turn the particle into the tomogram, the inverse of RELION's and membrain-stats'
        convention.
    surface : {"shell", "side", "midsurface"} or None
        What the meshes are of. None: told from each mesh; closed ones are taken for shells.
    """

    dataset: str
    units: Units = field(default_factory=Units)
    particles: str | None = None
    object_name: str = "particle"
    objects: Mapping[int, str] = field(default_factory=dict)
    inverse_angles: bool = False
    surface: MeshSurface | None = None


@dataclass(frozen=True)
class MeasuredRun:
    """The result of measuring one run.

    Attributes
    ----------
    run : str
        Name of the run.
    state : str
        "done", "skipped" (measured before from the same files with the same settings) or "failed".
    membranes, particles : int
        Number of membranes, and of particles on them.
    left_out : int
        Number of particles on no membrane.
    seconds : float
        Time taken.
    message : str
        The error of a run that failed.
    bad_membranes : int
        Number of membranes that could not be measured; the table `membranes` holds their errors.
    assumed_shells : int
        Number of closed meshes without two leaflets, of which no option tells what they are of. They may be shells or
        single surfaces of vesicles; they are measured as shells, with half of their area.
    """

    run: str
    state: str
    membranes: int
    particles: int
    left_out: int
    seconds: float
    message: str = ""
    bad_membranes: int = 0
    assumed_shells: int = 0


def measure_folder(
    folder: str,
    tables: Tables,
    settings: Settings,
    options: FolderOptions,
    *,
    report: Callable[[MeasuredRun], None] = lambda _: None,
) -> list[MeasuredRun]:
    """Measure every membrane of a folder into tables, run by run; a run that fails does not stop the others.

    A run is measured again only where its files or settings differ from those of its receipt.

    Parameters
    ----------
    folder : str
        Path of the folder.
    tables : Tables
        The tables to write to.
    settings : Settings
        The settings, of which those of the stage `measure` are used.
    options : FolderOptions
        How the folder is read.
    report : callable, optional
        Called with each run when it has ended. Default: nothing.

    Returns
    -------
    list of MeasuredRun
        The runs in the order of their names.

    Raises
    ------
    ProjectError
        If the folder has no meshes.
    """
    runs = []
    for run, group in groupby(list_folder(folder), key=lambda file: file.run):
        files, started = list(group), time.monotonic()
        try:
            measured = _measure_run(run, files, tables, settings, options)
        except MembrainCloudError as error:
            measured = MeasuredRun(run, "failed", len(files), 0, 0, 0.0, str(error))
        measured = replace(measured, seconds=round(time.monotonic() - started, 3))
        report(measured)
        runs.append(measured)
    return runs


def _measure_run(
    run: str, files: Sequence[MembraneFile], tables: Tables, settings: Settings, options: FolderOptions
) -> MeasuredRun:
    """Measure one run and write its rows, then its receipt; skip it where the receipt is there already."""
    settings_digest = digest_of("measure-folder", MEASURE.digest_settings(settings), MEASURE.data_version)
    digest = digest_of(settings_digest, [file.sha256 for file in files], _digest_options(options))
    address = f"measure/{options.dataset}/{run}/{PLACE}"
    receipt, receipts = receipt_name(address, "complete", digest), tables.receipts
    if (record := receipts.read(receipt)) is not None:
        return _measured_run(run, "skipped", record["counts"])
    receipts.forget(address)
    meshes, unreadable = _meshes(files, options)
    picks, names, left_out = _particles(run, files, meshes, settings.measure.reach_nm, options)
    rows = measure_meshes(
        run, meshes, picks, names, settings=settings, dataset=options.dataset, settings_digest=settings_digest
    )
    for row in rows["membranes"]:
        row["error"] = unreadable.get(row["membrane_id"], row["error"])
    for table, table_rows in rows.items():
        tables.write_part(table, options.dataset, f"{run}/{PLACE}", table_rows)
    bad = sum(row["error"] is not None for row in rows["membranes"])
    counts = {
        "membranes": len(meshes),
        "particles": len(rows["particles"]),
        "left_out": left_out,
        "bad_membranes": bad,
        "assumed_shells": sum(_is_ambiguous(mesh) for mesh in meshes.values()),
    }
    receipts.write(
        receipt,
        {
            "receipt_version": RECEIPT_VERSION,
            "digest": digest,
            "stage": "measure",
            "run": run,
            "inputs": {
                str(file.number): [Path(path).name for path in (file.mesh, file.star) if path] for file in files
            },
            "settings": {**MEASURE.digest_settings(settings), **_digest_options(options)},
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "counts": counts,
        },
    )
    return _measured_run(run, "done", counts)


def _measured_run(run: str, state: str, counts: Mapping[str, int]) -> MeasuredRun:
    numbers = (counts["membranes"], counts["particles"], counts["left_out"])
    return MeasuredRun(
        run, state, *numbers, 0.0, bad_membranes=counts["bad_membranes"], assumed_shells=counts.get("assumed_shells", 0)
    )


def _meshes(files: Sequence[MembraneFile], options: FolderOptions) -> tuple[dict[int, Mesh], dict[int, str]]:
    """Read the meshes by number; an unreadable one is empty, and its error is returned by number.

    Raises ProjectError if none can be read.
    """
    meshes: dict[int, Mesh] = {}
    unreadable: dict[int, str] = {}
    for file in files:
        try:
            meshes[file.number] = replace(read_mesh(file, options.units), surface=options.surface)
        except ProjectError as error:
            if len(unreadable) == len(files) - 1:
                raise
            meshes[file.number] = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))
            unreadable[file.number] = error.message
    return meshes, unreadable


def _is_ambiguous(mesh: Mesh) -> bool:
    """Tell whether a mesh may be a shell or a vesicle's single surface; not for meshes that cannot be measured."""
    from membrain_cloud.statistics.model.prepare import is_ambiguous

    try:
        return len(mesh.faces) > 0 and is_ambiguous(mesh)
    except ValueError:
        return False


def _digest_options(options: FolderOptions) -> dict[str, Any]:
    """Return the options that affect results, for the digest."""
    star = None if options.particles is None else sha256(Path(options.particles).read_bytes()).hexdigest()
    return {
        "mesh_multiplier": options.units.mesh,
        "position_multiplier": options.units.positions,
        "particles": star,
        "object_name": options.object_name,
        "objects": {str(number): name for number, name in sorted(options.objects.items())},
        "inverse_angles": options.inverse_angles,
        "surface": options.surface,
    }


def _particles(
    run: str, files: Sequence[MembraneFile], meshes: Mapping[int, Mesh], reach_nm: float, options: FolderOptions
) -> tuple[Picks | None, list[str], int]:
    """Return a run's particles with the number of their membrane, their names, and how many are on no membrane.

    Raises InputError if no particle is within `reach_nm` of its membrane.
    """
    from membrain_cloud.picking.assignment import nearest_membranes

    within_angstrom = ANGSTROM_PER_NM * reach_nm
    parts: list[tuple[Picks, list[int]]] = []
    if options.particles is not None:
        picks, classes = read_star(
            options.particles, options.units, tomogram=run, inverse_angles=options.inverse_angles
        )
        numbers = nearest_membranes(meshes, picks.positions, within_angstrom=within_angstrom)
        parts.append((replace(picks, membrane_ids=numbers), classes))
    else:
        for file in files:
            of_file, classes = read_particles(file, options.units, inverse_angles=options.inverse_angles)
            if of_file is not None:
                own = {file.number: meshes[file.number]}
                numbers = nearest_membranes(own, of_file.positions, within_angstrom=within_angstrom)
                parts.append((replace(of_file, membrane_ids=numbers), classes))
    if not parts:
        return None, [], 0
    picks = Picks.concatenate([picks for picks, _ in parts])
    if len(picks) and not picks.membrane_ids.any():
        raise InputError(
            f"{run}: none of the {len(picks)} particles lies within {reach_nm:g} nm of its membrane",
            "check the units: the pixel size multipliers of meshes and of positions; or raise measure.reach_nm",
        )
    every = [number for _, classes in parts for number in classes]
    are_several = len(set(every)) > 1
    names = [
        options.objects.get(number, f"{options.object_name}-{number}" if are_several else options.object_name)
        for number in every
    ]
    return picks, names, int((picks.membrane_ids == 0).sum())


def measure_meshes(
    run: str,
    meshes: Mapping[int, Mesh],
    picks: Picks | None,
    names: Sequence[str],
    *,
    settings: Settings,
    dataset: str,
    settings_digest: str,
) -> dict[str, list[dict[str, Any]]]:
    """Measure the meshes and particles of one run, without a tomogram.

    Parameters
    ----------
    run : str
        Name of the run.
    meshes : mapping of int to Mesh
        The membranes by number, vertices in Å.
    picks : Picks or None
        The particles with the number of their membrane, 0 for none; None where the run has no particles.
    names : sequence of str
        The object name of each particle.
    settings : Settings
        The settings, of which those of the stage `measure` are used.
    dataset : str
        The tables' partition.
    settings_digest : str
        The digest of the settings, a column of the rows.

    Returns
    -------
    dict of str to list of dict
        Rows by table, with their key columns; columns that depend on a tomogram are None.
    """
    from membrain_cloud.statistics.measure import Membrane, measure_tomogram, tomogram_row

    grid = _enclosing_grid(meshes, picks)
    keys = {
        "dataset_id": dataset,
        "run_name": run,
        "tomogram_id": PLACE,
        "voxel_spacing_angstrom": None,
        "segmentation": None,
        "digest": settings_digest,
    }
    membranes = {}
    for number, mesh in sorted(meshes.items()):
        is_on_it = None if picks is None else picks.membrane_ids == number
        membranes[number] = Membrane(
            mesh,
            None if picks is None else picks.select(np.flatnonzero(picks.membrane_ids == number)),
            np.zeros(len(mesh.vertices), bool),
            "" if is_on_it is None else [name for name, on_it in zip(names, is_on_it, strict=True) if on_it],
        )
    measured = measure_tomogram(
        membranes,
        grid=grid,
        options=settings.measure.options(),
        kinds=sorted(set(names)),
        origin=f"{dataset}/{run}/{PLACE}",
    )
    rows = {table: [keys | row for row in table_rows] for table, table_rows in measured.items()}
    summary = tomogram_row(
        grid,
        n_membranes=len(meshes),
        n_failed_membranes=sum(row["error"] is not None for row in rows["membranes"]),
        n_particles=None if picks is None else len(rows["particles"]),
        mesh_uri=None,
        picks_uri=None,
        density_uri=None,
        lamella_uri=None,
        package_version=__version__,
        data_version=str(MEASURE.data_version),
    )
    rows["tomograms"] = [keys | summary]
    for table, columns in _TOMOGRAM_COLUMNS.items():
        rows[table] = [row | dict.fromkeys(columns) for row in rows[table]]
    return rows


def _enclosing_grid(meshes: Mapping[int, Mesh], picks: Picks | None) -> Grid:
    """Return a grid that contains all vertices and positions; columns that depend on it are dropped."""
    point_sets = [mesh.vertices for mesh in meshes.values()] + ([] if picks is None else [picks.positions])
    farthest = [np.abs(points[np.isfinite(points)]).max(initial=0.0) for points in point_sets]
    edge = int(max(farthest, default=0.0) / 10.0) + 2
    return Grid((edge, edge, edge), 10.0)


def parse_classes(pairs: Sequence[str]) -> dict[int, str]:
    """Return the names of class numbers.

    Parameters
    ----------
    pairs : sequence of str
        Texts of the form ``number=name``, e.g. ``0=psii``.

    Returns
    -------
    dict of int to str
        The names by number, e.g. {0: "psii"}.

    Raises
    ------
    UsageError
        If a text has another form.
    """
    names = {}
    for pair in pairs:
        number, equals, name = pair.partition("=")
        try:
            names[int(number)] = name.strip()
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"class {pair}: not of the form number=name", "write it like 1=psii")
    return names
