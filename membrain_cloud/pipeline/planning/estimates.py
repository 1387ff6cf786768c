"""What is left of a plan will take: hours and cost, by what the store's own receipts say, else by what is stated here.

Measured: the median of seconds a voxel over receipts of the same stage with the same settings. Stated: networks by
their floating point operations, everything else by the voxel. A stage's hours are worker hours; how long the whole
takes follows from how many workers there are (settings `plan.gpu_workers`, `plan.cpu_workers`), if none ever waits.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.planning.receipt_index import ReceiptIndex
    from membrain_cloud.pipeline.planning.records import RunPlan
    from membrain_cloud.pipeline.settings import PlanSettings, Settings
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project

# Operations a second that a convolutional network really gets, in 10^12. One core with AMX in bfloat16: measured with
# the shipped network on 1000 x 1000 x 500 voxels. A data centre GPU in bfloat16: assumed, not measured.
STATED_TFLOPS = {"cpu": 0.5, "gpu": 40.0}
# Seconds a million voxels on one core, start-up left out: measured on a phantom of 3 membranes a million voxels, which
# is more than most tomograms have. Picking and measuring hang on the membranes' area rather than on voxels.
STATED_SECONDS_PER_MEGAVOXEL = {"separate": 0.5, "mesh": 0.4, "pick": 2.5, "measure": 2.0}
# Where a manifest does not say how many bytes a tomogram has: float32, not compressed.
BYTES_PER_VOXEL = 4


@dataclass(frozen=True)
class Estimate:
    """What is left of one stage.

    tomograms : on how many something of it is left.  voxels : of these.
    bytes_to_read : of tomograms; what the pipeline itself wrote is small beside them.
    flops : of the network, skipped windows and second looks not considered; None where it has none, or where they hang
    on what is not known yet.
    hours : of workers of its kind, "gpu" or "cpu"; None where nothing is known.
    source : "receipts" or "stated".  samples : receipts that were read for it.
    """

    tomograms: int
    voxels: int
    bytes_to_read: int
    flops: float | None
    kind: str
    hours: float | None
    cost: float | None
    source: str
    samples: int


@dataclass(frozen=True)
class Total:
    """All stages together. elapsed_hours : with the workers of the settings, none of them ever idle."""

    bytes_to_read: int
    flops: float
    gpu_hours: float
    cpu_hours: float
    elapsed_hours: float
    cost: float
    currency: str


def estimates(
    project: Project,
    settings: Settings,
    registry: Registry,
    chosen: Sequence[str],
    tasks: Sequence[Task],
    drafts: Sequence[RunPlan],
    standing: ReceiptIndex,
) -> dict[str, Estimate]:
    """What is left of each chosen stage."""
    left: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    for task in tasks:
        left[task.stage][task.run] += 1
    found = {}
    for name in chosen:
        stage, looks = registry[name], _FlopsPerGrid(registry[name], settings)
        voxels, read, operations = 0.0, 0.0, 0.0
        for draft in drafts:
            count, step = left[name][draft.run], draft.steps.get(name)
            if not count or step is None or draft.grid is None:
                continue
            share = count / len(step.tasks)  # of a tomogram cut into blocks, the blocks that are left
            voxels += draft.grid.voxels * share
            read += _stored_bytes(project, step.tasks[0]) * stage.tomogram_reads * share
            operations += looks.flops(draft.grid) * share
        receipts = standing.samples.get(name, ())
        found[name] = _estimate(stage, settings, len(left[name]), round(voxels), round(read), operations, receipts)
    return found


def total(estimates: Mapping[str, Estimate], chosen: PlanSettings) -> Total:
    """The sum over stages; those of which nothing is known count nothing."""
    hours = {kind: sum(e.hours or 0.0 for e in estimates.values() if e.kind == kind) for kind in ("gpu", "cpu")}
    workers = {"gpu": max(1, chosen.gpu_workers), "cpu": chosen.cpu_workers}
    return Total(
        sum(e.bytes_to_read for e in estimates.values()),
        sum(e.flops or 0.0 for e in estimates.values()),
        hours["gpu"],
        hours["cpu"],
        max(hours[kind] / workers[kind] for kind in hours),
        sum(e.cost or 0.0 for e in estimates.values()),
        chosen.currency,
    )


def _estimate(
    stage: Stage,
    settings: Settings,
    tomograms: int,
    voxels: int,
    read: int,
    operations: float,
    receipts: Sequence[Mapping[str, Any]],
) -> Estimate:
    kind = "gpu" if stage.needs_gpu and settings.plan.gpu_workers else "cpu"
    seconds_per_voxel, samples = _measured(receipts, kind)
    seconds: float | None
    if seconds_per_voxel is not None:
        seconds = seconds_per_voxel * voxels
    elif operations:
        seconds = operations / (STATED_TFLOPS[kind] * 1e12)
    elif stage.name in STATED_SECONDS_PER_MEGAVOXEL:
        seconds = STATED_SECONDS_PER_MEGAVOXEL[stage.name] * voxels / 1e6
    else:
        seconds = 0.0 if not voxels else None
    hours = None if seconds is None else seconds / 3600
    price = settings.plan.gpu_hour_price if kind == "gpu" else settings.plan.cpu_hour_price
    source = "stated" if seconds_per_voxel is None else "receipts"
    cost = None if hours is None else hours * price
    return Estimate(tomograms, voxels, read, operations or None, kind, hours, cost, source, samples)


def _measured(receipts: Sequence[Mapping[str, Any]], kind: str) -> tuple[float | None, int]:
    """Median seconds a voxel of whole tomograms done by such workers, and of how many."""
    found = [
        float(receipt["seconds"]) / int(receipt["voxels"])
        for receipt in receipts
        if receipt.get("part") == "whole"
        and receipt.get("voxels")
        and receipt.get("seconds")
        and bool(receipt.get("accelerator")) == (kind == "gpu")
    ]
    return (statistics.median(found), len(found)) if found else (None, 0)


def network_hours(stage: Stage, settings: Settings, grids: Sequence[Grid], kind: str) -> float | None:
    """Worker hours of a stage's network on volumes of these grids, at the stated operations a second.

    None where its operations are not known.
    """
    looks = _FlopsPerGrid(stage, settings)
    operations = sum(looks.flops(grid) for grid in grids)
    return operations / (STATED_TFLOPS[kind] * 1e12) / 3600 if operations else None


class _FlopsPerGrid:
    """A stage's operations on a grid, reckoned once for each grid: thousands of tomograms have few sizes."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self.stage, self.settings = stage, settings
        self.known: dict[Grid, float] = {}

    def flops(self, grid: Grid) -> float:
        if grid not in self.known:
            self.known[grid] = self.stage.flops(grid, self.settings) or 0.0
        return self.known[grid]


def _stored_bytes(project: Project, task: Task) -> int:
    density = task.inputs.get("density")
    known = project.stored_bytes(density) if isinstance(density, TomogramRef) else None
    return BYTES_PER_VOXEL * task.voxels if known is None else known
