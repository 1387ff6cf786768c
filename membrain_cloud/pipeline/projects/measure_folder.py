"""Statistics of a folder that membrain-stats reads: its meshes and particles are measured into our tables.

No project and no tomogram is needed. What only a tomogram can say (its size, how far its border is, how dense a
membrane) is NULL in the rows.
"""

from __future__ import annotations

import datetime
import os
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
from membrain_cloud.store.formats.membrain_stats import (
    MembraneFile,
    Units,
    list_folder,
    read_mesh,
    read_particles,
    read_star,
)
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION, receipt_name
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.tables.parquet_tables import Tables

# The part of a run's rows: there is no tomogram to name it by.
PLACE = "meshes"
# What only a tomogram says.
_OF_TOMOGRAM = {
    "tomograms": ("shape_z", "shape_y", "shape_x", "volume_um3"),
    "membranes": ("touches_border",),
    "particles": ("distance_to_border_nm",),
}


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is to be read.

    dataset : the tables' partition.  units : see Units.  particles : a STAR file with the particles of all runs (its
    rlnTomoName is the run), in place of one a membrane.  objects : name of each class number; others are called
    `object_name`, with the number behind it where there are several.  inverse_angles : the STAR files' angles turn the
    particle into the tomogram, the inverse of RELION's and membrain-stats' convention.
    """

    dataset: str
    units: Units = field(default_factory=Units)
    particles: str | None = None
    object_name: str = "particle"
    objects: Mapping[int, str] = field(default_factory=dict)
    inverse_angles: bool = False


@dataclass(frozen=True)
class RunMeasured:
    """What became of one run's membranes. state : "done", "skipped" (measured before, the same way) or "failed".

    left_out : particles on no membrane.  bad_membranes : of these, the table `membranes` says why.
    """

    run: str
    state: str
    membranes: int
    particles: int
    left_out: int
    seconds: float
    message: str = ""
    bad_membranes: int = 0


def measure_folder(
    folder: str,
    tables: Tables,
    settings: Settings,
    options: FolderOptions,
    *,
    report: Callable[[RunMeasured], None] = lambda _: None,
) -> list[RunMeasured]:
    """Measure every membrane of a folder into `tables`, run by run; a run that fails does not stop the others.

    A run whose files and settings are those of its receipt is not measured again.
    Raises ProjectError where the folder has no meshes.
    """
    found = []
    for run, group in groupby(list_folder(folder), key=lambda file: file.run):
        files, started = list(group), time.monotonic()
        try:
            measured = _measure_run(run, files, tables, settings, options)
        except MembrainCloudError as error:
            measured = RunMeasured(run, "failed", len(files), 0, 0, 0.0, str(error))
        measured = replace(measured, seconds=round(time.monotonic() - started, 3))
        report(measured)
        found.append(measured)
    return found


def _measure_run(
    run: str, files: Sequence[MembraneFile], tables: Tables, settings: Settings, options: FolderOptions
) -> RunMeasured:
    link = digest_of("measure-folder", MEASURE.digest_settings(settings), MEASURE.data_version)
    digest = digest_of(link, [file.sha256 for file in files], _decisive(options))
    address = f"measure/{options.dataset}/{run}/{PLACE}"
    receipt, receipts = receipt_name(address, "complete", digest), tables.receipts
    if (known := receipts.read(receipt)) is not None:
        return _outcome(run, "skipped", known["counts"])
    receipts.forget(address)
    meshes, unreadable = _meshes(files, options)
    picks, names, left_out = _particles(run, files, meshes, settings.measure.reach_nm, options)
    rows = measure_meshes(run, link, meshes, picks, names, settings, options.dataset)
    for row in rows["membranes"]:
        row["error"] = unreadable.get(row["membrane_id"], row["error"])
    for table, found in rows.items():
        tables.write_part(table, options.dataset, f"{run}/{PLACE}", found)
    bad = sum(row["error"] is not None for row in rows["membranes"])
    counts = {"membranes": len(meshes), "particles": len(rows["particles"]), "left_out": left_out, "bad_membranes": bad}
    receipts.write(
        receipt,
        {
            "receipt_version": RECEIPT_VERSION,
            "digest": digest,
            "stage": "measure",
            "run": run,
            "inputs": {
                str(file.number): [os.path.basename(path) for path in (file.mesh, file.star) if path] for file in files
            },
            "settings": {**MEASURE.digest_settings(settings), **_decisive(options)},
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "counts": counts,
        },
    )
    return _outcome(run, "done", counts)


def _outcome(run: str, state: str, counts: Mapping[str, int]) -> RunMeasured:
    known = (counts["membranes"], counts["particles"], counts["left_out"])
    return RunMeasured(run, state, *known, 0.0, bad_membranes=counts["bad_membranes"])


def _meshes(files: Sequence[MembraneFile], options: FolderOptions) -> tuple[dict[int, Mesh], dict[int, str]]:
    """The meshes by number, and why some cannot be read: these are empty. ProjectError where none can."""
    meshes: dict[int, Mesh] = {}
    unreadable: dict[int, str] = {}
    for file in files:
        try:
            meshes[file.number] = read_mesh(file, options.units)
        except ProjectError as error:
            if len(unreadable) == len(files) - 1:
                raise
            meshes[file.number] = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))
            unreadable[file.number] = error.message
    return meshes, unreadable


def _decisive(options: FolderOptions) -> dict[str, Any]:
    star = None if options.particles is None else sha256(Path(options.particles).read_bytes()).hexdigest()
    return {
        "mesh_multiplier": options.units.mesh,
        "position_multiplier": options.units.positions,
        "particles": star,
        "object_name": options.object_name,
        "objects": {str(number): name for number, name in sorted(options.objects.items())},
        "inverse_angles": options.inverse_angles,
    }


def _particles(
    run: str, files: Sequence[MembraneFile], meshes: Mapping[int, Mesh], reach_nm: float, options: FolderOptions
) -> tuple[Picks | None, list[str], int]:
    """All particles of a run with the number of their membrane, what each is, and how many are on no membrane."""
    from membrain_cloud.picking.assignment import nearest_membranes

    parts: list[tuple[Picks, list[int]]] = []
    if options.particles is not None:
        picks, classes = read_star(
            options.particles, options.units, tomogram=run, inverse_angles=options.inverse_angles
        )
        numbers = nearest_membranes(meshes, picks.positions, within_angstrom=10.0 * reach_nm)
        parts.append((replace(picks, membrane_ids=numbers), classes))
    else:
        for file in files:
            found, classes = read_particles(file, options.units, inverse_angles=options.inverse_angles)
            if found is not None:
                own = {file.number: meshes[file.number]}
                numbers = nearest_membranes(own, found.positions, within_angstrom=10.0 * reach_nm)
                parts.append((replace(found, membrane_ids=numbers), classes))
    if not parts:
        return None, [], 0
    picks = Picks.concatenate([picks for picks, _ in parts])
    if len(picks) and not picks.membrane_ids.any():
        raise InputError(
            f"{run}: none of the {len(picks)} particles lies within {reach_nm:g} nm of its membrane",
            "check the units: --pixel-size-multiplier and --pixel-size-multiplier-positions; or raise measure.reach_nm",
        )
    every = [number for _, classes in parts for number in classes]
    several = len(set(every)) > 1
    names = [
        options.objects.get(number, f"{options.object_name}-{number}" if several else options.object_name)
        for number in every
    ]
    return picks, names, int((picks.membrane_ids == 0).sum())


def measure_meshes(
    run: str,
    digest: str,
    meshes: Mapping[int, Mesh],
    picks: Picks | None,
    names: Sequence[str],
    settings: Settings,
    dataset: str,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of all tables for one run's meshes, with their key columns and without what needs a tomogram."""
    from membrain_cloud.statistics.measure import Membrane, measure_tomogram, tomogram_row

    chosen, grid = settings.measure, _around(meshes, picks)
    keys = {
        "dataset_id": dataset,
        "run_name": run,
        "tomogram_id": PLACE,
        "voxel_spacing_angstrom": None,
        "segmentation": None,
        "digest": digest,
    }
    membranes = {}
    for number, mesh in sorted(meshes.items()):
        on_it = None if picks is None else picks.membrane_ids == number
        membranes[number] = Membrane(
            mesh,
            None if picks is None else picks.select(np.flatnonzero(picks.membrane_ids == number)),
            np.zeros(len(mesh.vertices), bool),
            "" if on_it is None else [name for name, here in zip(names, on_it, strict=True) if here],
        )
    found = measure_tomogram(membranes, grid=grid, options=chosen.options(), kinds=sorted(set(names)))
    rows = {table: [keys | row for row in some] for table, some in found.items()}
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
    for table, columns in _OF_TOMOGRAM.items():
        rows[table] = [row | dict.fromkeys(columns) for row in rows[table]]
    return rows


def _around(meshes: Mapping[int, Mesh], picks: Picks | None) -> Grid:
    """A grid that holds everything; nothing that hangs on it is kept."""
    places = [mesh.vertices for mesh in meshes.values()] + ([] if picks is None else [picks.positions])
    far = [np.abs(some[np.isfinite(some)]).max(initial=0.0) for some in places]
    edge = int(max(far, default=0.0) / 10.0) + 2
    return Grid((edge, edge, edge), 10.0)


def parse_classes(pairs: Sequence[str]) -> dict[int, str]:
    """`0=psii` -> {0: "psii"}. UsageError for anything else."""
    found = {}
    for pair in pairs:
        number, equals, name = pair.partition("=")
        try:
            found[int(number)] = name.strip()
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UsageError(f"--class {pair}: not of the form number=name", "try --class 1=psii")
    return found
