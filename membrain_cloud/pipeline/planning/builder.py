"""Build a plan: first every possible task of every run, then which of them are left to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from membrain_cloud.errors import InputError, MembrainCloudError
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.planning.digests import Registry, StageDigests
from membrain_cloud.pipeline.planning.receipt_index import CONCURRENT_REQUESTS, ReceiptIndex
from membrain_cloud.pipeline.planning.records import RunPlan, StagePlan
from membrain_cloud.pipeline.stages.base import RunContext, Stage, TaskPart
from membrain_cloud.pipeline.tasks import Job, Kind, Outcome, Ref, State, Task
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.store.run_state.receipts import receipt_name
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

# The part that the receipt of a whole output names.
COMPLETE = "complete"

# Of a stage on a run: "absent" and "refused" for stages that are not chosen, the others for those that are.
_StageState = Literal["done", "planned", "failed", "blocked", "absent", "refused"]


class PlanBuilder:
    """Collect the tasks of a plan, and the outcomes that are known without doing anything.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of all stages.
    registry : mapping of str to Stage
        All stages.
    stages : tuple of str
        Names of the chosen stages.
    job : Job
        What all tasks share.
    worker_memory_bytes : mapping of str to int, int or None
        Memory in bytes of the largest worker for GPU tasks ("gpu") and for CPU tasks ("cpu"), or one number for both;
        None: no limit.

    Attributes
    ----------
    digests : StageDigests
        Digests of the chosen stages and those upstream.
    outcomes : list of Outcome
        Stages that are skipped, refused or blocked.
    """

    def __init__(
        self,
        project: Project,
        settings: Settings,
        registry: Registry,
        *,
        stages: tuple[str, ...],
        job: Job,
        worker_memory_bytes: Mapping[Kind, int] | int | None,
    ) -> None:
        self.project, self.settings, self.registry, self.stages = project, settings, registry, stages
        self.worker_memory_bytes = worker_memory_bytes
        self.job = job
        self.digests = StageDigests.of(settings, registry, stages)
        self.outcomes: list[Outcome] = []
        self._upstream = {name: tuple(registry[name].after(settings)) for name in self.digests.digests}
        self._left: list[tuple[RunPlan, list[Task]]] = []
        self._parts: dict[tuple[str, Grid], tuple[Sequence[TaskPart], int]] = {}

    def plan_runs(self, names: Sequence[str]) -> list[RunPlan]:
        """Return every possible task of some runs; requests to the store are made concurrently.

        Parameters
        ----------
        names : sequence of str
            Names of runs.

        Returns
        -------
        list of RunPlan
            The runs, in the same order.
        """
        if self.project.is_frozen:
            return [self.plan_run(name) for name in names]
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            return list(threads.map(self.plan_run, names))

    def plan_run(self, run: str) -> RunPlan:
        """Return every possible task of one run. Errors are kept with the stages that they prevent.

        Parameters
        ----------
        run : str
            Name of the run.

        Returns
        -------
        RunPlan
            The run, with a `StagePlan` for each chosen stage and those upstream.
        """
        run_plan = RunPlan(run, {name: StagePlan(self.registry[name]) for name in self.digests.digests})
        try:
            context, grid = self._open_run(run)
        except MembrainCloudError as error:
            for stage_plan in run_plan.stages.values():
                stage_plan.refusal = error
            return run_plan
        run_plan.grid = grid
        if context.tomogram is not None:
            run_plan.refs["density"] = context.tomogram
        identities: dict[Ref, str] = {}  # of what is read from outside
        digests: dict[str, str] = {}  # of the tasks of this run, by stage
        produced: dict[Ref, str] = {}  # by the tasks of this run
        for name, stage_plan in run_plan.stages.items():
            if any(upstream not in digests for upstream in self._upstream[name]):
                continue
            try:
                inputs = stage_plan.stage.inputs(context)
                run_plan.refs |= inputs
                output = stage_plan.stage.output(context)
                for ref in inputs.values():
                    if ref not in produced and ref not in identities:
                        identities[ref] = self.project.identity(ref)
                external = {role: identities[ref] for role, ref in inputs.items() if ref not in produced}
                upstream_digests = [digests[other] for other in self._upstream[name]]
                digest = digest_of(self.digests.digests[name], external, upstream_digests)
                sources = {role: produced.get(ref) or identities[ref] for role, ref in inputs.items()}
                place = _place(context.tomogram, inputs)
                whole = Task(
                    job=self.job,
                    stage=name,
                    run=run,
                    part="whole",
                    digest=digest,
                    inputs=inputs,
                    output=output,
                    receipt="",
                    place=place,
                    stage_digest=self.digests.digests[name],
                    model_sha256=self.digests.models[name],
                    identities=sources,
                    voxels=grid.voxels,
                )
                address = _address(stage_plan.stage, context, place, output)
                parts = self._cut(stage_plan, context, grid)
                whole = replace(whole, memory_bytes=stage_plan.memory_bytes)
                stage_plan.n_parts = len(parts)
                stage_plan.tasks += [_task_of_part(whole, part, address) for part in parts]
            except MembrainCloudError as error:
                stage_plan.refusal = error
                continue
            digests[name] = digest
            if output is not None:
                produced[output] = digest[:16]
        return run_plan

    def _open_run(self, run: str) -> tuple[RunContext, Grid]:
        """Find the run's tomogram and the voxel grid of the given segmentation, or else of the tomogram."""
        segmentation = self.settings.separate.segmentation
        tomogram_type, spacing = self.settings.input.tomogram_type, self.settings.input.voxel_spacing_angstrom
        tomogram: TomogramRef | None = None
        try:
            tomograms = self.project.tomograms([run], tomogram_type, spacing)
            tomogram = tomograms[0] if tomograms else None
        except InputError:
            if segmentation is None:
                raise
        context = RunContext(self.project, run, tomogram, self.settings, self.digests.sessions)
        if segmentation is not None:
            return context, self.project.grid(self.project.segmentation(run, segmentation))
        return context, self.project.grid(context.require_tomogram(next(iter(self.digests.digests))))

    def _cut(self, stage_plan: StagePlan, context: RunContext, grid: Grid) -> Sequence[TaskPart]:
        """Return the parts of a stage, computed once for each grid, and note the memory that one of them takes."""
        stage = stage_plan.stage
        if (stage.name, grid) not in self._parts:
            self._parts[stage.name, grid] = stage.parts(context, grid), stage.memory_bytes(grid, self.settings)
        parts, stage_plan.memory_bytes = self._parts[stage.name, grid]
        return parts

    def refuse(self, run: str, error: MembrainCloudError) -> None:
        """Note that nothing can be done on a run.

        Parameters
        ----------
        run : str
            Name of the run.
        error : MembrainCloudError
            Why.
        """
        self._add_outcome(run, self.stages[0], "failed", error.message, error.next_step)

    def decide(self, run_plan: RunPlan, receipts: ReceiptIndex) -> None:
        """Decide stage by stage of one run what is done, left, refused or blocked.

        Parameters
        ----------
        run_plan : RunPlan
            The run.
        receipts : ReceiptIndex
            The receipts in the store.
        """
        states: dict[str, _StageState] = {}
        left: list[Task] = []
        for name, stage_plan in run_plan.stages.items():
            upstream = {other: states[other] for other in self._upstream[name]}
            if stage_plan.tasks and receipts.is_done(stage_plan.stage, stage_plan.tasks[-1]):
                states[name] = "done"
                run_plan.is_begun = True
                if name in self.stages:
                    self._add_outcome(run_plan.run, name, "skipped")
            elif name not in self.stages:
                states[name] = "absent" if stage_plan.refusal is None else "refused"
            else:
                states[name] = self._decide_stage(run_plan, name, upstream)
                if states[name] == "planned":
                    left += self._tasks_left(run_plan, stage_plan, upstream, receipts)
        if left:
            self._left.append((run_plan, left))

    def _decide_stage(self, run_plan: RunPlan, name: str, upstream: Mapping[str, _StageState]) -> _StageState:
        """Return the state of a chosen stage that is not done, and note its failure."""
        stage_plan = run_plan.stages[name]
        stopped = [other for other, state in upstream.items() if state in ("failed", "blocked")]
        if stopped:
            message, next_step = f"{stopped[0]} failed", "see the failure of that stage"
            self._add_outcome(run_plan.run, name, "blocked", message, next_step)
            return "blocked"
        absent = [other for other, state in upstream.items() if state in ("absent", "refused")]
        if absent and stage_plan.refusal is None:
            message = f"{name} reads the output of {absent[0]}, which does not exist for these settings"
            missing = InputError(message, f"include the stage {absent[0]}")
            stage_plan.refusal = run_plan.stages[absent[0]].refusal or missing
        if stage_plan.refusal is None:
            stage_plan.refusal = self._check_memory(name, stage_plan)
        if stage_plan.refusal is not None:
            refusal = stage_plan.refusal
            self._add_outcome(run_plan.run, name, "failed", refusal.message, refusal.next_step)
            return "failed"
        return "planned"

    def _check_memory(self, name: str, stage_plan: StagePlan) -> InputError | None:
        limit = self.worker_memory_bytes
        kind: Kind = "gpu" if stage_plan.stage.needs_gpu else "cpu"
        if limit is not None and not isinstance(limit, int):
            limit = limit.get(kind)
        if limit is None or stage_plan.memory_bytes <= limit:
            return None
        return memory_refusal(name, stage_plan.memory_bytes, limit)

    def _tasks_left(
        self,
        run_plan: RunPlan,
        stage_plan: StagePlan,
        upstream: Mapping[str, _StageState],
        receipts: ReceiptIndex,
    ) -> list[Task]:
        """Return the tasks of a stage that are not done, with the tasks of this plan that they need."""
        left = stage_plan.tasks
        # Blocks count only with the preparation that made their chunks.
        if len(left) > 1 and receipts.is_done(stage_plan.stage, left[0]):
            run_plan.is_begun = True
            left = [task for task in left if not receipts.is_done(stage_plan.stage, task)]
        keys = {task.key for task in left}
        before = tuple(run_plan.stages[other].tasks[-1].key for other, state in upstream.items() if state == "planned")
        tasks = [replace(task, needs=tuple(key for key in task.needs if key in keys) or before) for task in left]
        stage_plan.tasks = tasks  # a plan of a million tasks holds none of them twice
        return tasks

    def ordered_tasks(self) -> tuple[Task, ...]:
        """Return all tasks that are left: begun runs first, then large tomograms before small ones, then by name."""

        def rank(entry: tuple[RunPlan, list[Task]]) -> tuple[bool, int, str]:
            run_plan = entry[0]
            return not run_plan.is_begun, -(run_plan.grid.voxels if run_plan.grid else 0), run_plan.run

        return tuple(task for _, tasks in sorted(self._left, key=rank) for task in tasks)

    def _add_outcome(self, run: str, stage: str, state: State, message: str = "", next_step: str = "") -> None:
        self.outcomes.append(Outcome(stage, run, "whole", state, message, next_step))


