"""Worker groups: how waiting tasks are divided among them, and how their sizes follow. Without Kubernetes.

A group gets the tasks that its workers take: those of its kind, or all tasks where no worker is for the other kind; and
no task that needs more memory than one of its workers has. Groups of one kind are filled in their order, e.g. spot
before on-demand machines. Workers that a group lacks for long go to the next group as well.

A group grows at once, in steps. It shrinks to the largest number that was wanted in the last `WINDOW_SECONDS`, and by
no more workers than have nothing to do.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.runner import KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from membrain_cloud.pipeline.execution.runner import Demand
    from membrain_cloud.pipeline.tasks import Kind

# Least time between two changes of a group's size.
CHANGE_SECONDS = 30.0
# A group shrinks to what was wanted at most in this time.
WINDOW_SECONDS = 600.0
# Sizes are rounded up to this share of the largest size, so that small changes of the work change nothing.
STEP_SHARE = 1 / 12
# A group whose workers have been missing for this time has no machines to get: the next group stands in.
FALLBACK_SECONDS = 600.0
_GROUP = re.compile(r"(gpu|cpu)=([a-z0-9]([-a-z0-9.]*[a-z0-9])?):([1-9]\d*)")


@dataclass
class WorkerGroup:
    """A DaskWorkerGroup with workers of one kind.

    Attributes
    ----------
    kind : {"gpu", "cpu"}
        The tasks that its workers execute.
    name : str
        Its name on Kubernetes.
    max_replicas : int
        Largest number of workers.
    slots : int
        Number of tasks that one of its workers executes at the same time. Default: 1, until its pods are known.
    memory_bytes : int or None
        Memory limit of one of its workers; None while it is unknown.
    replicas : int
        Number of workers that were last asked for.
    changed_at : float
        Time of the last change of that number, by our own clock.
    """

    kind: Kind
    name: str
    max_replicas: int
    slots: int = 1
    memory_bytes: int | None = None
    replicas: int = 0
    changed_at: float = -math.inf
    _wanted: deque[tuple[float, int]] = field(default_factory=deque, repr=False)
    _complete_at: float | None = None

    @classmethod
    def parse(cls, text: str) -> WorkerGroup:
        """Return the group that a text names.

        Parameters
        ----------
        text : str
            ``KIND=WORKERGROUP:MAX``, e.g. ``gpu=membrain-gpu:64``.

        Returns
        -------
        WorkerGroup
            The group, of which no more is known yet.

        Raises
        ------
        UsageError
            If the text has another form.
        """
        match = _GROUP.fullmatch(text)
        if match is None:
            cause = f"worker group {text}: not of the form KIND=WORKERGROUP:MAX"
            raise UsageError(cause, "write it like gpu=membrain-gpu:64")
        kind: Kind = "gpu" if match[1] == "gpu" else "cpu"
        return cls(kind, match[2], int(match[4]))

    def tasks_per_worker(self, memory_bytes: int) -> int:
        """Return how many tasks with this memory one worker executes at the same time; 0 where it takes none.

        Parameters
        ----------
        memory_bytes : int
            Memory of each task.
        """
        if self.memory_bytes is None or memory_bytes <= self.memory_bytes // self.slots:
            return self.slots
        return 1 if memory_bytes <= self.memory_bytes else 0

    def note_wanted(self, workers: int, now: float) -> None:
        """Record how many workers the tasks can use at `now`."""
        while self._wanted and self._wanted[-1][1] <= workers:
            self._wanted.pop()  # never the largest again
        self._wanted.append((now, workers))
        while self._wanted[0][0] < now - WINDOW_SECONDS:
            self._wanted.popleft()

    def note_connected(self, workers: int, now: float) -> None:
        """Record how many of its workers are connected at `now`."""
        if workers >= self.replicas or self._complete_at is None or now - self.changed_at < CHANGE_SECONDS:
            self._complete_at = now

    def lacks_machines(self, now: float) -> bool:
        """Return whether workers that were asked for have not connected for `FALLBACK_SECONDS`."""
        return self._complete_at is not None and now - self._complete_at >= FALLBACK_SECONDS

    def next_size(self, now: float) -> int:
        """Return the number of workers to have: larger or smaller than `replicas`, or the same.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        """
        if not self._wanted or now - self.changed_at < CHANGE_SECONDS:
            return self.replicas
        largest, latest = self._rounded(self._wanted[0][1]), self._rounded(self._wanted[-1][1])
        return latest if latest > self.replicas else min(largest, self.replicas)

    def record_change(self, replicas: int, now: float) -> None:
        """Record that another number of workers was asked for."""
        self.replicas, self.changed_at = replicas, now

    @property
    def step(self) -> int:
        """Least number of workers by which it grows or shrinks, where there are as many."""
        return max(1, math.ceil(self.max_replicas * STEP_SHARE))

    def _rounded(self, workers: int) -> int:
        return min(self.max_replicas, math.ceil(workers / self.step) * self.step)


def memory_limits(groups: Sequence[WorkerGroup], others: Collection[Kind]) -> dict[Kind, int] | None:
    """Return the memory of the largest worker that tasks of each kind may get.

    Parameters
    ----------
    groups : sequence of WorkerGroup
        The groups.
    others : collection of {"gpu", "cpu"}
        Kinds of workers that connect beside those of the groups.

    Returns
    -------
    dict of {"gpu", "cpu"} to int, or None
        Bytes by kind of task; None where workers of unknown memory may connect.
    """
    if others or not groups:
        return None
    limits: dict[Kind, int] = {}
    for kind in KINDS:
        memories = [group.memory_bytes for group in groups_for(kind, groups, ())]
        if None in memories:
            return None
        limits[kind] = max(memory for memory in memories if memory is not None)
    return limits


def groups_for(kind: Kind, groups: Sequence[WorkerGroup], others: Collection[Kind]) -> list[WorkerGroup]:
    """Return the groups whose workers take tasks of a kind, in the order in which they are filled.

    Parameters
    ----------
    kind : {"gpu", "cpu"}
        What the tasks need.
    groups : sequence of WorkerGroup
        All groups.
    others : collection of {"gpu", "cpu"}
        Kinds of workers that are connected, or expected, beside those of the groups.
    """
    own = [group for group in groups if group.kind == kind]
    return own if own or kind in others else list(groups)


def wanted_workers(
    demand: Mapping[Demand, int],
    groups: Sequence[WorkerGroup],
    *,
    in_use: Mapping[str, float],
    connected: Mapping[str, int],
    others: Collection[Kind],
    now: float,
) -> dict[str, int]:
    """Divide waiting tasks among groups, and return how many workers each of them can use.

    Parameters
    ----------
    demand : mapping of (kind, int) to int
        Number of tasks that wait, by kind and memory in bytes.
    groups : sequence of WorkerGroup
        The groups; those of one kind in the order in which they are filled.
    in_use : mapping of str to float
        Number of workers by group that the assigned tasks occupy, half a worker for one task in two slots.
    connected : mapping of str to int
        Number of connected workers by group.
    others : collection of {"gpu", "cpu"}
        Kinds of workers that are connected, or expected, beside those of the groups.
    now : float
        The time in seconds, by our own clock.

    Returns
    -------
    dict of str to int
        Number of workers by group.
    """
    used = {group.name: in_use.get(group.name, 0.0) for group in groups}
    for (kind, memory_bytes), count in sorted(demand.items(), key=lambda item: -item[0][1]):
        remaining = count
        for group in groups_for(kind, groups, others):
            each = group.tasks_per_worker(memory_bytes)
            if not each or remaining <= 0:
                continue
            before = used[group.name]
            taken = min(remaining, math.floor((group.max_replicas - before) * each + 1e-9))
            if taken <= 0:
                continue
            used[group.name] = before + taken / each
            remaining -= taken
            if group.lacks_machines(now):  # asked for all the same, but the tasks do not wait for it
                there = max(before, float(connected.get(group.name, 0)))
                remaining += min(taken, math.ceil(max(0.0, used[group.name] - there) * each - 1e-9))
    return {group.name: min(group.max_replicas, math.ceil(used[group.name] - 1e-9)) for group in groups}
