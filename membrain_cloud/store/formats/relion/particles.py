"""RELION's rules for particles of a tomogram: what the columns of a STAR file mean.

- Position: the centred coordinates (Å from the tomogram's centre) where they are there, else pixel coordinates times
  the pixel size; minus the shift, turned by the subtomogram's orientation.
- Orientation: that of the subtomogram times that of the particle in it.
- Shifts are in Å (rlnOriginXAngst); in RELION 3.0 in pixels (rlnOriginX). A missing component is 0.

References
----------
RELION 5, `src/jaz/tomography/particle_set.cpp`: getPosition, getMatrix3x3, getParticleCoordDecenteredPixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.rotations import orientations_from_relion_angles
from membrain_cloud.store.formats.relion.columns import optional_numbers, required_numbers
from membrain_cloud.store.formats.relion.tables import read_star_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid
    from membrain_cloud.store.formats.relion.columns import Report

COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
"""Coordinates in pixels."""
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
"""Coordinates in Å from the tomogram's centre."""
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
"""Angles of the particle."""

_SUBTOMOGRAM = tuple(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi"))
_PRIORS = tuple(f"{name}Prior" for name in ANGLES)
_SHIFTS_ANGSTROM = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
_SHIFTS_PIXELS = tuple(f"rlnOrigin{axis}" for axis in "XYZ")
_PIXEL_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnPixelSize", "rlnMicrographPixelSize", "rlnImagePixelSize")
# Of RELION 3.0: µm of the detector, and the magnification.
_DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
_ANGSTROM_PER_UM = 1e4
_GROUP, _NAMES = "rlnOpticsGroup", ("rlnTomoName", "rlnMicrographName")
_SHOWN = 5


def particle_rows(path: str) -> pd.DataFrame:
    """Return the table of particles of a STAR file, joined with the optics table where there is one.

    Parameters
    ----------
    path : str
        The STAR file.

    Returns
    -------
    pandas.DataFrame
        Values as text. Rows whose optics group is not listed have empty values in the columns of the optics table.

    Raises
    ------
    ProjectError
        If the file cannot be read, has no table with coordinates or several, or lists an optics group twice with
        different pixel sizes.
    """
    tables = read_star_tables(path)
    particles = [(name, table) for name, table in tables if has_coordinates(table.columns)]
    named = [table for name, table in particles if name == "particles"] or [table for _, table in particles]
    if not named:
        raise ProjectError(f"{path} has no coordinates (rlnCoordinateX, Y, Z)", "give a RELION particle file")
    if len(named) > 1:
        raise ProjectError(f"{path} holds {len(named)} tables of particles", "give each in a file of its own")
    optics = [table for name, table in tables if name == "optics" and _GROUP in table.columns]
    table = named[0]
    return _with_optics(table, optics, path) if optics and _GROUP in table.columns else table


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
    return set(COORDINATES) <= present or set(CENTRED) <= present


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
    column = next((name for name in _NAMES if name in table.columns), None)
    return None if column is None else table[column].tolist()


def _with_optics(table: pd.DataFrame, optics: Sequence[pd.DataFrame], path: str) -> pd.DataFrame:
    import pandas as pd

    listed = pd.concat(optics, ignore_index=True).fillna("")
    listed["key"] = listed[_GROUP].map(_group_key)
    sizes = [column for column in (*_PIXEL_SIZES, *_DETECTOR) if column in listed.columns]
    different = listed.drop_duplicates(["key", *sizes])["key"].duplicated()
    if different.any():
        group = listed.drop_duplicates(["key", *sizes])["key"][different].iloc[0]
        raise ProjectError(
            f"{path}: optics group {group} is listed with different pixel sizes", "remove the wrong line"
        )
    extra = [column for column in listed.columns if column not in table.columns and column != "key"]
    rows = listed.drop_duplicates("key").set_index("key")[extra]
    found = rows.reindex(table[_GROUP].map(_group_key)).fillna("")
    found.index = table.index
    return pd.concat([table, found], axis=1)


def _group_key(text: str) -> str:
    """Return an optics group's number as text, so that 1, 01 and 1.0 are one group; names stay."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def rows_of_tomogram(table: pd.DataFrame, path: str, tomogram: str | None) -> pd.DataFrame:
    """Return the rows of one tomogram.

    Parameters
    ----------
    table : pandas.DataFrame
        Particles of a STAR file.
    path : str
        The file's name for errors.
    tomogram : str or None
        Its name as text; needed where the table holds several.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ProjectError
        If the table lacks the tomogram.
    UsageError
        If it holds several tomograms and none is named.
    """
    of_rows = tomogram_names(table)
    if of_rows is None or not of_rows:
        return table
    names = sorted(set(of_rows))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = f"{', '.join(names[:_SHOWN])}{more}"
    if tomogram is None:
        if len(names) > 1:
            raise UsageError(f"{path} holds particles of {len(names)} tomograms", f"name one of them: {listed}")
        return table
    if tomogram not in names:
        raise ProjectError(f"{path} has no tomogram {tomogram!r}", f"it has: {listed}")
    return table[[name == tomogram for name in of_rows]]


def states_pixel_size(table: pd.DataFrame) -> bool:
    """Return whether a table has a column of pixel sizes."""
    return bool(set(_PIXEL_SIZES) & set(table.columns)) or set(_DETECTOR) <= set(table.columns)


def positions_of(
    table: pd.DataFrame,
    path: str,
    subtomogram: NDArray[np.float64] | None,
    voxel_spacing_angstrom: float | None,
    grid: Grid | None,
    report: Report,
) -> NDArray[np.float64]:
    """Return the positions of particles.

    Parameters
    ----------
    table : pandas.DataFrame
        N particles of one tomogram.
    path : str
        The file's name for errors.
    subtomogram : (N, 3, 3) array of float64 or None
        Orientations of the subtomograms, in whose frames the shifts are; None for the tomogram's.
    voxel_spacing_angstrom : float or None
        Å of the pixels that coordinates count; None for what the table says.
    grid : Grid or None
        Of the tomogram, for coordinates that count from its centre.
    report : callable
        Called with one sentence on each assumption.

    Returns
    -------
    (N, 3) array of float64
        xyz in Å.

    Raises
    ------
    ProjectError
        If a value is missing or no number.
    UsageError
        If `grid` is needed.
    VoxelSpacingError
        If the size of the pixels is needed and unknown.
    """
    if set(CENTRED) <= set(table.columns):
        if grid is None:
            raise UsageError(f"{path}: coordinates count from the tomogram's centre", "give the tomogram's grid")
        positions = required_numbers(table, CENTRED, path) + np.array(grid.size_angstrom) / 2
        if set(COORDINATES) <= set(table.columns):
            report("coordinates from the tomogram's centre are taken, not those in pixels, as RELION 5 does")
    else:
        pixels = _pixel_sizes(table, path, voxel_spacing_angstrom)
        positions = required_numbers(table, COORDINATES, path) * pixels
    shifts = _shifts(table, path, voxel_spacing_angstrom, report)
    if shifts is None:
        return positions
    return positions - (shifts if subtomogram is None else np.einsum("nij,nj->ni", subtomogram, shifts))


def _shifts(
    table: pd.DataFrame, path: str, voxel_spacing_angstrom: float | None, report: Report
) -> NDArray[np.float64] | None:
    """Return the shifts (N, 3) in Å, or None."""
    for columns in (_SHIFTS_ANGSTROM, _SHIFTS_PIXELS):
        if set(columns) & set(table.columns):
            zero = np.zeros((len(table), 1))
            parts = [required_numbers(table, [c], path) if c in table.columns else zero for c in columns]
            shifts: NDArray[np.float64] = np.concatenate(parts, axis=1)
            break
    else:
        return None
    if columns == _SHIFTS_ANGSTROM or not shifts.any():
        return shifts
    # Shifts count pixels of the image, coordinates those of the tomogram, whose size may have been given.
    own = voxel_spacing_angstrom is None or states_pixel_size(table)
    sizes = _pixel_sizes(table, path, None if own else voxel_spacing_angstrom, image=True)
    report(f"shifts (rlnOriginX, Y, Z) are in pixels of {np.unique(sizes).round(4).tolist()[0]:g} Å, as in RELION 3.0")
    return shifts * sizes


def _pixel_sizes(
    table: pd.DataFrame, path: str, voxel_spacing_angstrom: float | None, *, image: bool = False
) -> NDArray[np.float64]:
    """Return the pixel size (N, 1) of each particle in Å: of its coordinates, or of its image."""
    if voxel_spacing_angstrom is not None:
        return np.full((len(table), 1), voxel_spacing_angstrom)
    for column in reversed(_PIXEL_SIZES) if image else _PIXEL_SIZES:
        if column in table.columns:
            sizes = optional_numbers(table, column, path)
            break
    else:
        if not set(_DETECTOR) <= set(table.columns):
            raise VoxelSpacingError(
                f"{path} does not say the size of its pixels{_span(table, path)}",
                "give voxel_spacing_angstrom, e.g. 10",
            )
        detector, magnification = (optional_numbers(table, name, path) for name in _DETECTOR)
        sizes = detector * _ANGSTROM_PER_UM / np.where(magnification > 0, magnification, np.nan)
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        groups = sorted(set(table[_GROUP][bad])) if _GROUP in table.columns else []
        of_groups = f" (of optics groups {', '.join(groups[:_SHOWN])})" if groups else ""
        raise VoxelSpacingError(
            f"{path}: the size of the pixels of {bad.sum()} of {len(table)} particles is unknown{of_groups}",
            "add it to the optics table, or give voxel_spacing_angstrom, e.g. 10",
        )
    return sizes[:, None]


def _span(table: pd.DataFrame, path: str) -> str:
    """Return the range of the coordinates in words: from 0 to 1 they are no pixels."""
    if not set(COORDINATES) <= set(table.columns):
        return ""
    values = required_numbers(table, COORDINATES, path)
    low, high = values.min(), values.max()
    normalised = "; they look normalised, not as pixels" if low >= 0 and high <= 1 and low != high else ""
    return f" (coordinates from {low:g} to {high:g}{normalised})"


def orientations_of(
    table: pd.DataFrame, path: str, report: Report, *, inverse_angles: bool
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, bool]:
    """Return the orientations of particles.

    Parameters
    ----------
    table : pandas.DataFrame
        N particles of one tomogram.
    path : str
        The file's name for errors.
    report : callable
        Called with one sentence on each assumption.
    inverse_angles : bool
        Whether the particles' angles are the inverse of RELION's.

    Returns
    -------
    (N, 3, 3) array of float64 or None
        Orientations of the particles; None where the table has no angles.
    (N, 3, 3) array of float64 or None
        Orientations of their subtomograms; None where these are the tomogram's.
    bool
        Whether the rotation about the particles' own z axis is known.

    Raises
    ------
    ProjectError
        If an angle is missing or no number, or the subtomograms' angles are incomplete.
    """
    columns = set(table.columns)
    around = None
    if columns & set(_SUBTOMOGRAM):
        missing = [name for name in _SUBTOMOGRAM if name not in columns]
        if missing:
            raise ProjectError(
                f"{path} has the subtomograms' angles without {', '.join(missing)}", "write all three of them"
            )
        around = orientations_from_relion_angles(required_numbers(table, _SUBTOMOGRAM, path))
    names: tuple[str, ...] = ANGLES
    if around is None and not columns & set(ANGLES) and set(_PRIORS[1:]) <= columns:
        names = _PRIORS
        report("the file has prior angles alone (rlnAngleTiltPrior, rlnAnglePsiPrior): they are taken")
    rot, tilt, psi = names
    if not {tilt, psi} <= columns:
        if columns & set(names):
            report(f"orientations are left out: {', '.join(n for n in names if n not in columns)} is missing")
        return around, around, True
    angles = np.zeros((len(table), 3))
    angles[:, 1:] = required_numbers(table, (tilt, psi), path)
    if rot in columns:
        angles[:, :1] = required_numbers(table, (rot,), path)
    else:
        report(f"{rot} is missing: the particles' axes are known, the rotation about them is not")
    own = orientations_from_relion_angles(angles)
    own = own.transpose(0, 2, 1) if inverse_angles else own
    return own if around is None else around @ own, around, rot in columns
