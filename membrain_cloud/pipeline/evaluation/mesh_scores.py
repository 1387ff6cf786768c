"""Scores of membrane meshes with others taken as true: a row for each tomogram, and the data of a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.metrics.mesh_distance import (
    Reach,
    compared,
    median_of_both,
    pooled,
    vertex_distances,
    whole,
)
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh
    from membrain_cloud.pipeline.evaluation.pairing import Pair
    from membrain_cloud.store.projects.project import Project

# Bounding boxes whose sides differ by one factor (within the second number), at least the first number, are noted:
# one of the meshes may be in another unit.
_OTHER_UNIT, _SAME_FACTOR = 2.0, 0.05


@dataclass(frozen=True, eq=False)
class MeshScores:
    """The scores of meshes.

    Attributes
    ----------
    rows : list of dict
        One for each tomogram, with `run`.
    to_true, to_mesh : Reach
        Distances from our surfaces to the true ones and back, of all tomograms together.
    farthest : Pair or None
        The tomogram with the largest Chamfer distance; None where no distance is defined.
    """

    rows: list[dict[str, Any]]
    to_true: Reach
    to_mesh: Reach
    farthest: Pair | None

    def of_all(self, tolerance_angstrom: float) -> dict[str, Any]:
        """Return the scores of all tomograms together, each weighted by its area.

        Parameters
        ----------
        tolerance_angstrom : float
            Å within which a surface is right.

        Returns
        -------
        dict
            Columns of a row, as `reach_scores` has them.
        """
        scores = reach_scores(self.to_true, self.to_mesh, tolerance_angstrom)
        for name in ("membranes", "membranes_true"):
            scores[name] = sum(row[name] for row in self.rows)
        without = sum(row["mesh_chamfer_angstrom"] is None for row in self.rows)
        return scores | ({"note": f"with an empty mesh, and without distances: {without}"} if without else {})


def mesh_scores(project: Project, pairs: Sequence[Pair], *, tolerance_angstrom: float) -> MeshScores:
    """Compare the meshes of each tomogram.

    Parameters
    ----------
    project : Project
        The project.
    pairs : sequence of Pair
        Two meshes for each run, the second one taken as true.
    tolerance_angstrom : float
        Å within which a surface is right.

    Returns
    -------
    MeshScores

    Raises
    ------
    UsageError
        If the tolerance is no length above 0.
    InputError
        If a mesh has vertices that are not finite, or faces of missing vertices.
    """
    if not 0.0 < tolerance_angstrom < np.inf:
        raise UsageError(f"a tolerance of {tolerance_angstrom} Å", "give a length above 0, for example 20")
    rows, reaches = [], []
    for pair in pairs:
        ours, true = read_meshes(project, pair)
        first, second = whole(ours), whole(true)
        both_ways = compared(first, second, tolerance_angstrom=tolerance_angstrom)
        reaches.append(both_ways)
        row = {"run": pair.run, **reach_scores(*both_ways, tolerance_angstrom)}
        note = _note(first, second)
        counts = {"membranes": len(ours), "membranes_true": len(true)}
        rows.append({**row, **counts, **({"note": note} if note else {})})
    defined = [k for k, row in enumerate(rows) if row["mesh_chamfer_angstrom"] is not None]
    farthest = max(defined, key=lambda k: float(rows[k]["mesh_chamfer_angstrom"]), default=None)
    return MeshScores(
        rows,
        pooled([pair[0] for pair in reaches]),
        pooled([pair[1] for pair in reaches]),
        None if farthest is None else pairs[farthest],
    )


def read_meshes(project: Project, pair: Pair) -> tuple[dict[int, Mesh], dict[int, Mesh]]:
    """Read both meshes of a run; membranes without a face are left out.

    Parameters
    ----------
    project : Project
        The project.
    pair : Pair
        Two meshes.

    Returns
    -------
    tuple of dict of int to Mesh
        The membranes of the first and of the second one.

    Raises
    ------
    InputError
        If a mesh has vertices that are not finite, or faces of missing vertices.
    """
    assert isinstance(pair.first, ObjectRef)
    assert isinstance(pair.second, ObjectRef)
    return _checked_meshes(project, pair.first), _checked_meshes(project, pair.second)


def _checked_meshes(project: Project, ref: ObjectRef) -> dict[int, Mesh]:
    meshes = {number: mesh for number, mesh in project.read_meshes(ref).items() if len(mesh.faces)}
    for number, mesh in meshes.items():
        if not np.isfinite(mesh.vertices).all():
            raise InputError(f"mesh {ref.key}, membrane {number}: vertices that are no numbers", "write it again")
        if not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
            raise InputError(f"mesh {ref.key}, membrane {number}: faces of vertices not there", "write it again")
    return meshes


def reach_scores(to_true: Reach, to_mesh: Reach, tolerance_angstrom: float) -> dict[str, Any]:
    """Return the columns of a row; distances and angles are None where either mesh is empty.

    Precision is the share of our area within the tolerance of the truth, recall the share of the truth's area within
    the tolerance of ours, F1 their harmonic mean. The share of an empty mesh is None.

    Parameters
    ----------
    to_true, to_mesh : Reach
        Distances from our surface to the true one, and back.
    tolerance_angstrom : float
        Å within which a surface is right.

    Returns
    -------
    dict
        Distances in Å, areas in nm², angles in degrees.
    """
    both = [to_true.mean_angstrom, to_mesh.mean_angstrom]
    precision, recall = to_true.within, to_mesh.within
    f1 = None
    if precision is not None or recall is not None:
        a, b = precision or 0.0, recall or 0.0
        f1 = 2.0 * a * b / (a + b) if a + b > 0.0 else 0.0
    return {
        "mesh_f1": f1,
        "mesh_precision": precision,
        "mesh_recall": recall,
        "mesh_chamfer_angstrom": _mean(both),
        "mesh_hausdorff_angstrom": _largest([to_true.largest_angstrom, to_mesh.largest_angstrom]),
        "mesh_hausdorff_95_angstrom": _largest([_at(to_true.distances, 0.95), _at(to_mesh.distances, 0.95)]),
        **_one_sided("to_true", to_true),
        **_one_sided("from_true", to_mesh),
        "normal_angle_degrees": median_of_both(to_true, to_mesh),
        "area_nm2": to_true.area_angstrom2 / ANGSTROM_PER_NM**2,
        "area_true_nm2": to_mesh.area_angstrom2 / ANGSTROM_PER_NM**2,
        "components": to_true.components,
        "components_true": to_mesh.components,
        "tolerance_angstrom": tolerance_angstrom,
    }


def _one_sided(way: str, reach: Reach) -> dict[str, float | None]:
    return {
        f"mesh_{way}_mean_angstrom": reach.mean_angstrom,
        f"mesh_{way}_median_angstrom": _at(reach.distances, 0.5),
        f"mesh_{way}_p95_angstrom": _at(reach.distances, 0.95),
        f"mesh_{way}_hausdorff_angstrom": reach.largest_angstrom,
    }


def colours_of_farthest(project: Project, scores: MeshScores) -> list[tuple[Mesh, NDArray[np.float64]]]:
    """Return both surfaces of the tomogram that differs most, with their distances to each other.

    Parameters
    ----------
    project : Project
        The project.
    scores : MeshScores
        The scores of its meshes.

    Returns
    -------
    list of (Mesh, (V,) array of float64)
        Each surface with the distances of its vertices to the other one, Å. Empty where no distance is defined.
    """
    if scores.farthest is None:
        return []
    first, second = (whole(meshes) for meshes in read_meshes(project, scores.farthest))
    return [(first, vertex_distances(first, second)), (second, vertex_distances(second, first))]


def _note(first: Mesh, second: Mesh) -> str:
    """Return a warning about empty meshes, disjoint bounding boxes or another unit, or an empty string."""
    empty = [name for name, mesh in (("first", first), ("second", second)) if not mesh.area_angstrom2() > 0.0]
    if empty:
        return f"the {' and the '.join(empty)} mesh {'are' if len(empty) > 1 else 'is'} empty"
    boxes = [np.array([mesh.vertices[mesh.faces].min((0, 1)), mesh.vertices[mesh.faces].max((0, 1))])
             for mesh in (first, second)]  # fmt: skip
    notes = []
    if (boxes[0][1] < boxes[1][0]).any() or (boxes[1][1] < boxes[0][0]).any():
        ranges = [" ".join(f"{name} {box[0, k]:.0f}..{box[1, k]:.0f}" for k, name in enumerate("xyz")) for box in boxes]
        notes.append(f"the boxes about the two do not meet (first {ranges[0]}, second {ranges[1]} Å)")
    sizes = [np.maximum(np.ptp(box, axis=0), 1e-9) for box in boxes]
    factors = sizes[0] / sizes[1]
    middle = float(np.exp(np.log(factors).mean()))
    if max(middle, 1.0 / middle) >= _OTHER_UNIT and np.ptp(factors) <= _SAME_FACTOR * middle:
        notes.append(f"the first is {middle:.3g} times as large along x, y and z: is one of them not in Å?")
    return "; ".join(notes)


def _at(quantiles: NDArray[np.float64], share: float) -> float | None:
    return float(np.quantile(quantiles, share)) if len(quantiles) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if a value is missing."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest value that is not missing, or None."""
    return max((value for value in values if value is not None), default=None)
