"""Measure membranes and their particles: the entry points, and the list of all statistics.

How to add a statistic
----------------------
1. Columns: describe them in `schema/membranes.py` or `schema/particles.py` (name with its unit, kind, description).
2. Table: for a new table, put the columns behind the key columns in `TABLES`, and the columns that identify a row in
   `ROW_KEYS`; both in `schema/tables.py`.
3. Rows: write a function from `MeasuredMembrane` to a list of rows in `rows/`. Quantities that several statistics share
   go into `model/measured_membrane.py` as cached properties, the mathematics behind them into `membrane/` (the surface)
   or `spatial/` (particles to each other).
4. List: add the function to `STATISTICS` below, under the name of its table.
5. Test against a closed form in `tests/statistics/`; run `python docs/generate.py`, which writes the reference of
   tables; describe the statistic in `docs/statistics/`.
   If results of existing tables change, raise the `data_version` of the stage `measure`.

A column in an existing table needs steps 1 and 5 and a line in the table's row function. A local property (a value
everywhere on the surface) needs a `Scale` in `membrane/surface_properties.py` and its values in
`MeasuredMembrane.properties`; all histograms and curves against it follow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.membrane.bilayer_thickness import Density
from membrain_cloud.statistics.membrane.gaps import find_gaps
from membrain_cloud.statistics.membrane.lamella import Lamella
from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane
from membrain_cloud.statistics.model.options import Options
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.rows.chains import chain_member_rows, chain_rows, random_chain_rows
from membrain_cloud.statistics.rows.membrane_pairs import membrane_pair_rows
from membrain_cloud.statistics.rows.membranes import class_rows, density_profile_rows, histogram_rows, membrane_rows
from membrain_cloud.statistics.rows.pair_counts import binned_pair_count_rows, pair_count_rows, random_pair_count_rows
from membrain_cloud.statistics.rows.particles import (
    binned_neighbor_rows,
    neighbor_rows,
    particle_histogram_rows,
    particle_rows,
)
from membrain_cloud.statistics.schema.column import Row
from membrain_cloud.statistics.schema.membranes import MEMBRANES
from membrain_cloud.statistics.schema.tables import MEMBRANE_KEYS, TABLES, TOMOGRAM_KEYS
from membrain_cloud.statistics.spatial.ripley import Ripley, ripley_from_pair_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from membrain_cloud.geometry import Grid, Mesh

__all__ = [
    "MEMBRANE_KEYS",
    "STATISTICS",
    "TABLES",
    "TOMOGRAM_KEYS",
    "Density",
    "Lamella",
    "MeasuredMembrane",
    "Membrane",
    "Options",
    "Ripley",
    "measure_membrane",
    "measure_tomogram",
    "ripley_from_pair_counts",
    "tomogram_row",
]

Rows = dict[str, list[Row]]
"""Table -> its rows."""

STATISTICS: dict[str, Callable[[MeasuredMembrane], list[Row]]] = {
    "membranes": membrane_rows,
    "membrane_histograms": histogram_rows,
    "density_profiles": density_profile_rows,
    "membrane_particles": class_rows,
    "particles": particle_rows,
    "particle_histograms": particle_histogram_rows,
    "neighbors": neighbor_rows,
    "binned_neighbors": binned_neighbor_rows,
    "pair_counts": pair_count_rows,
    "binned_pair_counts": binned_pair_count_rows,
    "random_pair_counts": random_pair_count_rows,
    "chains": chain_rows,
    "chain_members": chain_member_rows,
    "random_chains": random_chain_rows,
}
"""Table -> the function that makes its rows of one membrane, without key columns."""

# What a mesh that cannot be measured raises: it is reported in its own row, and the other membranes go on.
_MEASURE_ERRORS = (ValueError, ArithmeticError, np.linalg.LinAlgError)


def measure_membrane(
    membrane: Membrane,
    *,
    grid: Grid,
    options: Options,
    kinds: Sequence[str] = (),
    density: Density | None = None,
    lamella: Lamella | None = None,
    origin: str = "",
) -> Rows:
    """Compute all statistics of one membrane by itself.

    Particles are placed at the nearest point of the surface, oriented ones on the leaflet that they point out of.
    Particles without a finite position are listed in `particles` and counted nowhere.

    Parameters
    ----------
    membrane : Membrane
        The membrane and its particles.
    grid : Grid
        Voxel grid of the tomogram.
    options : Options
        What to measure.
    kinds : sequence of str
        Names of particles that could be on the membrane, so that absent kinds are counted as 0.
    density : Density or None
        Density around the membrane, for the bilayer; None measures no bilayer.
    lamella : Lamella or None
        Surfaces of the lamella; None if unknown.
    origin : str
        Run, tomogram and number of the membrane: seeds of random numbers depend on it. Default: on the mesh, the
        particles and the options alone.

    Returns
    -------
    dict of str to list of Row
        Table -> rows, without key columns.

    Raises
    ------
    ValueError
        If the mesh cannot be measured (see `mesh.repair.repaired`), or if the number of border flags or object names is
        wrong.
    """
    measured = prepare_membrane(membrane, grid=grid, options=options, kinds=kinds, origin=origin)
    gaps = None
    if options.gap_nm > 0:
        gaps = find_gaps({0: measured.with_rims}, reach_angstrom=options.gap_angstrom)[0].of_faces(measured.in_rims)
    return _rows_of(replace(measured, gaps=gaps, density=density, lamella=lamella))


def measure_tomogram(
    membranes: Mapping[int, Membrane],
    *,
    grid: Grid,
    options: Options,
    kinds: Sequence[str] = (),
    density_about: Callable[[Mesh], Density | None] | None = None,
    lamella: Lamella | None = None,
    origin: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> Rows:
    """Compute all statistics of a tomogram's membranes, and of the distances between them.

    A membrane that cannot be measured has a row in `membranes` that says why, and no other.

    Parameters
    ----------
    membranes : mapping of int to Membrane
        Number of the membrane -> the membrane and its particles.
    grid : Grid
        Voxel grid of the tomogram.
    options : Options
        What to measure.
    kinds : sequence of str
        Names of particles that could be on the membranes, so that absent kinds are counted as 0.
    density_about : callable or None
        Returns the density around a mesh. It is called once a membrane, so that one density is held at a time. None
        measures no bilayers.
    lamella : Lamella or None
        Surfaces of the lamella; None if unknown.
    origin : str
        Name of the tomogram among all whose tables are pooled: seeds of random numbers depend on it. Default: seeds
        depend on numbers of membranes, meshes, particles and options alone.
    progress : callable
        Called with numbers of membranes, as they are finished. Default: nothing is called.

    Returns
    -------
    dict of str to list of Row
        Table -> rows with `membrane_id`, without the other key columns.
    """
    rows: Rows = {table: [] for table in (*STATISTICS, "membrane_pairs")}
    prepared: dict[int, MeasuredMembrane] = {}
    for number, membrane in sorted(membranes.items()):
        try:
            prepared[number] = prepare_membrane(
                membrane, grid=grid, options=options, kinds=kinds, origin=f"{origin}/{number}"
            )
        except _MEASURE_ERRORS as error:
            rows["membranes"].append(_failed_row(number, error))
            progress(1)
    meshes = {number: measured.with_rims for number, measured in prepared.items()}
    gaps = find_gaps(meshes, reach_angstrom=options.gap_angstrom) if options.gap_nm > 0 else {}
    for number in list(prepared):
        measured = replace(prepared.pop(number), lamella=lamella)
        if number in gaps:
            measured = replace(measured, gaps=gaps[number].of_faces(measured.in_rims))
        try:
            density = None if density_about is None else density_about(measured.shell.mesh)
            own_rows = _rows_of(replace(measured, density=density))
            if number in gaps:
                own_rows["membrane_pairs"] = membrane_pair_rows(
                    number, gaps[number], meshes, contact_angstrom=options.contact_angstrom
                )
        except _MEASURE_ERRORS as error:
            rows["membranes"].append(_failed_row(number, error))
        else:
            for table, some in _numbered(own_rows, number):
                rows[table] += some
        progress(1)
    rows["membranes"].sort(key=lambda row: row["membrane_id"])
    return rows


def _rows_of(measured: MeasuredMembrane) -> Rows:
    """Run all statistics on one membrane."""
    return {table: statistic(measured) for table, statistic in STATISTICS.items()}


def _numbered(own_rows: Rows, number: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield each table's rows with the membrane's number in front."""
    for table, rows in own_rows.items():
        yield table, [{"membrane_id": number} | row for row in rows]


