"""Particles as motive lists: EM files of AV3 and TOM, and STOPGAP's STAR files, which hold the same facts.

An EM motive list has 20 rows and a column for each particle. Row 1 is the score, row 6 the membrane, rows 8-10 the
position in whole voxels from 1, and rows 11-13 the rest of it. Rows 17-19 are the angles phi, psi, theta in degrees,
which turn the reference into the tomogram: about z by phi, about x by theta, about z by psi. Row 20 is the class: 1, or
2 where the in-plane angle is undetermined.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Picks
from membrain_cloud.rotations import orientations_from_zxz_angles, zxz_angles
from membrain_cloud.store.formats.local_input import check_regular_file, unreadable
from membrain_cloud.store.formats.local_output import write_local_file
from membrain_cloud.store.formats.relion.columns import Report, no_report, required_numbers
from membrain_cloud.store.formats.relion.tables import read_star_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 20
# A column of STOPGAP's -> the row (from 0) of an EM motive list with the same meaning; None: no such row.
_STOPGAP: dict[str, int | None] = {
    "motl_idx": 3, "tomo_num": 4, "object": 5, "subtomo_num": None, "halfset": None,
    "orig_x": 7, "orig_y": 8, "orig_z": 9, "score": 0, "x_shift": 10, "y_shift": 11, "z_shift": 12,
    "phi": 16, "psi": 17, "the": 18, "class": 19,
}  # fmt: skip
_STOPGAP_ROWS = {name: row for name, row in _STOPGAP.items() if row is not None}
# Bytes in which STOPGAP's table is named, if it is one.
_BEGINNING_BYTES = 4096
_LARGEST_NUMBER = 2**31


def write_motive_list(path: str, picks: Picks, *, voxel_spacing_angstrom: float, tomogram_number: int) -> None:
    """Write an EM motive list atomically.

    Parameters
    ----------
    path : str
        The file to make or replace.
    picks : Picks
        The particles.
    voxel_spacing_angstrom : float
        Å, of the voxels that positions count.
    tomogram_number : int
        The tomogram's number in the list.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    import emfile

    rows = _rows(picks, voxel_spacing_angstrom, tomogram_number).astype(np.float32)
    # an EM file's first axis is the fastest: 20 numbers a particle
    write_local_file(path, lambda temporary: emfile.write(str(temporary), np.ascontiguousarray(rows.T)[None]))


def read_motive_list(
    path: str,
    *,
    voxel_spacing_angstrom: float | None,
    tomogram_number: int | None = None,
    report: Report = no_report,
) -> Picks:
    """Read the particles of an EM motive list; those of class 0 or less are left out.

    Parameters
    ----------
    path : str
        The EM file.
    voxel_spacing_angstrom : float or None
        Å, of the voxels that positions count; the file has none.
    tomogram_number : int, optional
        Of the tomogram in the list; needed where it holds several.
    report : callable
        Called with one sentence on particles that are left out. Default: nothing is done with it.

    Returns
    -------
    Picks

    Raises
    ------
    ProjectError
        If the file is no motive list, or has gaps.
    UsageError
        If it holds several tomograms and none is named.
    VoxelSpacingError
        If `voxel_spacing_angstrom` is None.
    """
    import emfile

    check_regular_file(path)
    try:
        _, values = emfile.read(path)
        if np.asarray(values).shape[-1] != _ROWS:
            raise ValueError(f"its first axis is {np.asarray(values).shape[-1]} long, not {_ROWS}")
        rows = np.asarray(values, np.float64).reshape(-1, _ROWS).T
    except Exception as error:  # emfile raises many kinds
        raise ProjectError(f"{path} cannot be read as a motive list ({error})", "give an EM file of 20 x N") from error
    return _picks(rows, path, voxel_spacing_angstrom, tomogram_number, report)


def stopgap_text(picks: Picks, *, voxel_spacing_angstrom: float, tomogram_number: int) -> str:
    """Return particles as the text of a STOPGAP motive list; equal picks give equal text.

    Parameters
    ----------
    picks, voxel_spacing_angstrom, tomogram_number
        As in `write_motive_list`.

    Returns
    -------
    str
    """
    rows = _rows(picks, voxel_spacing_angstrom, tomogram_number)
    ids = range(1, len(picks) + 1)
    whole = {"tomo_num": rows[4], "object": rows[5], "orig_x": rows[7], "orig_y": rows[8], "orig_z": rows[9]}
    real = {"score": 0, "x_shift": 10, "y_shift": 11, "z_shift": 12, "phi": 16, "psi": 17, "the": 18}
    columns = {"motl_idx": list(ids), "subtomo_num": list(ids), "class": rows[19].astype(int).tolist()}
    columns |= {name: values.astype(int).tolist() for name, values in whole.items()}
    columns |= {name: [f"{value:.6f}" for value in rows[row].tolist()] for name, row in real.items()}
    columns["halfset"] = ["A" if number % 2 else "B" for number in ids]
    head = ["", "data_stopgap_motivelist", "", "loop_", *(f"_{name}" for name in _STOPGAP)]
    lines = [" ".join(str(columns[name][k]) for name in _STOPGAP) for k in range(len(picks))]
    return "\n".join([*head, *lines, ""])


