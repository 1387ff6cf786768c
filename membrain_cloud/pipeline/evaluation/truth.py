"""Scores of what a run made, with given annotations taken as true."""

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
    """URIs of the annotations that are taken as true; None is not scored.

    Attributes
    ----------
    labels : str or None
        Of a membrane mask.
    instances : str or None
        Of numbered membranes.
    picks : str or None
        Of particles.
    """

    labels: str | None
    instances: str | None
    picks: str | None


def evaluate_plan(project: Project, plan: Plan, truth: Truth, *, radius_angstrom: float) -> list[dict[str, Any]]:
    """Score the results of each run of a plan.

    Parameters
    ----------
    project : Project
        The project.
    plan : Plan
        The plan that the results were made by.
    truth : Truth
        What is taken as true.
    radius_angstrom : float
        Å within which a pick is right.

    Returns
    -------
    list of dict
        The scores of each run, with `run`; only those whose truth is given.

    Raises
    ------
    UsageError
        If no truth is given.
    ProjectError
        If an annotation is missing.
    """
    if truth == Truth(None, None, None):
        raise UsageError(
            "there is no truth to compare with", "give the URI of true labels, true instances or true picks"
        )
    return [
        {"run": run, **evaluate_run(project, run, plan.refs[run], truth, radius_angstrom=radius_angstrom)}
        for run in plan.runs
        if run in plan.refs
    ]


def evaluate_run(
    project: Project, run: str, refs: Mapping[str, Ref], truth: Truth, *, radius_angstrom: float
) -> dict[str, Any]:
    """Score the results of one run.

    Parameters
    ----------
    project : Project
        The project.
    run : str
        The run.
    refs : mapping of str to Ref
        The results: `labels`, `instances`, `picks`.
    truth : Truth
        What is taken as true.
    radius_angstrom : float
        Å within which a pick is right.

    Returns
    -------
    dict
        Only scores whose truth is given.

    Raises
    ------
    ProjectError
        If an annotation is missing.
    InputError
        If a result and its truth have different grids.
    """
    scores: dict[str, Any] = {}
    labels, instances, picks = refs.get("labels"), refs.get("instances"), refs.get("picks")
    if truth.labels and isinstance(labels, SegmentationRef):
        true_layers = Layers.of(project, [project.segmentation(run, truth.labels)])
        scores |= segmentation_scores(*segmentation_counts(Layers.of(project, [labels]), true_layers))
    if truth.instances and isinstance(instances, SegmentationRef):
        matches = matched_instances(
            project.read_labels(instances), project.read_labels(project.segmentation(run, truth.instances))
        )
        scores |= {"membranes_found": matches.found, "membranes_true": matches.truth, "membranes": matches.predicted}
    if truth.picks and isinstance(picks, ObjectRef):
        own_picks, true_picks = project.read_picks(picks), project.read_picks(project.object(run, truth.picks))
        scores |= pick_scores(own_picks.positions, true_picks.positions, radius_angstrom)
        placed = placement(own_picks, true_picks, radius_angstrom)
        scores |= {f"particle_{name}": value for name, value in asdict(placed).items() if value is not None}
    return scores
