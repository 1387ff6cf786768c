"""Particles as RELION STAR files and as CSV (`motive_lists` has EM and STOPGAP files).

RELION's angles (Rot, Tilt, Psi in degrees) turn the tomogram's frame into the particle's: a particle stands in the
tomogram by the inverse of Rz(rot) Ry(tilt) Rz(psi). Some programs write the rotation itself under the same names; for
their files there is `inverse_angles`.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError, storage_error
from membrain_cloud.geometry import Grid, Picks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

_COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
_CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
_SHIFTS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
PIXEL_SIZES = ("rlnTomoTiltSeriesPixelSize", "rlnPixelSize", "rlnImagePixelSize")
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
    """Particles of one tomogram of a STAR file (RELION 3 to 5).

    Parameters
    ----------
    voxel_spacing_angstrom : of the pixels that the coordinates count; by default what the file says.
    tomogram : its rlnTomoName (or rlnMicrographName); needed when the file holds several.
    origin_angstrom : subtracted from all positions, xyz.
    grid : of the tomogram, needed only for RELION 5's coordinates, which count from its centre.
    inverse_angles : the file's angles turn the particle into the tomogram, the inverse of RELION's convention.

    Raises UsageError, ProjectError or VoxelSpacingError, which say what is missing.
    """
    table = star_particles(path, tomogram)
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
        orientations = _matrices(_numbers(table, _ANGLES, path))
        if inverse_angles:
            orientations = orientations.transpose(0, 2, 1)
    return _picks(table, positions - np.asarray(origin_angstrom, np.float64), orientations)


def read_csv_picks(
    path: str,
    *,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
) -> Picks:
    """Particles of a CSV with columns x_A, y_A, z_A (or x_angstrom ...) in Å, or x, y, z in voxels."""
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
            raise VoxelSpacingError(f"{path}: positions in voxels of unknown size", "give --voxel-spacing")
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
    """Write a STAR file atomically; see `star_text`."""
    text = star_text(
        picks, voxel_spacing_angstrom=voxel_spacing_angstrom, tomogram=tomogram, flavour=flavour, grid=grid
    )
    write_bytes(path, text.encode())


def star_text(
    picks: Picks, *, voxel_spacing_angstrom: float, tomogram: str, flavour: str = "plain", grid: Grid | None = None
) -> str:
    """A particle table, coordinates in voxels of that spacing; equal picks give equal text (no date in it).

    flavour : which program it is for (see FLAVOURS). "plain" is one table; "relion3.1" and "relion4" have an optics
        table with the pixel size; "relion5" counts positions from the tomogram's centre in Å, and needs its `grid`;
        "surforama" has six columns and nothing else: no pixel size, no tomogram, no scores.

    Angles are RELION's, of picks without orientations 0 where a flavour must have them. Our own columns, which RELION
    carries along unread: `rlnMembrane`, and `rlnInPlaneKnown` (0: psi was left open).
    """
    if flavour not in FLAVOURS:
        raise UsageError(f"no STAR flavour {flavour!r}", f"give one of {', '.join(FLAVOURS)}")
    if flavour == "relion5" and grid is None:
        raise UsageError("RELION 5 counts from the tomogram's centre", "give a run with a tomogram")
    voxels = picks.positions / voxel_spacing_angstrom
    columns: dict[str, Any] = {}
    if flavour != "surforama":
        columns["rlnMicrographName" if flavour == "relion3.1" else "rlnTomoName"] = [tomogram] * len(picks)
    if flavour == "relion5" and grid is not None:
        centred = picks.positions - np.array(grid.size_angstrom) / 2
        columns |= {name: centred[:, k] for k, name in enumerate(_CENTRED)}
    else:
        columns |= {name: voxels[:, k] for k, name in enumerate(_COORDINATES)}
    if picks.orientations is not None or flavour != "plain":
        turned = np.tile(np.eye(3), (len(picks), 1, 1)) if picks.orientations is None else picks.orientations
        columns |= {name: _angles(turned)[:, k] for k, name in enumerate(_ANGLES)}
    if flavour == "surforama":
        return _table("", columns)
    columns["rlnAutopickFigureOfMerit"] = picks.scores
    if flavour == "plain":
        columns["rlnPixelSize"] = np.full(len(picks), voxel_spacing_angstrom)
    else:
        columns["rlnOpticsGroup"] = np.ones(len(picks), int)
    columns["rlnMembrane"] = picks.membrane_ids
    if picks.in_plane is not None:
        columns["rlnInPlaneKnown"] = picks.in_plane.astype(int)
    particles = _table("particles", columns)
    if flavour == "plain":
        return particles
    pixel = "rlnImagePixelSize" if flavour == "relion3.1" else "rlnTomoTiltSeriesPixelSize"
    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], pixel: np.array([voxel_spacing_angstrom])}
    return _table("optics", optics) + particles


def _table(name: str, columns: Mapping[str, Any]) -> str:
    head = ["", f"data_{name}", "", "loop_", *(f"_{column} #{k}" for k, column in enumerate(columns, 1))]
    texts = [
        [f"{value:.6f}" if isinstance(value, float) else str(value) for value in np.asarray(values).tolist()]
        for values in columns.values()
    ]
    return "\n".join([*head, *("\t".join(row) for row in zip(*texts, strict=True)), ""])


def temporary_name(path: str) -> str:
    """A name beside `path` that no other process takes."""
    return f"{os.path.dirname(os.path.abspath(path))}/.{os.path.basename(path)}.{uuid.uuid4().hex[:12]}.tmp"


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    temporary = temporary_name(path)
    try:
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _matrices(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) Rot, Tilt, Psi in degrees -> (N, 3, 3) rotations of the particle's frame into the tomogram's."""
    (cr, ct, cp), (sr, st, sp) = np.cos(np.radians(angles)).T, np.sin(np.radians(angles)).T
    rows = (
        (cr * ct * cp - sr * sp, sr * ct * cp + cr * sp, -st * cp),
        (-cr * ct * sp - sr * cp, -sr * ct * sp + cr * cp, st * sp),
        (cr * st, sr * st, ct),
    )
    return np.moveaxis(np.array(rows), 2, 0)


