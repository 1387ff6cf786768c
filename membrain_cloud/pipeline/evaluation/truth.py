"""What a run made, against annotations taken as true."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.metrics.overlap import matched_instances
from membrain_cloud.metrics.pick_placement import placement
from membrain_cloud.pipeline.evaluation.scores import Layers, pick_scores, segmentation_counts, segmentation_scores
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project


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
        true = Layers.of(project, [project.segmentation(run, truth.labels)])
        scores |= segmentation_scores(*segmentation_counts(Layers.of(project, [labels]), true))
    if truth.instances and isinstance(instances, SegmentationRef):
        found = matched_instances(
            project.read_labels(instances), project.read_labels(project.segmentation(run, truth.instances))
        )
        scores |= {"membranes_found": found.found, "membranes_true": found.truth, "membranes": found.predicted}
    if truth.picks and isinstance(picks, ObjectRef):
        ours_picks, true_picks = project.read_picks(picks), project.read_picks(project.object(run, truth.picks))
        scores |= pick_scores(ours_picks.positions, true_picks.positions, radius_angstrom)
        placed = placement(ours_picks, true_picks, radius_angstrom)
        scores |= {f"particle_{name}": value for name, value in asdict(placed).items() if value is not None}
    return scores
