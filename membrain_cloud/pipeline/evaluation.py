"""What a run made, against annotations taken as true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.pipeline.plan import Plan
from membrain_cloud.pipeline.tasks import Ref
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.training.placement import placement
from membrain_cloud.training.scores import MaskCounts, compare_masks, matched_instances, pick_f1


@dataclass(frozen=True)
class Truth:
    """URIs of what is taken as true; None is not scored."""

    labels: str | None
    instances: str | None
    picks: str | None


def evaluate_plan(project: Project, plan: Plan, truth: Truth, *, radius_angstrom: float) -> list[dict[str, Any]]:
    """Scores of each run of a plan, one mapping a run; only those whose truth is given.

    Raises UsageError without any truth; ProjectError where an annotation is not there.
    """
    if truth == Truth(None, None, None):
        raise UsageError("there is no truth to compare with", "give --truth, --truth-instances or --truth-picks")
    return [
        {"run": run, **evaluate_run(project, run, plan.refs[run], truth, radius_angstrom=radius_angstrom)}
        for run in plan.runs
        if run in plan.refs
    ]


def evaluate_run(
    project: Project, run: str, refs: Mapping[str, Ref], truth: Truth, *, radius_angstrom: float
) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    labels, instances, picks = refs.get("labels"), refs.get("instances"), refs.get("picks")
    if truth.labels and isinstance(labels, SegmentationRef):
        counts = _compared(project, labels, project.segmentation(run, truth.labels))
        surface = counts.surface_dice
        scores |= {
            "dice": counts.dice,
            "surface_dice": surface.score,
            "surface_precision": surface.precision,
            "surface_recall": surface.recall,
        }
    if truth.instances and isinstance(instances, SegmentationRef):
        found = matched_instances(
            project.read_labels(instances), project.read_labels(project.segmentation(run, truth.instances))
        )
        scores |= {"membranes_found": found.found, "membranes_true": found.truth, "membranes": found.predicted}
    if truth.picks and isinstance(picks, ObjectRef):
        ours_picks, true_picks = project.read_picks(picks), project.read_picks(project.object(run, truth.picks))
        score = pick_f1(ours_picks.positions, true_picks.positions, radius_angstrom)
        scores |= {
            "particle_f1": score.score,
            "particle_precision": score.precision,
            "particle_recall": score.recall,
            "particles": len(ours_picks),
            "particles_true": len(true_picks),
        }
        placed = placement(ours_picks, true_picks, radius_angstrom)
        scores |= {f"particle_{name}": value for name, value in asdict(placed).items() if value is not None}
    return scores


def _compared(project: Project, ours: SegmentationRef, true: SegmentationRef) -> MaskCounts:
    """Block by block, so that tomograms of any size are compared."""
    shape, other = project.grid(ours).shape, project.grid(true).shape
    if shape != other:
        raise InputError(
            f"{ours.key} has {shape} voxels, the truth {true.key} has {other}",
            "compare segmentations of one voxel spacing",
        )
    return compare_masks(
        lambda box: project.read_labels(ours, box), lambda box: project.read_labels(true, box), None, shape
    )
