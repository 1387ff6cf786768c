"""From settings and a project to the tasks that are left to do. Nothing is written here, and no voxel is read.

What is done is derived from the store: a task is done when a receipt is there whose name carries the task's digest
(chain.py, store/receipts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from membrain_cloud.errors import InputError, MembrainCloudError
from membrain_cloud.geometry import Grid
from membrain_cloud.pipeline.chain import Chain, Registry, choose_stages, digest_of
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stage import GIB, Site, Stage
from membrain_cloud.pipeline.tasks import Job, Outcome, Ref, Task
from membrain_cloud.store.project import Project
from membrain_cloud.store.receipts import receipt_name
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.store.tables import Tables

# The part that a receipt of a whole output names.
COMPLETE = "complete"
# Of so few runs the receipts are listed run by run, of more all that the stages have.
FEW_RUNS = 16
# Requests to a store at once.
LOOKUPS = 16


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    tasks : left to do, in order.  settled : known already: skipped (done before), failed (refused), blocked.
    memory_bytes : what each task will need, by its key.  sessions : copick session each stage writes to.
    refs : of each run, what its stages read, by role: density, labels, instances, meshes, picks.
    """

    job: Job
    stages: tuple[str, ...]
    runs: tuple[str, ...]
    sessions: Mapping[str, str]
    tasks: tuple[Task, ...]
    settled: tuple[Outcome, ...]
    memory_bytes: Mapping[str, int]
    refs: Mapping[str, Mapping[str, Ref]]


def plan(
    project: Project,
    settings: Settings,
    registry: Registry,
    *,
    runs: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
    worker_memory_bytes: int | None = None,
) -> Plan:
    """The tasks that are left to do on `runs` (None: all) for `stages` (None: all that apply).

    Raises
    ------
    ProjectError : no such run, or a project without runs.  UsageError : no such stage.  ModelError : no such model.
    A run whose input is bad does not raise: it is among `settled`, failed.
    """
    chosen = choose_stages(stages, settings, registry)
    tables = open_tables(project, settings)
    names = _choose_runs(project, runs)
    draft = _Draft(project, settings, registry, chosen, tables, worker_memory_bytes)
    drafts = draft.all_runs(names)
    draft.read_receipts(drafts)
    if not runs:
        for name, error in project.bad_runs().items():
            draft.refuse(name, error)
    for run in drafts:
        draft.settle(run)
    sessions = {name: draft.chain.sessions[name] for name in chosen}
    refs = {run.run: run.refs for run in drafts}
    return Plan(draft.job, chosen, names, sessions, tuple(draft.tasks), tuple(draft.settled), draft.memory_bytes, refs)


def open_tables(project: Project, settings: Settings) -> Tables:
    """The tables a run writes: `output.tables`, or those beside the annotations."""
    url = settings.output.tables
    if url is None:
        return Tables(f"{project.root_url}/membrain-cloud/tables", project.storage_options)
    same_store = url.partition("://")[0] == project.root_url.partition("://")[0] and "://" in url
    return Tables(url, project.storage_options if same_store else None)


def _choose_runs(project: Project, runs: Sequence[str] | None) -> tuple[str, ...]:
    if runs:
        project.tomograms(runs, None, None)  # refuses names that are not there
        return tuple(sorted(set(runs)))
    known = project.runs()
    if not known and not project.bad_runs():
        raise InputError(f"{project.config}: the project has no runs", "add tomograms: membrain-cloud project init")
    return tuple(known)


@dataclass
class _Step:
    """One stage on one run, before it is known what of it is done. `refusal` is why it cannot be done."""

    stage: Stage
    tasks: list[Task] = field(default_factory=list)
    memory_bytes: int = 0
    refusal: MembrainCloudError | None = None


@dataclass
class _RunDraft:
    run: str
    steps: dict[str, _Step] = field(default_factory=dict)
    refs: dict[str, Ref] = field(default_factory=dict)


