"""Membranes with closed forms in the middle of one tomogram, particles at random on them, and their statistics."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.statistics.measure import Membrane, Options, measure_membrane
from standins.shapes import OPTIONS, Shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = Grid((100, 200, 200), 10.0)
MIDDLE = (1000.0, 1000.0, 500.0)
_OPTIONS = replace(OPTIONS, cutoff_nm=40.0, bin_width_nm=2.0, chains=None, gap_nm=100.0)


def sphere(count: int, radius: float) -> Mesh:
    """Return a sphere in the middle of `GRID`."""
    return Shapes().sphere(count, radius, MIDDLE)


def vesicle(outer: float, inner: float) -> Mesh:
    """Return the shell of a spherical membrane in the middle of `GRID`."""
    return Shapes().vesicle(outer, inner, MIDDLE, counts=(2000, 1500))


def slab(size: float, thickness: float, step: float) -> tuple[Mesh, NDArray[np.bool_]]:
    """Return a flat membrane that the border of `GRID` cuts at x = y = -5 Å, and its border vertices."""
    return Shapes().slab(size, thickness, step)


def random_picks(mesh: Mesh, count: int, seed: int, off: float = 0.0) -> Picks:
    """Return oriented particles, evenly by area, `off` Å along the normals of their faces."""
    rng = np.random.default_rng(seed)
    areas = mesh.face_areas_angstrom2()
    faces = rng.choice(len(areas), count, p=areas / areas.sum())
    corners = mesh.vertices[mesh.faces[faces]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = np.einsum("nk,nkd->nd", rng.dirichlet([1.0, 1.0, 1.0], count), corners)
    turns = rng.uniform(0, 2 * np.pi, count)
    return Picks(places + off * normals, orientations_from_normals(normals, turns), rng.uniform(size=count))


def measure(mesh: Mesh, picks: Picks | None, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Measure a membrane; `changes` are parameters of `measure_membrane`, fields of `Membrane` and options."""
    options = {field.name: changes.pop(field.name) for field in fields(Options) if field.name in changes}
    border = changes.pop("border_vertices", np.zeros(len(mesh.vertices), bool))
    membrane = Membrane(mesh, picks, border, changes.pop("object_names", "protein"))
    return measure_membrane(membrane, **{"grid": GRID, **changes}, options=replace(_OPTIONS, **options))
