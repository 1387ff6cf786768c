"""Count the progress of a run, for progress bars, metrics and logs."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task

TomogramState = Literal["pending", "running", "done", "failed", "blocked"]
TOMOGRAM_STATES: tuple[TomogramState, ...] = ("done", "failed", "blocked", "running", "pending")


class ProgressCounter:
    """The counts of one run.

    Parameters
    ----------
    plan : Plan
        The plan.
    clock : callable
        Returns the time in seconds. Default: `time.monotonic`.

    Attributes
    ----------
    tomograms : Counter
        Number of tomograms by state, those for which the plan leaves nothing to do included.
    total, left : Counter
        Number of tasks of each stage, and of those that have not ended.
    ended : Counter
        Number of ended tasks by stage and state.
    seconds : dict of str to float
        Sum of the time that the done tasks of each stage took.
    voxels : Counter
        Voxels of tomograms done by each stage.
    retries : Counter
        Number of retries by stage and cause.
    gpu_seconds : float
        Time for which tasks had a GPU.
    last_progress : float
        When a task last ended.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.started = clock, clock()
        self.total = Counter(task.stage for task in plan.tasks)
        self.left = Counter(self.total)
        self.ended: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = {}
        self.voxels: Counter[str] = Counter()
        self.retries: Counter[tuple[str, str]] = Counter()
        self.gpu_seconds = 0.0
        self.last_progress = self.started
        self._left_of_run = Counter(task.run for task in plan.tasks)
        self._states: dict[str, TomogramState] = dict.fromkeys(plan.runs, "done")
        for outcome in plan.outcomes:
            self._states |= self._failed_state(outcome)
        for run in self._left_of_run:
            if self._states.get(run) not in ("failed", "blocked"):
                self._states[run] = "pending"
        self.tomograms: Counter[TomogramState] = Counter(self._states.values())

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """Count an event of a task; an `execution.runner.Observer`.

        Parameters
        ----------
        event : str
            "started", "finished", "again" or "held".
        task : Task
            The task.
        outcome : Outcome or None
            Its outcome; None for "started".
        """
        if outcome is None:
            if self._states[task.run] == "pending":
                self._set_state(task.run, "running")
        elif event == "again":
            self.retries[task.stage, outcome.message if outcome.state == "again" else "requeued"] += 1
        elif event == "finished":
            self._end(task, outcome)

    def _end(self, task: Task, outcome: Outcome) -> None:
        self.last_progress = self._clock()
        self.left[task.stage] -= 1
        self.ended[task.stage, outcome.state] += 1
        if outcome.state == "done":
            self.seconds[task.stage] = self.seconds.get(task.stage, 0.0) + outcome.seconds
            self.voxels[task.stage] += int(outcome.measured.get("voxels", 0))
        self.gpu_seconds += outcome.measured.get("gpu_seconds", 0.0)
        if outcome.measured.get("retries"):
            self.retries[task.stage, "store"] += int(outcome.measured["retries"])
        for run, state in self._failed_state(outcome).items():
            self._set_state(run, state)
        self._left_of_run[task.run] -= 1
        if not self._left_of_run[task.run] and self._states[task.run] in ("pending", "running"):
            self._set_state(task.run, "done")

    def _failed_state(self, outcome: Outcome) -> dict[str, TomogramState]:
        """Return the run of a failed or blocked outcome with its new state; empty for other outcomes."""
        if outcome.state == "failed":
            return {outcome.run: "failed"}
        if outcome.state == "blocked" and self._states.get(outcome.run) != "failed":
            return {outcome.run: "blocked"}
        return {}

    def _set_state(self, run: str, state: TomogramState) -> None:
        if run in self._states:
            self.tomograms[self._states[run]] -= 1
        self._states[run] = state
        self.tomograms[state] += 1

    def tasks_per_hour(self) -> float:
        """Return the ended tasks in an hour since the start."""
        return 3600 * self.ended.total() / max(self._clock() - self.started, 1e-9)

    def eta_seconds(self) -> float | None:
        """Return the time left, from the mean time of each stage's tasks and how many ran at once; None at first."""
        elapsed, spent = self._clock() - self.started, sum(self.seconds.values())
        done = {stage: self.ended[stage, "done"] for stage in self.total}
        if not spent or not elapsed:
            return None
        mean = spent / sum(done.values())
        ahead = sum(
            left * (self.seconds.get(stage, 0.0) / done[stage] if done[stage] else mean)
            for stage, left in self.left.items()
        )
        return ahead / (spent / elapsed)
