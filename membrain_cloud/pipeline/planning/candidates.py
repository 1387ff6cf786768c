"""A plan while it is made: first every task there could be, then what of it is left to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import InputError, MembrainCloudError
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.planning.digests import Registry, StageDigests
from membrain_cloud.pipeline.planning.receipt_index import CONCURRENT_REQUESTS, ReceiptIndex
from membrain_cloud.pipeline.planning.records import RunPlan, Step
from membrain_cloud.pipeline.stages.base import RunContext, Stage, TaskPart
from membrain_cloud.pipeline.tasks import Job, Outcome, Ref, Task
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.store.run_state.receipts import receipt_name
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

# The part that a receipt of a whole output names.
COMPLETE = "complete"


class Draft:
    """A plan while it is made."""

    def __init__(
        self,
        project: Project,
        settings: Settings,
        registry: Registry,
        chosen: tuple[str, ...],
        job: Job,
        worker_memory_bytes: int | None,
    ) -> None:
        self.project, self.settings, self.registry, self.chosen = project, settings, registry, chosen
        self.worker_memory_bytes = worker_memory_bytes
        self.job = job
        self.chain = StageDigests.of(settings, registry, chosen)
        self.after = {name: tuple(registry[name].after(settings)) for name in self.chain.digests}
        self.settled: list[Outcome] = []
        self.memory_bytes: dict[str, int] = {}
        self._left: list[tuple[RunPlan, list[Task]]] = []
        self._cuts: dict[tuple[str, Grid], tuple[Sequence[TaskPart], int]] = {}

    def all_runs(self, names: Sequence[str]) -> list[RunPlan]:
        """Every task there could be. What a store must be asked for is asked side by side."""
        if self.project.is_frozen:
            return [self.run(name) for name in names]
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
            return list(threads.map(self.run, names))

    def run(self, run: str) -> RunPlan:
        """Every task there could be on one run; refusals are kept with the stage they meet."""
        draft = RunPlan(run, {name: Step(self.registry[name]) for name in self.chain.digests})
        try:
            context, grid = self._site(run)
        except MembrainCloudError as error:
            for step in draft.steps.values():
                step.refusal = error
            return draft
        draft.grid = grid
        if context.tomogram is not None:
            draft.refs["density"] = context.tomogram
        identities: dict[Ref, str] = {}
        digests: dict[str, str] = {}
        made: dict[Ref, str] = {}
        for name, step in draft.steps.items():
            if any(upstream not in digests for upstream in self.after[name]):
                continue
            try:
                inputs = step.stage.inputs(context)
                draft.refs |= inputs
                output = step.stage.output(context)
                for ref in inputs.values():
                    if ref not in made and ref not in identities:
                        identities[ref] = self.project.identity(ref)
                seen = {role: identities[ref] for role, ref in inputs.items() if ref not in made}
                digest = digest_of(self.chain.digests[name], seen, [digests[other] for other in self.after[name]])
                whence = {role: made.get(ref) or identities[ref] for role, ref in inputs.items()}
                self._cut(step, context, grid, inputs, output, digest, whence)
            except MembrainCloudError as error:
                step.refusal = error
                continue
            digests[name] = digest
            if output is not None:
                made[output] = digest[:16]
        return draft

    def _site(self, run: str) -> tuple[RunContext, Grid]:
        given = self.settings.separate.segmentation
        kind, spacing = self.settings.input.tomogram_type, self.settings.input.voxel_spacing_angstrom
        tomogram: TomogramRef | None = None
        try:
            found = self.project.tomograms([run], kind, spacing)
            tomogram = found[0] if found else None
        except InputError:
            if given is None:
                raise
        context = RunContext(self.project, run, tomogram, self.settings, self.chain.sessions)
        if given is not None:
            return context, self.project.grid(self.project.segmentation(run, given))
        return context, self.project.grid(context.require_tomogram(next(iter(self.chain.digests))))

    def _cut(
        self,
        step: Step,
        context: RunContext,
        grid: Grid,
        inputs: Mapping[str, Ref],
        output: Ref | None,
        digest: str,
        identities: Mapping[str, str],
    ) -> None:
        stage = step.stage
        known = self._cuts.get((stage.name, grid))
        if known is None:
            known = stage.parts(context, grid), stage.memory_bytes(grid, self.settings)
            self._cuts[stage.name, grid] = known
        parts, step.memory_bytes = known
        place = _place(context.tomogram, inputs)
        address = _address(stage, context, place, output)
        for part in parts:
            completes = part.name in ("whole", "finish")
            own = digest if completes else digest_of(digest, part.name, part.material)
            step.tasks.append(
                Task(
                    job=self.job,
                    stage=stage.name,
                    run=context.run,
                    part=part.name,
                    digest=own,
                    inputs=inputs,
                    output=output,
                    receipt=receipt_name(address, COMPLETE if completes else part.name, own),
                    place=place,
                    stage_digest=self.chain.digests[stage.name],
                    needs=tuple(f"{stage.name}/{context.run}/{other}" for other in part.needs),
                    model_sha256=self.chain.models[stage.name],
                    identities=identities,
                    voxels=grid.voxels,
                )
            )

    def refuse(self, run: str, error: MembrainCloudError) -> None:
        self._settle(run, self.chosen[0], "failed", error.message, error.next_step)

    def settle(self, draft: RunPlan, standing: ReceiptIndex) -> None:
        """Decide stage by stage of one run: skipped, to do, refused, blocked."""
        states: dict[str, str] = {}
        left: list[Task] = []
        for name, step in draft.steps.items():
            before = {other: states[other] for other in self.after[name]}
            if step.tasks and standing.is_done(step.stage, step.tasks[-1]):
                states[name] = "done"
                draft.begun = True
                if name in self.chosen:
                    self._settle(draft.run, name, "skipped")
            elif name not in self.chosen:
                states[name] = "absent" if step.refusal is None else "refused"
            else:
                states[name] = self._decide(draft, name, before)
                if states[name] == "planned":
                    left += self._left_of(draft, step, before, standing)
        if left:
            self._left.append((draft, left))

    def _decide(self, draft: RunPlan, name: str, before: Mapping[str, str]) -> str:
        step = draft.steps[name]
        stopped = [other for other, state in before.items() if state in ("failed", "blocked")]
        if stopped:
            self._settle(draft.run, name, "blocked", f"{stopped[0]} failed", "see the failure of that stage")
            return "blocked"
        absent = [other for other, state in before.items() if state in ("absent", "refused")]
        if absent and step.refusal is None:
            upstream = draft.steps[absent[0]].refusal
            message = f"{name} reads what {absent[0]} writes, and that has not been made with these settings"
            step.refusal = upstream or InputError(message, f"add {absent[0]} to --stages")
        if step.refusal is None:
            step.refusal = self._too_large(name, step)
        if step.refusal is not None:
            self._settle(draft.run, name, "failed", step.refusal.message, step.refusal.next_step)
            return "failed"
        return "planned"

    def _too_large(self, name: str, step: Step) -> InputError | None:
        limit = self.worker_memory_bytes
        if limit is None or step.memory_bytes <= limit:
            return None
        return InputError(
            f"{name} needs about {step.memory_bytes / GIB:.1f} GiB, a worker has {limit / GIB:.1f} GiB",
            "take fewer workers, so that each has more memory, smaller windows or a coarser spacing",
        )

    def _left_of(self, draft: RunPlan, step: Step, before: Mapping[str, str], standing: ReceiptIndex) -> list[Task]:
        """The tasks of a stage that are not done, and what each waits for."""
        left = step.tasks
        if len(left) > 1 and standing.is_done(step.stage, left[0]):
            draft.begun = True
            left = [task for task in left if not standing.is_done(step.stage, task)]
        keys = {task.key for task in left}
        outer = tuple(draft.steps[other].tasks[-1].key for other, state in before.items() if state == "planned")
        for task in left:
            self.memory_bytes[task.key] = step.memory_bytes
        return [replace(task, needs=tuple(key for key in task.needs if key in keys) or outer) for task in left]

    def ordered_tasks(self) -> tuple[Task, ...]:
        """All that is left to do: tomograms begun first, then large before small, then by name."""

        def rank(entry: tuple[RunPlan, list[Task]]) -> tuple[bool, int, str]:
            draft = entry[0]
            return not draft.begun, -(draft.grid.voxels if draft.grid else 0), draft.run

        return tuple(task for _, tasks in sorted(self._left, key=rank) for task in tasks)

    def _settle(self, run: str, stage: str, state: Any, message: str = "", next_step: str = "") -> None:
        self.settled.append(Outcome(stage, run, "whole", state, message, next_step))


def _address(stage: Stage, context: RunContext, place: str, output: Ref | None) -> str:
    """Where the output lies, as receipts' names begin; table rows are about the tomogram, in whatever session."""
    if isinstance(output, SegmentationRef):
        name = f"{output.name}@{output.voxel_spacing_angstrom:.3f}"
    elif isinstance(output, ObjectRef):
        name = output.name
    else:
        return f"{stage.name}/{context.dataset}/{context.run}/{place}"
    return f"{stage.name}/{output.user}_{output.session}/{context.run}/{name}"


def _place(tomogram: TomogramRef | None, inputs: Mapping[str, Ref]) -> str:
    if tomogram is not None:
        return f"{tomogram.tomogram_type}@{tomogram.voxel_spacing_angstrom:.3f}"
    segmentation = next((ref for ref in inputs.values() if isinstance(ref, SegmentationRef)), None)
    return "" if segmentation is None else f"{segmentation.name}@{segmentation.voxel_spacing_angstrom:.3f}"
