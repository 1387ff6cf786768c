"""Particles as motive lists: EM files of AV3 and TOM, and STOPGAP's STAR files, which hold the same facts.

Positions count voxels from 1. The angles phi, psi, theta (degrees) turn the reference into the tomogram: about z by
phi, about x by theta, about z by psi.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError, storage_error
from membrain_cloud.geometry import Picks
from membrain_cloud.store.formats.star import temporary_name, write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A column of STOPGAP's -> the row (from 0) of an EM motive list with the same meaning; None: no such row.
_STOPGAP: dict[str, int | None] = {
    "motl_idx": 3, "tomo_num": 4, "object": 5, "subtomo_num": None, "halfset": None,
    "orig_x": 7, "orig_y": 8, "orig_z": 9, "score": 0, "x_shift": 10, "y_shift": 11, "z_shift": 12,
    "phi": 16, "psi": 17, "the": 18, "class": 19,
}  # fmt: skip
_STOPGAP_ROWS = {name: row for name, row in _STOPGAP.items() if row is not None}


def write_motive_list(path: str, picks: Picks, *, voxel_spacing_angstrom: float, tomogram_number: int) -> None:
    """Write an EM motive list (20 x N, as STOPGAP's ancestors AV3 and TOM have it) atomically.

    Positions count voxels from 1: whole ones in rows 8-10, the rest in the shifts of rows 11-13. Angles phi, psi, theta
    (rows 17-19, degrees) turn the reference into the tomogram: about z by phi, about x by theta, about z by psi. Row 1
    is the score, row 6 the membrane, row 20 the class: 1, or 2 where the in-plane angle was left open.
    """
    import emfile

    rows = _rows(picks, voxel_spacing_angstrom, tomogram_number).astype(np.float32)
    temporary = temporary_name(path)
    try:
        # an EM file's first axis is the fastest: 20 numbers a particle
        emfile.write(temporary, np.ascontiguousarray(rows.T)[None])
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_motive_list(path: str, *, voxel_spacing_angstrom: float | None, tomogram_number: int | None = None) -> Picks:
    """Particles of an EM motive list; see `write_motive_list`. Particles of class 0 or less are left out.

    Raises ProjectError for another file; UsageError where it holds several tomograms and none is named;
    VoxelSpacingError without a spacing: the file has none.
    """
    import emfile

    try:
        _, values = emfile.read(path)
        rows = np.asarray(values, np.float64).reshape(-1, 20).T
    except Exception as error:  # emfile raises many kinds
        raise ProjectError(f"{path} cannot be read as a motive list ({error})", "give an EM file of 20 x N") from error
    return _picks(rows, path, voxel_spacing_angstrom, tomogram_number)


def stopgap_text(picks: Picks, *, voxel_spacing_angstrom: float, tomogram_number: int) -> str:
    """A STOPGAP motive list (STAR): the same facts as in an EM motive list; equal picks give equal text."""
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
    """Write a STOPGAP motive list atomically; see `stopgap_text`."""
    text = stopgap_text(picks, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram_number=tomogram_number)
    write_bytes(path, text.encode())


def is_stopgap(path: str) -> bool:
    """Whether a STAR file is a STOPGAP motive list. Raises StorageError where it cannot be read."""
    try:
        with open(path, "rb") as opened:
            return b"data_stopgap_motivelist" in opened.read(4096)
    except OSError as error:
        raise storage_error(error, path) from error


def read_stopgap(path: str, *, voxel_spacing_angstrom: float | None, tomogram_number: int | None = None) -> Picks:
    """Particles of a STOPGAP motive list; raises as `read_motive_list`."""
    import pandas as pd
    import starfile

    try:
        block = starfile.read(path, always_dict=True)["stopgap_motivelist"]
        table = pd.DataFrame([block]) if isinstance(block, dict) else block
        rows = np.zeros((20, len(table)))
        for name, row in _STOPGAP_ROWS.items():
            rows[row] = table[name].to_numpy(np.float64)
    except Exception as error:  # starfile and pandas raise many kinds
        cause = f"{path} cannot be read as a STOPGAP motive list ({error})"
        raise ProjectError(cause, "give a file with the columns that STOPGAP writes") from error
    return _picks(rows, path, voxel_spacing_angstrom, tomogram_number)


def _rows(picks: Picks, voxel_spacing_angstrom: float, tomogram_number: int) -> NDArray[np.float64]:
    """(20, N) as in an EM motive list."""
    rows = np.zeros((20, len(picks)))
    voxels = picks.positions / voxel_spacing_angstrom
    whole = np.floor(voxels + 0.5)
    rows[0], rows[3] = picks.scores, np.arange(1, len(picks) + 1)
    rows[4], rows[5] = tomogram_number, picks.membrane_ids
    rows[7:10], rows[10:13] = whole.T + 1, (voxels - whole).T
    if picks.orientations is not None:
        rows[16:19] = _zxz_angles(picks.orientations)[:, [0, 2, 1]].T
    rows[19] = 1 if picks.in_plane is None else np.where(picks.in_plane, 1, 2)
    return rows


def _picks(
    rows: NDArray[np.float64], path: str, voxel_spacing_angstrom: float | None, tomogram_number: int | None
) -> Picks:
    if voxel_spacing_angstrom is None:
        raise VoxelSpacingError(f"{path}: positions in voxels of unknown size", "give --voxel-spacing")
    numbers = np.unique(rows[4]).astype(int).tolist()
    if tomogram_number is None and len(numbers) > 1:
        raise UsageError(f"{path} holds particles of {len(numbers)} tomograms", f"name one of {numbers[:8]}")
    chosen = rows[:, (rows[19] > 0) & ((rows[4] == tomogram_number) | (tomogram_number is None))]
    if not np.isfinite(chosen).all():
        raise ProjectError(f"{path} has gaps", "correct or remove the incomplete particles")
    phi, psi, theta = chosen[16:19]
    return Picks(
        (chosen[7:10] - 1 + chosen[10:13]).T * voxel_spacing_angstrom,
        _zxz_matrices(np.stack([phi, theta, psi], axis=1)),
        chosen[0].copy(),
        chosen[5].astype(np.int64),
        chosen[19] != 2,
    )


def _zxz_matrices(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) phi, theta, psi in degrees -> Rz(psi) Rx(theta) Rz(phi)."""
    (cf, ct, cp), (sf, st, sp) = np.cos(np.radians(angles)).T, np.sin(np.radians(angles)).T
    rows = (
        (cp * cf - sp * ct * sf, -cp * sf - sp * ct * cf, sp * st),
        (sp * cf + cp * ct * sf, -sp * sf + cp * ct * cf, -cp * st),
        (st * sf, st * cf, ct),
    )
    return np.moveaxis(np.array(rows), 2, 0)


def _zxz_angles(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_zxz_matrices`: phi, theta, psi. At theta 0 and 180 phi is 0."""
    theta = np.arccos(np.clip(matrices[:, 2, 2], -1.0, 1.0))
    phi = np.arctan2(matrices[:, 2, 0], matrices[:, 2, 1])
    psi = np.arctan2(matrices[:, 0, 2], -matrices[:, 1, 2])
    flat = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1]) < 1e-7
    phi[flat] = 0.0
    psi[flat] = np.arctan2(matrices[flat, 1, 0], matrices[flat, 0, 0])
    return np.degrees(np.stack([phi, theta, psi], axis=1))
