"""How well one annotation agrees with another that is taken as true: segmentations, picks and meshes of copick."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
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
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND, MEMBRANE, merge_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project

#: In place of a run's name: all runs together, their counts added up. No run can be called so.
ALL_RUNS = "*"


@dataclass(frozen=True)
class Layers:
    """One or more segmentations of a run, read as labels to train on (training/labels.py): 0, 1, and 2 to be ignored.

    partial : what no layer marks is to be ignored, since the first one is marked in patches alone.
    Of instances every one is membrane, and so is a value that no mark has.
    """

    project: Project
    refs: tuple[SegmentationRef, ...]
    partial: bool

    @classmethod
    def of(cls, project: Project, refs: Sequence[SegmentationRef]) -> Layers:
        """One pass over the first layer says whether it is partial."""
        first = refs[0]
        boxes = () if first.instance else iterate_chunks(project.grid(first).shape, project.stored_chunk(first))
        return cls(project, tuple(refs), any((project.read_labels(first, b) == MARKED_BACKGROUND).any() for b in boxes))

    @property
    def key(self) -> str:
        return " with ".join(ref.key for ref in self.refs)

    @property
    def shape(self) -> Zyx:
        """InputError where they differ."""
        shapes = {self.project.grid(ref).shape for ref in self.refs}
        if len(shapes) > 1:
            raise InputError(f"{self.key}: shapes {sorted(shapes)} differ", "merge annotations of one voxel spacing")
        return shapes.pop()

    def labels(self, box: Box) -> NDArray[np.uint8]:
        return merge_labels([self._marks(ref, box) for ref in self.refs], partial=self.partial)

    def _marks(self, ref: SegmentationRef, box: Box) -> NDArray[np.uint8]:
        labels = self.project.read_labels(ref, box)
        other = (labels != 0) if ref.instance else (labels > MARKED_BACKGROUND)
        return np.where(other, MEMBRANE, labels).astype(np.uint8)

    def membrane(self, box: Box) -> NDArray[np.bool_]:
        return self.labels(box) == MEMBRANE

    def ignored(self, box: Box) -> NDArray[np.bool_]:
        return self.labels(box) == IGNORE


def segmentation_counts(ours: Layers, true: Layers) -> tuple[MaskCounts, int]:
    """What two segmentations have in common where neither is to be ignored, and the voxels that are.

    Block by block, so that tomograms of any size are compared. InputError for segmentations of different grids.
    """
    shape = ours.shape
    if shape != true.shape:
        raise InputError(
            f"{ours.key} has {shape} voxels, the truth {true.key} has {true.shape}",
            "compare segmentations of one voxel spacing",
        )
    total, left_out = MaskCounts(), 0
    for box in skeleton_blocks(shape):
        unknown = ours.ignored(box) | true.ignored(box)
        if not unknown.all():
            known = functools.partial(_given, unknown)
            total = total.plus(mask_counts(ours.membrane, true.membrane, known, shape, box))
        left_out += int(np.count_nonzero(unknown))
    return total, left_out


def _given(values: NDArray[np.bool_], _box: Box) -> NDArray[np.bool_]:
    return values


def segmentation_scores(counts: MaskCounts, ignored_voxels: int) -> dict[str, Any]:
    """Dice and Surface-Dice, and precision and recall of each."""
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
    """F1, precision and recall as in the paper (many to one) and one to one; Chamfer distance; numbers.

    ours, true : (N, 3) and (M, 3), xyz in Å.
    """
    as_paper = pick_f1(ours, true, radius_angstrom)
    single = pick_f1_one_to_one(ours, true, radius_angstrom)
    return {
        **_named("particle", as_paper, ""),
        **_named("particle", single, "_one_to_one"),
        "particle_chamfer_angstrom": chamfer_angstrom(ours, true),
        "particles": len(ours),
        "particles_true": len(true),
    }


def _named(what: str, score: Score, ending: str) -> dict[str, float]:
    return {
        f"{what}_f1{ending}": score.score,
        f"{what}_precision{ending}": score.precision,
        f"{what}_recall{ending}": score.recall,
    }


@dataclass(frozen=True, eq=False)
class Comparison:
    """rows : one for each run that has both annotations, and one for all (ALL_RUNS).  meshes : of two meshes alone."""

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
    """Scores of `first` with `second` taken as true: of two segmentations (masks, marks or instances), picks or meshes.

    radius_angstrom : within which a pick is right.  tolerance_angstrom : within which a surface is.
    kind : of annotation_kinds.KINDS, where URIs name several; None: the first that there is of both.

    Raises UsageError for two kinds; ProjectError where no run has both; InputError for other grids.
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
    for one, left_out in counts:
        total, ignored = total.plus(one), ignored + left_out
    return total, ignored


def _picks_of_all(sets: Sequence[tuple[NDArray, NDArray]], radius_angstrom: float) -> dict[str, Any]:
    """Of all runs' picks at once: those of each run are put where no other run's are near."""
    reach = max((float(np.abs(points).max()) for pair in sets for points in pair if len(points)), default=0.0)
    step = 4 * (reach + radius_angstrom)
    shifted = [
        [np.asarray(points).reshape(-1, 3) + k * step for k, points in enumerate(side)]
        for side in zip(*sets, strict=True)
    ]
    ours, true = (np.concatenate(side) for side in shifted)
    scores = pick_scores(ours, true, radius_angstrom)
    # A run without picks of one kind would be measured against its neighbours'.
    known = all(len(points) for pair in sets for points in pair)
    return scores if known else scores | {"particle_chamfer_angstrom": None}
