"""Particles as RELION STAR files and as CSV; `motl` has motive lists.

RELION's angles (Rot, Tilt, Psi in degrees) turn the tomogram's frame into the particle's: the particle's orientation is
the inverse of Rz(rot) Ry(tilt) Rz(psi). Some programs write the rotation itself under the same names; for their files
there is `inverse_angles`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.rotations import orientations_from_relion_angles, relion_angles
from membrain_cloud.store.formats.local_output import write_local_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

_COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
_CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
_SHIFTS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
PIXEL_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnPixelSize", "rlnImagePixelSize")
"""Columns that give the size of the pixels that coordinates count, the preferred one first."""

_TOMOGRAMS = ("rlnTomoName", "rlnMicrographName")
_SCORES = ("rlnAutopickFigureOfMerit", "rlnLCCmax", "score")
_MEMBRANES = ("rlnMembrane", "membrane_id", "instance_id")
_IN_PLANE = "rlnInPlaneKnown"
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
) -> Picks:
    """Read the particles of one tomogram of a STAR file (RELION 3 to 5).

    Parameters
    ----------
    path : str
        The STAR file.
    voxel_spacing_angstrom : float, optional
        Å, of the pixels that the coordinates count. Default: what the file says.
    tomogram : str, optional
        Its rlnTomoName (or rlnMicrographName); needed where the file holds several.
    origin_angstrom : sequence of float
        xyz in Å, subtracted from all positions. Default: 0.
    grid : Grid, optional
        Of the tomogram; needed for RELION 5's coordinates, which count from its centre.
    inverse_angles : bool
        Whether the file's angles turn the particle into the tomogram, the inverse of RELION's convention.
        Default: False.

    Returns
    -------
    Picks
        Without orientations where the file has no angles.

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
    )


def picks_of_particles(
    table: pd.DataFrame,
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
    grid: Grid | None = None,
    inverse_angles: bool = False,
) -> Picks:
    """Return rows of a particle file as picks, in their order.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of one tomogram, as `star_particles` returns them.
    path : str
        The STAR file, for messages.
    voxel_spacing_angstrom, origin_angstrom, grid, inverse_angles
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
    if set(_CENTRED) <= set(table.columns) and not set(_COORDINATES) <= set(table.columns):
        if grid is None:
            raise UsageError(f"{path}: coordinates count from the tomogram's centre", "give the tomogram's grid")
        positions = _numbers(table, _CENTRED, path) + np.array(grid.size_angstrom) / 2
    else:
        positions = _numbers(table, _COORDINATES, path) * _pixel_size(table, path, voxel_spacing_angstrom)
    if set(_SHIFTS) <= set(table.columns):
        positions = positions - _numbers(table, _SHIFTS, path)
    orientations = None
    if set(_ANGLES) <= set(table.columns):
        orientations = orientations_from_relion_angles(_numbers(table, _ANGLES, path))
        if inverse_angles:
            orientations = orientations.transpose(0, 2, 1)
    return _picks(table, positions - np.asarray(origin_angstrom, np.float64), orientations)


def read_csv_picks(
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
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
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise ProjectError(f"{path} cannot be read as CSV ({error})", "give a header line and commas") from error
    for columns in _CSV_ANGSTROM:
        if set(columns) <= set(table.columns):
            positions = _numbers(table, columns, path)
            break
    else:
        if not {"x", "y", "z"} <= set(table.columns):
            raise ProjectError(f"{path} has no columns of positions", "name them x_A, y_A, z_A, or x, y, z for voxels")
        if voxel_spacing_angstrom is None:
            raise VoxelSpacingError(
                f"{path}: positions in voxels of unknown size", "give voxel_spacing_angstrom, e.g. 10"
            )
        positions = _numbers(table, ("x", "y", "z"), path) * voxel_spacing_angstrom
    return _picks(table, positions - np.asarray(origin_angstrom, np.float64), None)


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
    picks: Picks, *, voxel_spacing_angstrom: float, tomogram: str, flavour: str = "plain", grid: Grid | None = None
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
    tomogram : str
        The tomogram's name.
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


def _particle_columns(picks: Picks, spacing: float, tomogram: str, flavour: str, grid: Grid | None) -> dict[str, Any]:
    """Return the columns of the table of particles, in their order."""
    columns: dict[str, Any] = {}
    if flavour != "surforama":
        columns["rlnMicrographName" if flavour == "relion3.1" else "rlnTomoName"] = [tomogram] * len(picks)
    if flavour == "relion5" and grid is not None:
        centred = picks.positions - np.array(grid.size_angstrom) / 2
        columns |= dict(zip(_CENTRED, centred.T, strict=True))
    else:
        columns |= dict(zip(_COORDINATES, (picks.positions / spacing).T, strict=True))
    if picks.orientations is not None or flavour != "plain":
        columns |= dict(zip(_ANGLES, relion_angles(picks.frames()).T, strict=True))
    if flavour == "surforama":
        return columns
    columns["rlnAutopickFigureOfMerit"] = picks.scores
    if flavour == "plain":
        columns["rlnPixelSize"] = np.full(len(picks), spacing)
    else:
        columns["rlnOpticsGroup"] = np.ones(len(picks), int)
    columns["rlnMembrane"] = picks.membrane_ids
    if picks.in_plane is not None:
        columns[_IN_PLANE] = picks.in_plane.astype(int)
    return columns


def _table(name: str, columns: Mapping[str, Any]) -> str:
    head = ["", f"data_{name}", "", "loop_", *(f"_{column} #{k}" for k, column in enumerate(columns, 1))]
    texts = [
        [f"{value:.6f}" if isinstance(value, float) else str(value) for value in np.asarray(values).tolist()]
        for values in columns.values()
    ]
    return "\n".join([*head, *("\t".join(row) for row in zip(*texts, strict=True)), ""])


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
        The table with coordinates, joined with the optics table where there is one.

    Raises
    ------
    ProjectError
        If the file is no particle file, or lacks the tomogram.
    UsageError
        If the file holds several tomograms and none is named.
    """
    return _rows_of_tomogram(particle_rows(path), path, tomogram)


