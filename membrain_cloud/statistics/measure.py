"""What is counted and measured on membranes: rows of the tables, without their key columns.

To add a statistic: write a function from `Measured` to rows, name its columns in `membrane_columns` or
`particle_columns`, the table in `columns.TABLES`, and add a line to STATISTICS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.rotations import relion_angles
from membrain_cloud.statistics.membrane.bilayer_thickness import Density
from membrain_cloud.statistics.membrane.gaps import find_gaps, pair_rows
from membrain_cloud.statistics.membrane.lamella import Lamella
from membrain_cloud.statistics.model.measured_membrane import Measured, prepare
from membrain_cloud.statistics.model.options import Options
from membrain_cloud.statistics.rows.chains import chain_member_rows, chain_rows, random_chain_rows
from membrain_cloud.statistics.rows.membranes import class_rows, density_profile_rows, histogram_rows, membrane_rows
from membrain_cloud.statistics.rows.pair_counts import binned_pair_count_rows, pair_count_rows, random_pair_count_rows
from membrain_cloud.statistics.rows.particles import (
    binned_neighbor_rows,
    neighbor_rows,
    particle_histogram_rows,
    particle_rows,
)
from membrain_cloud.statistics.schema.membranes import MEMBRANES
from membrain_cloud.statistics.schema.row import Row
from membrain_cloud.statistics.schema.tables import MEMBRANE_KEYS, TABLES, TOMOGRAM_KEYS, Column
from membrain_cloud.statistics.spatial.ripley import Ripley, ripley_from_pair_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks

__all__ = [
    "MEMBRANE_KEYS",
    "STATISTICS",
    "TABLES",
    "TOMOGRAM_KEYS",
    "Column",
    "Density",
    "Lamella",
    "Measured",
    "Membrane",
    "Options",
    "Ripley",
    "measure_membrane",
    "measure_tomogram",
    "relion_angles",
    "ripley_from_pair_counts",
    "tomogram_row",
]

Rows = dict[str, list[Row]]

STATISTICS: dict[str, Callable[[Measured], list[Row]]] = {
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


@dataclass(frozen=True, eq=False)
class Membrane:
    """A membrane to be measured: parameters as `measure_membrane` has them."""

    mesh: Mesh
    picks: Picks | None
    border_vertices: NDArray[np.bool_]
    object_names: str | Sequence[str]


def measure_membrane(
    mesh: Mesh,
    picks: Picks | None,
    *,
    grid: Grid,
    border_vertices: NDArray[np.bool_],
    object_names: str | Sequence[str],
    options: Options,
    kinds: Sequence[str] = (),
    density: Density | None = None,
    lamella: Lamella | None = None,
) -> Rows:
    """All statistics of one membrane by itself: table -> rows, without the key columns, which the caller knows.

    Parameters
    ----------
    mesh : the closed shell around the membrane.
    picks : the particles of this membrane; None: none were asked for (their number is then unknown, not 0).
    grid : of the tomogram.
    border_vertices : (V,) the vertices that close the shell at the tomogram's border. Faces of three such vertices are
        no membrane: they are left out of areas, and no distance leads over them.
    object_names : what the particles are, one name for all or (N,).
    kinds : what particles there could be, for membranes on which there are none of some.
    density : of the tomogram about the membrane, for its bilayer.  lamella : None: not known.

    Particles are placed at the nearest point of the surface, oriented ones on the leaflet that they look out of; those
    whose position is not finite are on no list but that of particles.
    Raises ValueError for a mesh that cannot be measured (`repair.repaired` says which), or arguments whose lengths do
    not agree.
    """
    measured = prepare(
        mesh, picks, grid=grid, border_vertices=border_vertices, object_names=object_names, options=options, kinds=kinds
    )
    gaps = (
        find_gaps({0: measured.surface.mesh}, reach_angstrom=10.0 * options.gap_nm)[0] if options.gap_nm > 0 else None
    )
    return _rows_of(replace(measured, gaps=gaps, density=density, lamella=lamella))


def measure_tomogram(
    membranes: Mapping[int, Membrane],
    *,
    grid: Grid,
    options: Options,
    kinds: Sequence[str] = (),
    density_about: Callable[[Mesh], Density | None] | None = None,
    lamella: Lamella | None = None,
) -> Rows:
    """All statistics of a tomogram's membranes, by number, and of their distances: rows with `membrane_id`.

    density_about : the density about a mesh, read when it is its turn; None: no bilayers are measured.
    A membrane that cannot be measured has a row in `membranes` that says why, and no other.
    """
    rows: Rows = {table: [] for table in (*STATISTICS, "membrane_pairs")}
    prepared: dict[int, Measured] = {}
    for number, membrane in sorted(membranes.items()):
        try:
            prepared[number] = prepare(
                membrane.mesh,
                membrane.picks,
                grid=grid,
                border_vertices=membrane.border_vertices,
                object_names=membrane.object_names,
                options=options,
                kinds=kinds,
            )
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            _fail(rows, number, error)
    meshes = {number: measured.surface.mesh for number, measured in prepared.items()}
    gaps = find_gaps(meshes, reach_angstrom=10.0 * options.gap_nm) if options.gap_nm > 0 else {}
    for number in list(prepared):
        measured = replace(prepared.pop(number), gaps=gaps.get(number), lamella=lamella)
        try:
            density = None if density_about is None else density_about(measured.shell.mesh)
            found = _rows_of(replace(measured, density=density))
            if number in gaps:
                contact = 10.0 * options.contact_nm
                found["membrane_pairs"] = pair_rows(number, gaps[number], meshes, contact_angstrom=contact)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            _fail(rows, number, error)
            continue
        for table, some in _numbered(found, number):
            rows[table] += some
    rows["membranes"].sort(key=lambda row: row["membrane_id"])
    return rows


def _rows_of(measured: Measured) -> Rows:
    return {table: statistic(measured) for table, statistic in STATISTICS.items()}


def _numbered(found: Rows, number: int) -> Iterator[tuple[str, list[Row]]]:
    for table, rows in found.items():
        yield table, [{"membrane_id": number} | row for row in rows]


def _fail(rows: Rows, number: int, error: Exception) -> None:
    unknown: Row = {column.name: None for column in MEMBRANES}
    rows["membranes"].append({"membrane_id": number} | unknown | {"error": str(error) or type(error).__name__})


def tomogram_row(
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
    """The row of `tomograms`, without key columns. Nothing volatile: equal runs give equal tables."""
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
