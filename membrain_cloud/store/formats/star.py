"""Particles as RELION STAR files and as CSV; `motl` has motive lists.

RELION's angles (Rot, Tilt, Psi in degrees) turn the tomogram's frame into the particle's: the particle's orientation is
the inverse of Rz(rot) Ry(tilt) Rz(psi). Some programs write the rotation itself under the same names; for their files
there is `inverse_angles`. How the columns become positions and orientations: `relion.particles`.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.rotations import relion_angles
from membrain_cloud.store.formats.local_input import read_file
from membrain_cloud.store.formats.local_output import write_local_file
from membrain_cloud.store.formats.relion.columns import IN_PLANE, Report, no_report, picks_of_table, required_numbers
from membrain_cloud.store.formats.relion.particles import (
    ANGLES,
    CENTRED,
    COORDINATES,
    orientations_of,
    particle_rows,
    positions_of,
    rows_of_tomogram,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

FLAVOURS = ("plain", "relion3.1", "relion4", "relion5", "surforama")
"""Kinds of STAR file that can be written; all can be read."""

_CSV_ANGSTROM = tuple(
    tuple(pattern.format(axis) for axis in "xyz") for pattern in ("{}_A", "{}_angstrom", "location_{}", "{}_Å")
)


def read_star_picks(
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    tomogram: str | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    grid: Grid | None = None,
    inverse_angles: bool = False,
    report: Report = no_report,
) -> Picks:
    """Read the particles of one tomogram of a STAR file (RELION 3 to 5).

    Parameters
    ----------
    path : str
        The STAR file.
    voxel_spacing_angstrom : float, optional
        Å, of the pixels that the coordinates count. Default: what the file says.
    tomogram : str, optional
        Its rlnTomoName (or rlnMicrographName), as text; needed where the file holds several.
    origin_angstrom : sequence of float
        xyz in Å, subtracted from all positions. Default: 0.
    grid : Grid, optional
        Of the tomogram; needed for RELION 5's coordinates, which count from its centre.
    inverse_angles : bool
        Whether the file's angles turn the particle into the tomogram, the inverse of RELION's convention.
        Default: False.
    report : callable
        Called with one sentence on each assumption. Default: nothing is done with them.

    Returns
    -------
    Picks
        Without orientations where the file has no angles. A table without rows gives no particles.

    Raises
    ------
    ProjectError
        If the file is no particle file, has gaps, or lacks the tomogram.
    UsageError
        If the file holds several tomograms and none is named, or `grid` is needed.
    VoxelSpacingError
        If the size of the pixels is unknown.
    """
    return picks_of_particles(
        star_particles(path, tomogram),
        path,
        voxel_spacing_angstrom=voxel_spacing_angstrom,
        origin_angstrom=origin_angstrom,
        grid=grid,
        inverse_angles=inverse_angles,
        report=report,
    )


def picks_of_particles(
    table: pd.DataFrame,
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    grid: Grid | None = None,
    inverse_angles: bool = False,
    report: Report = no_report,
) -> Picks:
    """Return rows of a particle file as picks, in their order.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of one tomogram, as `star_particles` returns them.
    path : str
        The STAR file, for messages.
    voxel_spacing_angstrom, origin_angstrom, grid, inverse_angles, report
        As in `read_star_picks`.

    Returns
    -------
    Picks
        Without orientations where the file has no angles.

    Raises
    ------
    ProjectError, UsageError, VoxelSpacingError
        As `read_star_picks`.
    """
    if not len(table):
        report("the table has no rows: no particles")
        return Picks(np.zeros((0, 3)))
    orientations, around, rotation_known = orientations_of(table, path, report, inverse_angles=inverse_angles)
    positions = positions_of(table, path, around, voxel_spacing_angstrom, grid, report)
    positions = positions - np.asarray(origin_angstrom, np.float64)
    return picks_of_table(table, positions, orientations, path, report, rotation_known=rotation_known)


def read_csv_picks(
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    report: Report = no_report,
) -> Picks:
    """Read the particles of a CSV file.

    Parameters
    ----------
    path : str
        CSV with columns x_A, y_A, z_A (or x_angstrom ..., location_x ...) in Å, or x, y, z in voxels.
    voxel_spacing_angstrom : float, optional
        Å; needed for positions in voxels.
    origin_angstrom : sequence of float
        xyz in Å, subtracted from all positions. Default: 0.
    report : callable
        Called with one sentence on each assumption. Default: nothing is done with them.

    Returns
    -------
    Picks
        Without orientations.

    Raises
    ------
    ProjectError
        If the file is no CSV, has no columns of positions, or gaps in them.
    VoxelSpacingError
        If positions are in voxels and `voxel_spacing_angstrom` is None.
    """
    table = _csv_table(path)
    for columns in _CSV_ANGSTROM:
        if set(columns) <= set(table.columns):
            positions = required_numbers(table, columns, path)
            break
    else:
        if not {"x", "y", "z"} <= set(table.columns):
            shown = ", ".join(map(str, table.columns[:6]))
            raise ProjectError(
                f"{path} has no columns of positions (its columns: {shown})",
                "name them x_A, y_A, z_A, or x, y, z for voxels",
            )
        if voxel_spacing_angstrom is None:
            raise VoxelSpacingError(
                f"{path}: positions in voxels of unknown size", "give voxel_spacing_angstrom, e.g. 10"
            )
        positions = required_numbers(table, ("x", "y", "z"), path) * voxel_spacing_angstrom
    return picks_of_table(table, positions - np.asarray(origin_angstrom, np.float64), None, path, report)


def _csv_table(path: str) -> pd.DataFrame:
    """Return the rows of a CSV file as text; lines of another number of values than the header has are refused."""
    import pandas as pd

    try:
        rows = [
            row for row in csv.reader(io.StringIO(read_file(path).decode("utf-8-sig")), skipinitialspace=True) if row
        ]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} cannot be read as CSV ({error})", "give a header line and commas") from error
    if not rows:
        raise ProjectError(f"{path} cannot be read as CSV (it is empty)", "give a header line and commas")
    head = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(head):
            raise ProjectError(
                f"{path}: row {number} has {len(row)} values for {len(head)} columns", "correct the incomplete lines"
            )
    if len(set(head)) < len(head):
        raise ProjectError(f"{path} names a column twice ({', '.join(head[:6])})", "remove one of them")
    return pd.DataFrame(rows[1:], columns=head, dtype=str)


def write_star(
    path: str,
    picks: Picks,
    *,
    voxel_spacing_angstrom: float,
    tomogram: str,
    flavour: str = "plain",
    grid: Grid | None = None,
) -> None:
    """Write a STAR file atomically.

    Parameters
    ----------
    path : str
        The file to make or replace.
    picks, voxel_spacing_angstrom, tomogram, flavour, grid
        As in `star_text`.

    Raises
    ------
    UsageError
        As `star_text`.
    StorageError
        If the file cannot be written.
    """
    text = star_text(
        picks, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram=tomogram, flavour=flavour, grid=grid
    )
    write_local_file(path, lambda temporary: temporary.write_bytes(text.encode()))


def star_text(
    picks: Picks,
    *,
    voxel_spacing_angstrom: float,
    tomogram: str | Sequence[str],
    flavour: str = "plain",
    grid: Grid | None = None,
) -> str:
    """Return particles as the text of a STAR file; equal picks give equal text, without a date.

    Angles are RELION's; 0 for picks without orientations where a flavour must have angles. Our own columns, which
    RELION carries along unread, are `rlnMembrane` and `rlnInPlaneKnown` (0 where psi is undetermined).

    Parameters
    ----------
    picks : Picks
        The particles.
    voxel_spacing_angstrom : float
        Å, of the voxels that coordinates count.
    tomogram : str or sequence of str
        The tomogram's name, or that of each pick.
    flavour : str
        One of FLAVOURS, the program that it is for. "plain" is one table. "relion3.1" and "relion4" have an optics
        table with the pixel size. "relion5" counts positions in Å from the tomogram's centre. "surforama" has three
        coordinates and three angles alone. Default: "plain".
    grid : Grid, optional
        Of the tomogram; needed for "relion5".

    Returns
    -------
    str

    Raises
    ------
    UsageError
        If the flavour is unknown, or "relion5" without a grid.
    """
    if flavour not in FLAVOURS:
        raise UsageError(f"no STAR flavour {flavour!r}", f"give one of {', '.join(FLAVOURS)}")
    if flavour == "relion5" and grid is None:
        raise UsageError("RELION 5 counts from the tomogram's centre", "give a run with a tomogram")
    columns = _particle_columns(picks, voxel_spacing_angstrom, tomogram, flavour, grid)
    if flavour == "surforama":
        return _table("", columns)
    if flavour == "plain":
        return _table("particles", columns)
    pixel = "rlnImagePixelSize" if flavour == "relion3.1" else "rlnTomoTiltSeriesPixelSize"
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], pixel: np.array([voxel_spacing_angstrom])}
    return _table("optics", optics) + _table("particles", columns)


def _particle_columns(
    picks: Picks, spacing: float, tomogram: str | Sequence[str], flavour: str, grid: Grid | None
) -> dict[str, Any]:
    """Return the columns of the table of particles, in their order."""
    columns: dict[str, Any] = {}
    if flavour != "surforama":
        columns["rlnMicrographName" if flavour == "relion3.1" else "rlnTomoName"] = (
            [tomogram] * len(picks) if isinstance(tomogram, str) else list(tomogram)
        )
    if flavour == "relion5" and grid is not None:
        centred = picks.positions - np.array(grid.size_angstrom) / 2
        columns |= dict(zip(CENTRED, centred.T, strict=True))
    else:
        columns |= dict(zip(COORDINATES, (picks.positions / spacing).T, strict=True))
    if picks.orientations is not None or flavour != "plain":
        columns |= dict(zip(ANGLES, relion_angles(picks.frames()).T, strict=True))
    if flavour == "surforama":
        return columns
    columns["rlnAutopickFigureOfMerit"] = picks.scores
    if flavour == "plain":
        columns["rlnPixelSize"] = np.full(len(picks), spacing)
    else:
        columns["rlnOpticsGroup"] = np.ones(len(picks), int)
    columns["rlnMembrane"] = picks.membrane_ids
    if picks.in_plane is not None:
        columns[IN_PLANE] = picks.in_plane.astype(int)
    return columns


def _table(name: str, columns: Mapping[str, Any]) -> str:
    head = ["", f"data_{name}", "", "loop_", *(f"_{column} #{k}" for k, column in enumerate(columns, 1))]
    texts = [
        [f"{value:.6f}" if isinstance(value, float) else _quoted(str(value)) for value in np.asarray(values).tolist()]
        for values in columns.values()
    ]
    return "\n".join([*head, *("\t".join(row) for row in zip(*texts, strict=True)), ""])


def _quoted(text: str) -> str:
    """Return a value in quotes where it would be read as several, as a gap or as a keyword."""
    bare = text and not text.startswith(("_", "#", "'", '"', "data_", "loop_")) and len(text.split()) == 1
    return text if bare else f'"{text}"'


def star_particles(path: str, tomogram: str | None = None) -> pd.DataFrame:
    """Return the rows of one tomogram of a particle file, with all their columns.

    Parameters
    ----------
    path : str
        The STAR file.
    tomogram : str, optional
        Its name; needed where the file holds several.

    Returns
    -------
    pandas.DataFrame
        The table with coordinates, joined with the optics table where there is one. All values are text as written.

    Raises
    ------
    ProjectError
        If the file is no particle file, or lacks the tomogram.
    UsageError
        If the file holds several tomograms and none is named.
    """
    return rows_of_tomogram(particle_rows(path), path, tomogram)
