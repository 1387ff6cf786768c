"""Scores of one annotation with another one taken as true: segmentations, picks and meshes of copick."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.image.skeleton import skeleton_blocks
from membrain_cloud.metrics.overlap import (
    MaskCounts,
    Score,
    chamfer_angstrom,
    mask_counts,
    pick_f1,
    pick_f1_one_to_one,
)
from membrain_cloud.pipeline.evaluation.mesh_scores import MeshScores, mesh_scores
from membrain_cloud.pipeline.evaluation.pairing import Pair, pairs_of_one_kind
from membrain_cloud.store.projects.resolve import check_segmentation_extent
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.volumes.labels import as_marks, check_extent
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND, MEMBRANE, merge_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project

ALL_RUNS = "*"
"""In place of a run's name: all runs together, their counts added up. No run can have this name."""


@dataclass(frozen=True)
class Layers:
    """One or more segmentations of a run, read as training labels (`training.labels`): 0, 1, and 2 to be ignored.

    Every label of an instance segmentation is membrane; a mask holds marks (`store.volumes.labels.as_marks`).

    Attributes
    ----------
    project : Project
        The project.
    refs : tuple of SegmentationRef
        The layers, the first one below.
    partial : bool
        Whether unmarked voxels are to be ignored, since the first layer is marked in patches alone.
    """

    project: Project
    refs: tuple[SegmentationRef, ...]
    partial: bool

    @classmethod
    def of(cls, project: Project, refs: Sequence[SegmentationRef]) -> Layers:
        """Return layers, after one pass over the first one that finds out whether it is partial.

        Parameters
        ----------
        project : Project
            The project.
        refs : sequence of SegmentationRef
            The layers, the first one below.

        Returns
        -------
        Layers
        """
        for ref in refs:
            check_segmentation_extent(project, ref)
        first = refs[0]
        boxes = () if first.instance else iterate_chunks(project.grid(first).shape, project.stored_chunk(first))
        return cls(project, tuple(refs), any((project.read_labels(first, b) == MARKED_BACKGROUND).any() for b in boxes))

    @property
    def key(self) -> str:
        """The names of the layers, for errors."""
        return " with ".join(ref.key for ref in self.refs)

    @property
    def grid(self) -> Grid:
        """The grid of the first layer."""
        return self.project.grid(self.refs[0])

    @property
    def shape(self) -> Zyx:
        """Voxels along z, y, x. InputError where the layers differ."""
        shapes = {self.project.grid(ref).shape for ref in self.refs}
        if len(shapes) > 1:
            raise InputError(f"{self.key}: shapes {sorted(shapes)} differ", "merge annotations of one voxel spacing")
        return shapes.pop()

    def labels(self, box: Box) -> NDArray[np.uint8]:
        """Return the training labels of a box.

        Parameters
        ----------
        box : Box
            Within the volume.

        Returns
        -------
        (Z, Y, X) array of uint8
            0 background, 1 membrane, 2 to be ignored.
        """
        return merge_labels([self._marks(ref, box) for ref in self.refs], partial=self.partial)

    def _marks(self, ref: SegmentationRef, box: Box) -> NDArray[np.uint8]:
        labels = self.project.read_labels(ref, box)
        return np.where(labels != 0, MEMBRANE, 0).astype(np.uint8) if ref.instance else as_marks(labels, ref.key)

    def membrane(self, box: Box) -> NDArray[np.bool_]:
        """Return where a box (Z, Y, X) is membrane.

        Parameters
        ----------
        box : Box
            Within the volume.
        """
        return np.asarray(self.labels(box) == MEMBRANE)

    def ignored(self, box: Box) -> NDArray[np.bool_]:
        """Return where a box (Z, Y, X) is to be ignored.

        Parameters
        ----------
        box : Box
            Within the volume.
        """
        return np.asarray(self.labels(box) == IGNORE)


def segmentation_counts(ours: Layers, true: Layers) -> tuple[MaskCounts, int]:
    """Count what two segmentations share where neither is to be ignored, block by block.

    Parameters
    ----------
    ours, true : Layers
        The segmentation to score, and the one taken as true.

    Returns
    -------
    MaskCounts
    int
        Voxels that are ignored.

    Raises
    ------
    InputError
        If the two have different grids.
    """
    shape = ours.shape
    if shape != true.shape:
        raise InputError(
            f"{ours.key} has {shape} voxels, the truth {true.key} has {true.shape}",
            "compare segmentations of one voxel spacing",
        )
    check_extent(ours.grid, ours.key, {true.key: true.grid})
    total, ignored_voxels = MaskCounts(), 0
    for box in skeleton_blocks(shape):
        ignored = ours.ignored(box) | true.ignored(box)
        if not ignored.all():
            read_ignored = functools.partial(_of_any_box, ignored)
            total = total.plus(mask_counts(ours.membrane, true.membrane, read_ignored, shape, box))
        ignored_voxels += int(np.count_nonzero(ignored))
    return total, ignored_voxels


def _of_any_box(values: NDArray[np.bool_], _box: Box) -> NDArray[np.bool_]:
    return values


def segmentation_scores(counts: MaskCounts, ignored_voxels: int) -> dict[str, Any]:
    """Return Dice and Surface-Dice, with precision and recall of each.

    Parameters
    ----------
    counts : MaskCounts
        Of two segmentations.
    ignored_voxels : int
        Voxels that were left out.

    Returns
    -------
    dict
        Columns of a row.
    """
    surface, voxels = counts.surface_dice, counts.voxels
    return {
        "dice": counts.dice,
        "precision": voxels.precision,
        "recall": voxels.recall,
        "surface_dice": surface.score,
        "surface_precision": surface.precision,
        "surface_recall": surface.recall,
        "voxels": counts.predicted,
        "voxels_true": counts.truth,
        "ignored_voxels": ignored_voxels,
    }


