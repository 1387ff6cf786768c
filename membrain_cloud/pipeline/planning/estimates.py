"""Estimate hours and cost of what is left of a plan, from the receipts in the store or from stated throughputs.

From receipts: the median of seconds a voxel over receipts of the same stage with the same settings. Stated: networks by
their floating point operations, everything else by the voxel. A stage's hours are worker hours; how long the whole
takes follows from the number of workers (settings `plan.gpu_workers`, `plan.cpu_workers`), if none is ever idle.
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
    from membrain_cloud.pipeline.planning.records import RunPlan
    from membrain_cloud.pipeline.settings import PlanSettings, Settings
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project

# Effective throughput of a convolutional network in 10^12 operations a second. One core with AMX in bfloat16: measured
# with the built-in network on 1000 x 1000 x 500 voxels. A data centre GPU in bfloat16: assumed, not measured.
STATED_TFLOPS = {"cpu": 0.5, "gpu": 40.0}
# Seconds a million voxels on one core, start-up left out: measured on a phantom of 3 membranes a million voxels, which
# is more than most tomograms have. Picking and measuring depend on the membranes' area rather than on voxels.
STATED_SECONDS_PER_MEGAVOXEL = {
    "separate": 0.5,
    "mesh": 0.4,
    "pick": 2.5,
    "measure": 2.0,
    "context": 0.5,
    "organelle": 0.2,
}
# Where a manifest does not state a tomogram's size in bytes: float32, not compressed.
BYTES_PER_VOXEL = 4


@dataclass(frozen=True)
class Estimate:
    """What is left of one stage.

    Attributes
    ----------
    tomograms : int
        Number of tomograms on which a task of the stage is left.
    voxels : int
        Their voxels.
    bytes_to_read : int
        Bytes of tomograms to read; what the pipeline itself wrote is small beside them.
    flops : float or None
        Floating point operations of the network, without skipped windows and further mirrors. None without a network,
        or where they are unknown.
    kind : str
        "gpu" or "cpu": the workers that do it.
    hours : float or None
        Worker hours; None where unknown.
    cost : float or None
        Price of these hours in the plan's currency; None where unknown.
    source : str
        "receipts" or "stated".
    samples : int
        Number of receipts from which the hours are derived.
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
    """The sum over all stages.

    Attributes
    ----------
    bytes_to_read : int
        Bytes of tomograms to read.
    flops : float
        Floating point operations of the networks.
    gpu_hours, cpu_hours : float
        Worker hours.
    elapsed_hours : float
        Hours with the workers of the settings, if none is ever idle.
    cost : float
        Price in `currency`.
    currency : str
        Currency of the prices.
    """

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
    stages: Sequence[str],
    *,
    tasks: Sequence[Task],
    run_plans: Sequence[RunPlan],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Estimate]:
    """Estimate what is left of each chosen stage.

    Parameters
    ----------
    project : Project
        The project, for the sizes of tomograms.
    settings : Settings
        The settings of all stages, for prices and workers.
    registry : mapping of str to Stage
        All stages.
    stages : sequence of str
        Names of the chosen stages.
    tasks : sequence of Task
        The tasks that are left.
    run_plans : sequence of RunPlan
        Every possible task.
    samples : mapping of str to sequence of mappings
        Stage -> receipts of finished tasks, as `ReceiptIndex.samples`.

    Returns
    -------
    dict of str to Estimate
        The chosen stages by name.
    """
    left: dict[str, Counter[str]] = {name: Counter() for name in stages}
    for task in tasks:
        left[task.stage][task.run] += 1
    result = {}
    for name in stages:
        stage, operations_on = registry[name], _FlopsPerGrid(registry[name], settings)
        voxels, read, operations = 0.0, 0.0, 0.0
        for run_plan in run_plans:
            count, stage_plan = left[name][run_plan.run], run_plan.stages.get(name)
            if not count or stage_plan is None or run_plan.grid is None:
                continue
            share = count / stage_plan.n_parts  # of a tomogram cut into blocks, the blocks that are left
            voxels += run_plan.grid.voxels * share
            read += _stored_bytes(project, stage_plan.tasks[0]) * stage.tomogram_reads * share
            operations += operations_on.flops(run_plan.grid) * share
        result[name] = _estimate(
            stage,
            settings,
            tomograms=len(left[name]),
            voxels=round(voxels),
            read=round(read),
            operations=operations,
            receipts=samples.get(name, ()),
        )
    return result