class _Draft:
    """The plan while it is made: first every task there could be, then what of it is left to do."""

    def __init__(
        self,
        project: Project,
        settings: Settings,
        registry: Registry,
        chosen: tuple[str, ...],
        tables: Tables,
        worker_memory_bytes: int | None,
    ) -> None:
        self.project, self.settings, self.registry, self.chosen = project, settings, registry, chosen
        self.worker_memory_bytes = worker_memory_bytes
        self.receipts = {"project": project.receipts, "tables": tables.receipts}
        self.job = Job(project.config, tables.url, settings.as_dict())
        self.chain = Chain.of(settings, registry, chosen)
        self.done: set[tuple[str, str]] = set()
        self.tasks: list[Task] = []
        self.settled: list[Outcome] = []
        self.memory_bytes: dict[str, int] = {}

    def all_runs(self, names: Sequence[str]) -> list[_RunDraft]:
        """Every task there could be. What a store must be asked for is asked side by side."""
        if self.project.is_frozen:
            return [self.run(name) for name in names]
        with ThreadPoolExecutor(LOOKUPS) as threads:
            return list(threads.map(self.run, names))

    def run(self, run: str) -> _RunDraft:
        """Every task there could be on one run; refusals are kept with the stage they meet."""
        draft = _RunDraft(run, {name: _Step(self.registry[name]) for name in self.chain.links})
        try:
            site, grid = self._site(run)
        except MembrainCloudError as error:
            for step in draft.steps.values():
                step.refusal = error
            return draft
        if site.tomogram is not None:
            draft.refs["density"] = site.tomogram
        identities: dict[Ref, str] = {}
        digests: dict[str, str] = {}
        outputs: dict[str, Ref | None] = {}
        for name, step in draft.steps.items():
            try:
                before = [upstream for upstream in step.stage.after(self.settings) if upstream not in digests]
                if before:
                    continue
                inputs = step.stage.inputs(site)
                draft.refs |= inputs
                outputs[name] = step.stage.output(site)
                outside = {role: ref for role, ref in inputs.items() if ref not in outputs.values()}
                for ref in outside.values():
                    identities.setdefault(ref, self.project.identity(ref))
                seen = {role: identities[ref] for role, ref in outside.items()}
                upstream = [digests[other] for other in step.stage.after(self.settings)]
                digests[name] = digest_of(self.chain.links[name], seen, upstream)
                made = {ref: digests[other][:16] for other, ref in outputs.items() if ref and other in digests}
                whence = {role: seen.get(role) or made[ref] for role, ref in inputs.items()}
                self._cut(step, site, grid, inputs, outputs[name], digests[name], whence)
            except MembrainCloudError as error:
                step.refusal = error
                digests.pop(name, None)
        return draft

    def _site(self, run: str) -> tuple[Site, Grid]:
        given = self.settings.separate.segmentation
        kind, spacing = self.settings.input.tomogram_type, self.settings.input.voxel_spacing_angstrom
        tomogram: TomogramRef | None = None
        try:
            found = self.project.tomograms([run], kind, spacing)
            tomogram = found[0] if found else None
        except InputError:
            if given is None:
                raise
        site = Site(self.project, run, tomogram, self.settings, self.chain.sessions)
        if given is not None:
            return site, self.project.grid(self.project.segmentation(run, given))
        return site, self.project.grid(site.require_tomogram(next(iter(self.chain.links))))

    def _cut(
        self,
        step: _Step,
        site: Site,
        grid: Grid,
        inputs: Mapping[str, Ref],
        output: Ref | None,
        digest: str,
        identities: Mapping[str, str],
    ) -> None:
        stage = step.stage
        step.memory_bytes = stage.memory_bytes(grid, self.settings)
        place = _place(site.tomogram, inputs)
        address = _address(stage, site, place, output)
        for part in stage.parts(site, grid):
            completes = part.name in ("whole", "finish")
            own = digest if completes else digest_of(digest, part.name, part.material)
            step.tasks.append(
                Task(
                    job=self.job,
                    stage=stage.name,
                    run=site.run,
                    part=part.name,
                    digest=own,
                    inputs=inputs,
                    output=output,
                    receipt=receipt_name(address, COMPLETE if completes else part.name, own),
                    place=place,
                    link=self.chain.links[stage.name],
                    needs=tuple(f"{stage.name}/{site.run}/{other}" for other in part.needs),
                    model_sha256=self.chain.models[stage.name],
                    identities=identities,
                    voxels=grid.voxels,
                )
            )

    def read_receipts(self, drafts: Sequence[_RunDraft]) -> None:
        """What is done, by the receipts' names alone: a few bulk listings, and no receipt is read."""
        depth = 3 if len(drafts) <= FEW_RUNS else 2  # an address is stage/session/run/name
        places = {
            (step.stage.keeps_receipts_in, "/".join(task.address.split("/")[:depth]))
            for draft in drafts
            for step in draft.steps.values()
            for task in step.tasks
        }
        with ThreadPoolExecutor(LOOKUPS) as threads:
            listed = threads.map(lambda place: self.receipts[place[0]].names(place[1]), places)
            for (store, _), names in zip(places, listed, strict=True):
                self.done |= {(store, name) for name in names}

    def _is_done(self, step: _Step, task: Task) -> bool:
        return (step.stage.keeps_receipts_in, task.receipt) in self.done

    def refuse(self, run: str, error: MembrainCloudError) -> None:
        self._settle(run, self.chosen[0], "failed", error.message, error.next_step)

    def settle(self, draft: _RunDraft) -> None:
        """Decide stage by stage of one run: skipped, to do, refused, blocked."""
        states: dict[str, str] = {}
        for name, step in draft.steps.items():
            before = {other: states[other] for other in step.stage.after(self.settings)}
            if step.tasks and self._is_done(step, step.tasks[-1]):
                states[name] = "done"
                if name in self.chosen:
                    self._settle(draft.run, name, "skipped")
            elif name not in self.chosen:
                states[name] = "absent" if step.refusal is None else "refused"
            else:
                states[name] = self._decide(draft, name, step, before)

    def _decide(self, draft: _RunDraft, name: str, step: _Step, before: Mapping[str, str]) -> str:
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
        self._add(draft, step, [other for other, state in before.items() if state == "planned"])
        return "planned"

    def _too_large(self, name: str, step: _Step) -> InputError | None:
        limit = self.worker_memory_bytes
        if limit is None or step.memory_bytes <= limit:
            return None
        return InputError(
            f"{name} needs about {step.memory_bytes / GIB:.1f} GiB, a worker has {limit / GIB:.1f} GiB",
            "take fewer workers, so that each has more memory, smaller windows or a coarser spacing",
        )

    def _add(self, draft: _RunDraft, step: _Step, upstream: Sequence[str]) -> None:
        left = step.tasks
        if len(left) > 1 and self._is_done(step, left[0]):
            left = [task for task in left if not self._is_done(step, task)]
        keys = {task.key for task in left}
        outer = tuple(draft.steps[other].tasks[-1].key for other in upstream)
        for task in left:
            needs = tuple(key for key in task.needs if key in keys)
            values = {**task.__dict__, "needs": needs or outer}
            self.tasks.append(Task(**values))
            self.memory_bytes[task.key] = step.memory_bytes

    def _settle(self, run: str, stage: str, state: Any, message: str = "", next_step: str = "") -> None:
        self.settled.append(Outcome(stage, run, "whole", state, message, next_step))


def _address(stage: Stage, site: Site, place: str, output: Ref | None) -> str:
    """Where the output lies, as receipts' names begin; table rows are about the tomogram, in whatever session."""
    if isinstance(output, SegmentationRef):
        name = f"{output.name}@{output.voxel_spacing_angstrom:.3f}"
    elif isinstance(output, ObjectRef):
        name = output.name
    else:
        return f"{stage.name}/{site.dataset}/{site.run}/{place}"
    return f"{stage.name}/{output.user}_{output.session}/{site.run}/{name}"


def _place(tomogram: TomogramRef | None, inputs: Mapping[str, Ref]) -> str:
    if tomogram is not None:
        return f"{tomogram.tomogram_type}@{tomogram.voxel_spacing_angstrom:.3f}"
    segmentation = next((ref for ref in inputs.values() if isinstance(ref, SegmentationRef)), None)
    return "" if segmentation is None else f"{segmentation.name}@{segmentation.voxel_spacing_angstrom:.3f}"