def pick_scores(ours: NDArray[np.float64], true: NDArray[np.float64], radius_angstrom: float) -> dict[str, Any]:
    """Return scores of picks: F1, precision and recall as MemBrain-pick has them and one to one; Chamfer distance.

    Parameters
    ----------
    ours : (N, 3) array of float64
        Positions to score, xyz in Å.
    true : (M, 3) array of float64
        Positions taken as true, xyz in Å.
    radius_angstrom : float
        Å within which a pick is right.

    Returns
    -------
    dict
        Columns of a row.
    """
    many_to_one = pick_f1(ours, true, radius_angstrom)
    one_to_one = pick_f1_one_to_one(ours, true, radius_angstrom)
    return {
        **_columns("particle", many_to_one, ""),
        **_columns("particle", one_to_one, "_one_to_one"),
        "particle_chamfer_angstrom": chamfer_angstrom(ours, true),
        "particles": len(ours),
        "particles_true": len(true),
    }


def _columns(what: str, score: Score, ending: str) -> dict[str, float]:
    return {
        f"{what}_f1{ending}": score.score,
        f"{what}_precision{ending}": score.precision,
        f"{what}_recall{ending}": score.recall,
    }


@dataclass(frozen=True, eq=False)
class Comparison:
    """The scores of two annotations.

    Attributes
    ----------
    rows : list of dict
        One for each run that has both annotations, and one for all of them (ALL_RUNS) where there are several.
    meshes : MeshScores or None
        Of two meshes; None for other kinds.
    """

    rows: list[dict[str, Any]]
    meshes: MeshScores | None = None


def annotation_scores(
    project: Project,
    runs: Sequence[str],
    first: str,
    second: str,
    *,
    radius_angstrom: float,
    tolerance_angstrom: float,
    kind: str | None = None,
) -> Comparison:
    """Score one annotation with another one taken as true: segmentations (masks, marks or instances), picks or meshes.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of the runs; empty for all.
    first, second : str
        Copick URIs of the annotation to score, and of the one taken as true.
    radius_angstrom : float
        Å within which a pick is right.
    tolerance_angstrom : float
        Å within which a surface is right.
    kind : str, optional
        One of `pairing.KINDS`, where the URIs name several. Default: the first that both have.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If the URIs name different kinds, or the tolerance is no length.
    ProjectError
        If no run has both.
    InputError
        If two segmentations have different grids, or a mesh is damaged.
    """
    kind, pairs = pairs_of_one_kind(project, runs, first, second, kind)
    meshes = None
    if kind == "meshes":
        meshes = mesh_scores(project, pairs, tolerance_angstrom=tolerance_angstrom)
        rows, together = _rows_of_meshes(meshes, tolerance_angstrom)
    elif kind == "picks":
        rows, together = _rows_of_picks(project, pairs, radius_angstrom)
    else:
        rows, together = _rows_of_segmentations(project, pairs)
    if len(rows) > 1:
        rows.append({"run": ALL_RUNS, **together()})
    return Comparison([{**row, "first": first, "second": second} for row in rows], meshes)


_Rows = tuple[list[dict[str, Any]], Callable[[], dict[str, Any]]]


def _rows_of_segmentations(project: Project, pairs: Sequence[Pair]) -> _Rows:
    counts, rows = [], []
    for pair in pairs:
        refs = [ref for ref in (pair.first, pair.second) if isinstance(ref, SegmentationRef)]
        ours, true = (Layers.of(project, [ref]) for ref in refs)
        counts.append(segmentation_counts(ours, true))
        rows.append({"run": pair.run, **segmentation_scores(*counts[-1])})
    return rows, lambda: segmentation_scores(*_added_up(counts))


def _rows_of_picks(project: Project, pairs: Sequence[Pair], radius_angstrom: float) -> _Rows:
    sets, rows = [], []
    for pair in pairs:
        refs = [ref for ref in (pair.first, pair.second) if isinstance(ref, ObjectRef)]
        ours, true = (project.read_picks(ref).positions for ref in refs)
        sets.append((ours, true))
        rows.append({"run": pair.run, **pick_scores(ours, true, radius_angstrom)})
    return rows, lambda: _picks_of_all(sets, radius_angstrom)


def _rows_of_meshes(scores: MeshScores, tolerance_angstrom: float) -> _Rows:
    return list(scores.rows), lambda: scores.of_all(tolerance_angstrom)


def _added_up(counts: Iterable[tuple[MaskCounts, int]]) -> tuple[MaskCounts, int]:
    total, ignored = MaskCounts(), 0
    for of_run, ignored_of_run in counts:
        total, ignored = total.plus(of_run), ignored + ignored_of_run
    return total, ignored


def _picks_of_all(
    sets: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], radius_angstrom: float
) -> dict[str, Any]:
    """Score the picks of all runs at once: those of each run are shifted so far that no other run's are near."""
    reach = max((float(np.abs(points).max()) for pair in sets for points in pair if len(points)), default=0.0)
    step = 4 * (reach + radius_angstrom)
    shifted = [
        [np.asarray(points).reshape(-1, 3) + k * step for k, points in enumerate(side)]
        for side in zip(*sets, strict=True)
    ]
    ours, true = (np.concatenate(side) for side in shifted)
    scores = pick_scores(ours, true, radius_angstrom)
    # Otherwise the distances of a run without picks would be those to other runs' picks.
    defined = all(len(points) for pair in sets for points in pair)
    return scores if defined else scores | {"particle_chamfer_angstrom": None}