def has_coordinates(columns: Iterable[str]) -> bool:
    """Return whether columns of a block are those of particles: it has coordinates.

    Parameters
    ----------
    columns : iterable of str
        Names of the block's columns, without "_" in front.

    Returns
    -------
    bool
        Whether positions can be read from it.
    """
    present = set(columns)
    return set(_COORDINATES) <= present or set(_CENTRED) <= present


def tomogram_names(table: pd.DataFrame) -> list[str] | None:
    """Return the name of each particle's tomogram.

    Parameters
    ----------
    table : pandas.DataFrame
        Particles, as `particle_rows` returns them.

    Returns
    -------
    list of str or None
        As the file writes them; None if the file names no tomograms.
    """
    column = next((c for c in _TOMOGRAMS if c in table.columns), None)
    return None if column is None else [str(name) for name in table[column]]


def particle_rows(path: str) -> pd.DataFrame:
    """Return all particles of a file, joined with the optics block where there is one.

    Parameters
    ----------
    path : str
        The STAR file.

    Returns
    -------
    pandas.DataFrame
        The rows of the block with coordinates, in their order.

    Raises
    ------
    ProjectError
        If the file is no particle file.
    """
    import pandas as pd
    import starfile

    try:
        blocks = starfile.read(path, always_dict=True)
    except Exception as error:  # starfile and pandas raise many kinds
        raise ProjectError(f"{path} cannot be read as STAR ({error})", "give a RELION particle file") from error
    tables = {name: pd.DataFrame([block]) if isinstance(block, dict) else block for name, block in blocks.items()}
    for table in tables.values():
        if has_coordinates(table.columns):
            optics = tables.get("optics")
            if optics is not None and "rlnOpticsGroup" in table.columns:
                extra = [c for c in optics.columns if c == "rlnOpticsGroup" or c not in table.columns]
                return table.merge(optics[extra], on="rlnOpticsGroup", how="left")
            return table
    raise ProjectError(f"{path} has no coordinates (rlnCoordinateX, Y, Z)", "give a RELION particle file")


def _rows_of_tomogram(table: pd.DataFrame, path: str, tomogram: str | None) -> pd.DataFrame:
    of_rows = tomogram_names(table)
    names = sorted(set(of_rows or ()))
    if tomogram is None:
        if len(names) > 1:
            raise UsageError(
                f"{path} holds particles of {len(names)} tomograms", f"name one of them: {', '.join(names[:5])} ..."
            )
        return table
    if of_rows is None:
        return table
    if tomogram not in names:
        raise ProjectError(f"{path} has no tomogram {tomogram!r}", f"it has: {', '.join(names[:5])} ...")
    return table[[name == tomogram for name in of_rows]]


def _pixel_size(table: pd.DataFrame, path: str, voxel_spacing_angstrom: float | None) -> float:
    if voxel_spacing_angstrom is not None:
        return voxel_spacing_angstrom
    for column in PIXEL_SIZES:
        if column in table.columns and len(table):
            sizes = table[column].astype(float).unique()
            if len(sizes) == 1 and sizes[0] > 0:
                return float(sizes[0])
    raise VoxelSpacingError(f"{path} does not say the size of its pixels", "give voxel_spacing_angstrom, e.g. 10")


def _numbers(table: pd.DataFrame, columns: Sequence[str], path: str) -> NDArray[np.float64]:
    try:
        values = table[list(columns)].to_numpy(np.float64)
    except (ValueError, KeyError) as error:
        raise ProjectError(f"{path}: {', '.join(columns)} are not numbers ({error})", "correct the file") from error
    if not np.isfinite(values).all():
        raise ProjectError(f"{path}: {', '.join(columns)} have gaps", "correct or remove the incomplete lines")
    return values


def _picks(table: pd.DataFrame, positions: NDArray[np.float64], orientations: NDArray[np.float64] | None) -> Picks:
    score = next((c for c in _SCORES if c in table.columns), None)
    membrane = next((c for c in _MEMBRANES if c in table.columns), None)
    scores = table[score].to_numpy(np.float64) if score else np.ones(len(table))
    membranes = table[membrane].to_numpy(np.int64) if membrane else np.zeros(len(table), np.int64)
    in_plane = table[_IN_PLANE].to_numpy() != 0 if _IN_PLANE in table.columns else None
    return Picks(positions, orientations, scores, membranes, in_plane)
