"""Checks of the meshes and picks that a caller passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Mesh, Picks

if TYPE_CHECKING:
    from membrain_cloud.geometry import Grid

PicksByMembrane = Mapping[int, Picks]
_PARTICLE = "particle"
# Meshes may reach this far beyond the centres of the outermost voxels: a shell lies outside of its mask.
_OVERHANG_VOXELS = 5.0


def checked_meshes(meshes: Any, grid: Grid | None = None) -> dict[int, Mesh]:
    """Return meshes with their vertices as float64, by ascending number.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of each membrane to its mesh, xyz in Å.
    grid : Grid, optional
        Voxel grid of the tomogram. With it, meshes that reach far beyond the tomogram are refused. Default: none.

    Returns
    -------
    dict of int to Mesh
        The meshes, their arrays not copied where they have the right dtype.

    Raises
    ------
    InputError
        If `meshes` is no such mapping, the arrays of a mesh have other shapes or dtypes than `Mesh` states, vertices
        are not finite, or a mesh does not lie in the tomogram.
    """
    checked = {}
    for number, mesh in sorted(_by_number(meshes, "meshes", Mesh, "mesh").items()):
        vertices = _numbers(mesh.vertices, f"membrane {number}: the vertices of its mesh", (3,))
        faces = np.asarray(mesh.faces)
        if not len(vertices) or not np.isfinite(vertices).all():
            what = "vertices that are not finite" if len(vertices) else "no vertices"
            raise InputError(f"membrane {number}: its mesh has {what}", "correct the mesh, or leave the membrane out")
        if faces.size and (faces.dtype.kind not in "iu" or faces.ndim != 2 or faces.shape[1] != 3):
            raise InputError(
                f"membrane {number}: the faces of its mesh have shape {faces.shape} and dtype {faces.dtype}",
                "pass the indices of three vertices a face, as integers of shape (F, 3)",
            )
        if grid is not None:
            _check_inside(number, vertices, grid)
        checked[number] = replace(mesh, vertices=vertices, faces=faces.reshape(-1, 3))
    return checked


def checked_picks(picks: Any, name: str) -> Picks:
    """Return picks with their positions as float64.

    Parameters
    ----------
    picks : Picks
        N particles, xyz in Å.
    name : str
        What the picks are, for the error message.

    Returns
    -------
    Picks
        The picks.

    Raises
    ------
    InputError
        If `picks` is no `Picks`, or its arrays have other shapes than that states. Positions may be NaN.
    """
    if not isinstance(picks, Picks):
        raise InputError(f"{name}: of type {type(picks).__name__}", "pass membrain_cloud.Picks(positions)")
    positions = _numbers(picks.positions, f"{name}: positions", (3,))
    expected = {"orientations": (3, 3), "scores": (), "membrane_ids": (), "in_plane": ()}
    for field, shape in expected.items():
        values = getattr(picks, field)
        if values is not None and np.shape(values) != (len(positions), *shape):
            # An empty array of no particles has any shape: that of `Picks.concatenate` and that of a default differ.
            if not len(positions) and not np.size(values):
                continue
            raise InputError(
                f"{name}: {field} of shape {np.shape(values)} for {len(positions)} positions",
                f"pass {field} of shape {(len(positions), *shape)}",
            )
    return replace(picks, positions=positions)


def picks_by_class(picks: Any, meshes: Mapping[int, Mesh]) -> dict[str, dict[int, Picks]] | None:
    """Return picks as one mapping for each class of particles.

    Parameters
    ----------
    picks : mapping of int to Picks, mapping of str to such mappings, or None
        The particles of each membrane, or for each class of particles those of each membrane.
    meshes : mapping of int to Mesh
        The meshes of the membranes.

    Returns
    -------
    dict of str to dict of int to Picks, or None
        Class of particles -> number of the membrane -> its particles; None for None.

    Raises
    ------
    InputError
        If `picks` is no such mapping, or particles lie on a membrane without a mesh.
    """
    if picks is None:
        return None
    has_classes = isinstance(picks, Mapping) and picks and all(isinstance(key, str) for key in picks)
    by_class = {}
    for name, of_class in (picks if has_classes else {_PARTICLE: picks}).items():
        what = f"picks of {name!r}" if has_classes else "picks"
        numbered = _by_number(of_class, what, Picks, "picks")
        by_class[name] = {key: checked_picks(some, f"{what} on membrane {key}") for key, some in numbered.items()}
        missing = sorted(number for number, some in by_class[name].items() if len(some) and number not in meshes)
        if missing:
            numbers = ", ".join(map(str, missing))
            raise InputError(f"{what} on membranes without a mesh: {numbers}", "pass the meshes of these too")
    return by_class


def _by_number(values: Any, name: str, kind: type, example: str) -> dict[int, Any]:
    """Return a mapping of membrane numbers to instances of a class."""
    next_step = f"pass a dict of membrane numbers, such as {{1: {example}}}"
    if not isinstance(values, Mapping):
        raise InputError(f"{name}: of type {type(values).__name__}", next_step)
    for number, value in values.items():
        if not isinstance(number, Integral) or not isinstance(value, kind):
            raise InputError(f"{name}: an entry {number!r} of type {type(value).__name__}", next_step)
    return {int(number): value for number, value in values.items()}


def _numbers(values: Any, name: str, item: tuple[int, ...]) -> Any:
    """Return values as float64, (N, *item)."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are no numbers ({error})", "pass x, y and z in Å") from None
    if array.shape[1:] == item and array.ndim == len(item) + 1:
        return array
    if not array.size:
        return array.reshape(0, *item)
    raise InputError(f"{name} have shape {array.shape}", "pass x, y and z in Å, of shape (N, 3)")


def _check_inside(number: int, vertices: Any, grid: Grid) -> None:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    overhang = _OVERHANG_VOXELS * grid.voxel_spacing_angstrom
    if (low < -overhang).any() or (high > np.array(grid.size_angstrom) + overhang).any():
        corners = [", ".join(f"{value:.0f}" for value in corner) for corner in (low, high, grid.size_angstrom)]
        raise InputError(
            f"membrane {number}: its mesh reaches from ({corners[0]}) to ({corners[1]}) Å, beyond the tomogram, "
            f"which ends at ({corners[2]}) Å (x, y, z)",
            "pass the voxel spacing in Å, and meshes in Å that count from the tomogram's first voxel",
        )