def _failed_row(number: int, error: Exception) -> Row:
    """Return the row of `membranes` of a membrane that cannot be measured."""
    unknown: Row = {column.name: None for column in MEMBRANES}
    return {"membrane_id": number} | unknown | {"error": str(error) or type(error).__name__}


def tomogram_row(  # noqa: PLR0913 - one keyword a column of the table
    grid: Grid,
    *,
    n_membranes: int,
    n_failed_membranes: int,
    n_particles: int | None,
    mesh_uri: str | None,
    picks_uri: str | None,
    density_uri: str | None,
    lamella_uri: str | None,
    package_version: str,
    data_version: str,
) -> Row:
    """Return the row of `tomograms`, without key columns.

    It holds no times and no names of machines, so that equal runs give equal tables.

    Parameters
    ----------
    grid : Grid
        Voxel grid of the tomogram.
    n_membranes : int
        Membranes that have a mesh.
    n_failed_membranes : int
        Membranes that could not be measured.
    n_particles : int or None
        Particles measured; None if particles are not measured.
    mesh_uri, picks_uri, density_uri, lamella_uri : str or None
        Where the inputs come from; None for inputs that are not used.
    package_version : str
        Version of membrain_cloud.
    data_version : str
        Version of what the code makes of the same input.

    Returns
    -------
    Row
        The row.
    """
    return {
        "shape_z": grid.shape[0],
        "shape_y": grid.shape[1],
        "shape_x": grid.shape[2],
        "volume_um3": grid.voxels * (grid.voxel_spacing_angstrom * 1e-4) ** 3,
        "n_membranes": n_membranes,
        "n_failed_membranes": n_failed_membranes,
        "n_particles": n_particles,
        "mesh_uri": mesh_uri,
        "picks_uri": picks_uri,
        "density_uri": density_uri,
        "lamella_uri": lamella_uri,
        "package_version": package_version,
        "data_version": data_version,
    }