def total(estimates: Mapping[str, Estimate], settings: PlanSettings) -> Total:
    """Add up the estimates; stages of which nothing is known count nothing.

    Parameters
    ----------
    estimates : mapping of str to Estimate
        The stages by name.
    settings : PlanSettings
        Workers and currency.

    Returns
    -------
    Total
        The sum.
    """
    hours = {kind: sum(e.hours or 0.0 for e in estimates.values() if e.kind == kind) for kind in ("gpu", "cpu")}
    workers = {"gpu": max(1, settings.gpu_workers), "cpu": settings.cpu_workers}
    return Total(
        sum(e.bytes_to_read for e in estimates.values()),
        sum(e.flops or 0.0 for e in estimates.values()),
        hours["gpu"],
        hours["cpu"],
        max(hours[kind] / workers[kind] for kind in hours),
        sum(e.cost or 0.0 for e in estimates.values()),
        settings.currency,
    )


def _estimate(
    stage: Stage,
    settings: Settings,
    *,
    tomograms: int,
    voxels: int,
    read: int,
    operations: float,
    receipts: Sequence[Mapping[str, Any]],
) -> Estimate:
    kind = "gpu" if stage.needs_gpu and settings.plan.gpu_workers else "cpu"
    seconds_per_voxel, samples = _median_seconds_per_voxel(receipts, kind)
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


def _median_seconds_per_voxel(receipts: Sequence[Mapping[str, Any]], kind: str) -> tuple[float | None, int]:
    """Return the median over whole tomograms done by workers of a kind, and their number."""
    values = [
        float(receipt["seconds"]) / int(receipt["voxels"])
        for receipt in receipts
        if receipt.get("part") == "whole"
        and receipt.get("voxels")
        and receipt.get("seconds")
        and bool(receipt.get("accelerator")) == (kind == "gpu")
    ]
    return (statistics.median(values), len(values)) if values else (None, 0)


def network_hours(stage: Stage, settings: Settings, grids: Sequence[Grid], kind: str) -> float | None:
    """Estimate the worker hours of a stage's network, at the stated throughput.

    Parameters
    ----------
    stage : Stage
        The stage.
    settings : Settings
        The settings of all stages.
    grids : sequence of Grid
        Voxel grids of the tomograms.
    kind : str
        "gpu" or "cpu": the workers that do it.

    Returns
    -------
    float or None
        Hours; None where the operations are unknown.
    """
    operations_on = _FlopsPerGrid(stage, settings)
    operations = sum(operations_on.flops(grid) for grid in grids)
    return operations / (STATED_TFLOPS[kind] * 1e12) / 3600 if operations else None


class _FlopsPerGrid:
    """A stage's operations on a grid, cached: thousands of tomograms have few sizes."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self.stage, self.settings = stage, settings
        self._cache: dict[Grid, float] = {}

    def flops(self, grid: Grid) -> float:
        """Return the operations on a grid; 0 where they are unknown."""
        if grid not in self._cache:
            self._cache[grid] = self.stage.flops(grid, self.settings) or 0.0
        return self._cache[grid]


def _stored_bytes(project: Project, task: Task) -> int:
    density = task.inputs.get("density")
    size = project.stored_bytes(density) if isinstance(density, TomogramRef) else None
    return BYTES_PER_VOXEL * task.voxels if size is None else size