def write_stopgap(path: str, picks: Picks, *, voxel_spacing_angstrom: float, tomogram_number: int) -> None:
    """Write a STOPGAP motive list atomically.

    Parameters
    ----------
    path : str
        The file to make or replace.
    picks, voxel_spacing_angstrom, tomogram_number
        As in `write_motive_list`.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    text = stopgap_text(picks, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram_number=tomogram_number)
    write_local_file(path, lambda temporary: temporary.write_bytes(text.encode()))


def is_stopgap(path: str) -> bool:
    """Return whether a STAR file is a STOPGAP motive list.

    Parameters
    ----------
    path : str
        The STAR file.

    Returns
    -------
    bool

    Raises
    ------
    ProjectError
        If the file cannot be read.
    """
    check_regular_file(path)
    try:
        with Path(path).open("rb") as file:
            return b"data_stopgap_motivelist" in file.read(_BEGINNING_BYTES)
    except OSError as error:
        raise ProjectError(unreadable(path, error), "check the path and its permissions") from error


def read_stopgap(
    path: str,
    *,
    voxel_spacing_angstrom: float | None,
    tomogram_number: int | None = None,
    report: Report = no_report,
) -> Picks:
    """Read the particles of a STOPGAP motive list; those of class 0 or less are left out.

    Parameters
    ----------
    path : str
        The STAR file.
    voxel_spacing_angstrom, tomogram_number, report
        As in `read_motive_list`.

    Returns
    -------
    Picks

    Raises
    ------
    ProjectError, UsageError, VoxelSpacingError
        As `read_motive_list`.
    """
    tables = dict(read_star_tables(path))
    table = tables.get("stopgap_motivelist")
    missing = [name for name in _STOPGAP_ROWS if table is None or name not in table.columns]
    if table is None or missing:
        cause = f"{path} cannot be read as a STOPGAP motive list ({', '.join(missing)} is missing)"
        raise ProjectError(cause, "give a file with the columns that STOPGAP writes")
    rows = np.zeros((_ROWS, len(table)))
    if len(table):
        rows[list(_STOPGAP_ROWS.values())] = required_numbers(table, list(_STOPGAP_ROWS), path).T
    return _picks(rows, path, voxel_spacing_angstrom, tomogram_number, report)


def _rows(picks: Picks, voxel_spacing_angstrom: float, tomogram_number: int) -> NDArray[np.float64]:
    """Return the rows (20, N) of an EM motive list."""
    rows = np.zeros((_ROWS, len(picks)))
    voxels = picks.positions / voxel_spacing_angstrom
    whole = np.floor(voxels + 0.5)
    rows[0], rows[3] = picks.scores, np.arange(1, len(picks) + 1)
    rows[4], rows[5] = tomogram_number, picks.membrane_ids
    rows[7:10], rows[10:13] = whole.T + 1, (voxels - whole).T
    if picks.orientations is not None:
        rows[16:19] = zxz_angles(picks.orientations)[:, [0, 2, 1]].T
    rows[19] = 1 if picks.in_plane is None else np.where(picks.in_plane, 1, 2)
    return rows


def _picks(
    rows: NDArray[np.float64],
    path: str,
    voxel_spacing_angstrom: float | None,
    tomogram_number: int | None,
    report: Report,
) -> Picks:
    if voxel_spacing_angstrom is None:
        raise VoxelSpacingError(f"{path}: positions in voxels of unknown size", "give voxel_spacing_angstrom, e.g. 10")
    if not np.isfinite(rows).all():
        bad = (~np.isfinite(rows)).any(axis=0).sum()
        raise ProjectError(f"{path} has gaps in {bad} of {rows.shape[1]} particles", "correct or remove them")
    if (np.abs(rows[[4, 5]]) >= _LARGEST_NUMBER).any() or (rows[[4, 5]] % 1 != 0).any():
        raise ProjectError(f"{path}: numbers of tomograms and objects are not whole numbers", "correct the file")
    numbers = np.unique(rows[4]).astype(int).tolist()
    if tomogram_number is None and len(numbers) > 1:
        raise UsageError(f"{path} holds particles of {len(numbers)} tomograms", f"name one of {numbers[:8]}")
    selected = rows[:, (rows[19] > 0) & ((rows[4] == tomogram_number) | (tomogram_number is None))]
    left_out = int(((rows[19] <= 0) & ((rows[4] == tomogram_number) | (tomogram_number is None))).sum())
    if left_out:
        report(f"{left_out} particles of class 0 or less are left out")
    phi, psi, theta = selected[16:19]
    return Picks(
        (selected[7:10] - 1 + selected[10:13]).T * voxel_spacing_angstrom,
        orientations_from_zxz_angles(np.stack([phi, theta, psi], axis=1)),
        selected[0].copy(),
        selected[5].astype(np.int64),
        selected[19] != 2,
    )