def memory_refusal(stage: str, needed_bytes: int, limit_bytes: int) -> InputError:
    """Return the error for a task that needs more memory than any worker for it has.

    Parameters
    ----------
    stage : str
        Name of the stage.
    needed_bytes, limit_bytes : int
        Memory of the task, and of the largest worker for it.

    Returns
    -------
    InputError
        The error.
    """
    return InputError(
        f"{stage} needs about {needed_bytes / GIB:.1f} GiB, the largest worker for it has {limit_bytes / GIB:.1f} GiB",
        "give a worker more memory, or take fewer on the same machine, smaller windows or a coarser spacing",
    )


def _task_of_part(whole: Task, part: TaskPart, address: str) -> Task:
    """Return the task that does one part of `whole`, with the name of its receipt below `address`."""
    completes = part.name in ("whole", "finish")
    digest = whole.digest if completes else digest_of(whole.digest, part.name, part.digest_input)
    return replace(
        whole,
        part=part.name,
        digest=digest,
        receipt=receipt_name(address, COMPLETE if completes else part.name, digest),
        needs=tuple(f"{whole.stage}/{whole.run}/{other}" for other in part.needs),
    )


def _address(stage: Stage, context: RunContext, place: str, output: Ref | None) -> str:
    """Return the address of an output, with which its receipts' names begin.

    Rows of tables belong to the tomogram, whatever the session.
    """
    if isinstance(output, SegmentationRef | ObjectRef):
        return output_address(stage.name, output)
    parts = (stage.name, context.dataset, context.run, place, stage.rows_name(context.settings))
    return "/".join(part for part in parts if part)


def output_address(stage: str, output: SegmentationRef | ObjectRef) -> str:
    """Return the address of a stage's annotation, with which its receipts' names begin.

    Parameters
    ----------
    stage : str
        Name of the stage.
    output : SegmentationRef or ObjectRef
        The annotation.
    """
    spacing = f"@{output.voxel_spacing_angstrom:.3f}" if isinstance(output, SegmentationRef) else ""
    return f"{stage}/{output.user}_{output.session}/{output.run}/{output.name}{spacing}"


def _place(tomogram: TomogramRef | None, inputs: Mapping[str, Ref]) -> str:
    """Return which tomogram of the run it is, `type@spacing`, or which segmentation where there is no tomogram."""
    if tomogram is not None:
        return f"{tomogram.tomogram_type}@{tomogram.voxel_spacing_angstrom:.3f}"
    segmentation = next((ref for ref in inputs.values() if isinstance(ref, SegmentationRef)), None)
    return "" if segmentation is None else f"{segmentation.name}@{segmentation.voxel_spacing_angstrom:.3f}"