def _angles(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_matrices`. At tilt 0 and 180 only the sum of rot and psi is defined: rot is 0 there."""
    tilt = np.arccos(np.clip(matrices[:, 2, 2], -1.0, 1.0))
    rot = np.arctan2(matrices[:, 2, 1], matrices[:, 2, 0])
    psi = np.arctan2(matrices[:, 1, 2], -matrices[:, 0, 2])
    flat = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1]) < 1e-7
    rot[flat] = 0.0
    psi[flat] = np.arctan2(matrices[flat, 0, 1], matrices[flat, 1, 1])
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def _particle_block(path: str) -> pd.DataFrame:
    """The block with coordinates, joined with the optics block where there is one."""
    import pandas as pd
    import starfile

    try:
        blocks = starfile.read(path, always_dict=True)
    except Exception as error:  # starfile and pandas raise many kinds
        raise ProjectError(f"{path} cannot be read as STAR ({error})", "give a RELION particle file") from error
    tables = {name: pd.DataFrame([block]) if isinstance(block, dict) else block for name, block in blocks.items()}
    for table in tables.values():
        if set(_COORDINATES) <= set(table.columns) or set(_CENTRED) <= set(table.columns):
            optics = tables.get("optics")
            if optics is not None and "rlnOpticsGroup" in table.columns:
                extra = [c for c in optics.columns if c == "rlnOpticsGroup" or c not in table.columns]
                return table.merge(optics[extra], on="rlnOpticsGroup", how="left")
            return table
    raise ProjectError(f"{path} has no coordinates (rlnCoordinateX, Y, Z)", "give a RELION particle file")


def star_particles(path: str, tomogram: str | None = None) -> pd.DataFrame:
    """The rows of one tomogram of a particle file with all their columns; errors as those of `read_star_picks`."""
    return _select(_particle_block(path), path, tomogram)


def _select(table: pd.DataFrame, path: str, tomogram: str | None) -> pd.DataFrame:
    column = next((c for c in ("rlnTomoName", "rlnMicrographName") if c in table.columns), None)
    names = sorted(set(table[column].astype(str))) if column else []
    if tomogram is None:
        if len(names) > 1:
            raise UsageError(
                f"{path} holds particles of {len(names)} tomograms", f"name one of them: {', '.join(names[:5])} ..."
            )
        return table
    if column is None:
        return table
    if tomogram not in names:
        raise ProjectError(f"{path} has no tomogram {tomogram!r}", f"it has: {', '.join(names[:5])} ...")
    return table[table[column].astype(str) == tomogram]


def _pixel_size(table: pd.DataFrame, path: str, given: float | None) -> float:
    if given is not None:
        return given
    for column in PIXEL_SIZES:
        if column in table.columns and len(table):
            sizes = table[column].astype(float).unique()
            if len(sizes) == 1 and sizes[0] > 0:
                return float(sizes[0])
    raise VoxelSpacingError(f"{path} does not say the size of its pixels", "give --voxel-spacing")


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
    numbers = table[membrane].to_numpy(np.int64) if membrane else np.zeros(len(table), np.int64)
    in_plane = table[_IN_PLANE].to_numpy() != 0 if _IN_PLANE in table.columns else None
    return Picks(positions, orientations, scores, numbers, in_plane)
