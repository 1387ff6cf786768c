"""How far a run is: what progress bars, metrics and logs have in common. Fed with what run_tasks() observes."""

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
    """Counts of one run.

    tomograms : by state; those that the plan settled are among them.
    left, ended : tasks of each stage.  seconds : what the done ones of each stage took, summed.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.started = clock, clock()
        self.total = Counter(task.stage for task in plan.tasks)
        self.left = Counter(self.total)
        self.ended: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.voxels: Counter[str] = Counter()
        self.retries: Counter[tuple[str, str]] = Counter()
        self.gpu_seconds = 0.0
        self.last_progress = self.started
        self._left_of_run = Counter(task.run for task in plan.tasks)
        self._states: dict[str, TomogramState] = dict.fromkeys(plan.runs, "done")
        for outcome in plan.outcomes:
            self._spoil(outcome)
        for run in self._left_of_run:
            if self._states.get(run) not in ("failed", "blocked"):
                self._states[run] = "pending"
        self.tomograms: Counter[TomogramState] = Counter(self._states.values())

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """As run_tasks() tells it."""
        if outcome is None:
            if self._states[task.run] == "pending":
                self._set(task.run, "running")
        elif event == "again":
            self.retries[task.stage, outcome.message if outcome.state == "again" else "requeued"] += 1
        elif event == "finished":
            self._end(task, outcome)

    def _end(self, task: Task, outcome: Outcome) -> None:
        self.last_progress = self._clock()
        self.left[task.stage] -= 1
        self.ended[task.stage, outcome.state] += 1
        if outcome.state == "done":
            self.seconds[task.stage] += outcome.seconds  # type: ignore[assignment]
            self.voxels[task.stage] += int(outcome.measured.get("voxels", 0))
        self.gpu_seconds += outcome.measured.get("gpu_seconds", 0.0)
        if outcome.measured.get("retries"):
            self.retries[task.stage, "store"] += int(outcome.measured["retries"])
        self._spoil(outcome)
        self._left_of_run[task.run] -= 1
        if not self._left_of_run[task.run] and self._states[task.run] in ("pending", "running"):
            self._set(task.run, "done")

    def _spoil(self, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self._set(outcome.run, "failed")
        elif outcome.state == "blocked" and self._states.get(outcome.run) != "failed":
            self._set(outcome.run, "blocked")

    def _set(self, run: str, state: TomogramState) -> None:
        if hasattr(self, "tomograms"):
            if run in self._states:
                self.tomograms[self._states[run]] -= 1
            self.tomograms[state] += 1
        self._states[run] = state

    def tasks_per_hour(self) -> float:
        """Tasks ended an hour since the start."""
        return 3600 * self.ended.total() / max(self._clock() - self.started, 1e-9)

    def eta_seconds(self) -> float | None:
        """Time left, by what the stages' tasks took so far and how many ran at once; None while nothing is known."""
        elapsed, spent = self._clock() - self.started, sum(self.seconds.values())
        done = {stage: self.ended[stage, "done"] for stage in self.total}
        if not spent or not elapsed:
            return None
        overall = spent / sum(done.values())
        ahead = sum(
            left * (self.seconds[stage] / done[stage] if done[stage] else overall) for stage, left in self.left.items()
        )
        return ahead / (spent / elapsed)
