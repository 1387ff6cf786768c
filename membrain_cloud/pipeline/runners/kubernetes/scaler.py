"""The scaler of a run: it lets worker groups follow the work, and names the idle workers that go.

A group grows by a larger number of replicas. To shrink it, the scaler

1. lists its workers, chooses those that have nothing to do (missing ones first), and gives them no more tasks,
2. announces their names to the scheduler (`operator_endpoint`),
3. asks for so many replicas fewer, and waits until the operator has removed them.

One group shrinks at a time: the operator asks for a number of workers without naming the group. A worker that is not
removed in time gets tasks again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup, memory_limits, wanted_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from membrain_cloud.pipeline.execution.runner import Demand
    from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
    from membrain_cloud.pipeline.runners.worker_state import Worker
    from membrain_cloud.pipeline.tasks import Kind

_LOGGER = logging.getLogger("membrain_cloud.scaling")
# Least time between two looks at the groups.
FOLLOW_SECONDS = 5.0
# Time in which the operator has to remove the workers that were announced.
REMOVAL_SECONDS = 180.0
# Time in which the operator has to send its first request to the scheduler; it does so every five seconds.
CONTACT_SECONDS = 90.0
# Least time between two reads of a group that shrinks, or of one whose workers are not all made yet.
LOOK_SECONDS = 10.0
# A worker without a connection goes if it has been missing for this time: after a scheduler's loss all are missing.
MISSING_SECONDS = 60.0
# Time that the end of a run waits for the removal of the last workers.
END_SECONDS = 20.0


class Groups(Protocol):
    """Requests about worker groups; see `api.GroupApi`."""

    def read(self, group: WorkerGroup) -> None:
        """Read the slots, the memory and the number of a group's workers."""

    def set_replicas(self, group: WorkerGroup, replicas: int) -> None:
        """Set how many workers a group has."""

    def worker_names(self, group: WorkerGroup) -> list[str]:
        """Return the names of a group's workers, connected or not."""


class Scheduler(Protocol):
    """What the scaler asks of the connection to the scheduler; see `DaskConnection`."""

    def announce_leaving(self, names: Sequence[str], *, even_busy: bool = False) -> Sequence[str]:
        """Announce the workers that the operator may remove, and return those which it may."""

    def operator_contact(self) -> Mapping[str, bool]:
        """Return whether the scheduler serves the operator's endpoint, and whether the operator has used it."""


@dataclass
class _Removal:
    """Workers that the operator is asked to remove.

    Attributes
    ----------
    group : WorkerGroup
        Their group.
    names : set of str
        Their names.
    begun_at, looked_at : float
        When the operator was asked, and when the group was read last.
    """

    group: WorkerGroup
    names: set[str]
    begun_at: float
    looked_at: float


class Scaler:
    """Scales the worker groups of a run. A request that fails does not end the run; see `complaint`.

    Parameters
    ----------
    groups : sequence of WorkerGroup
        The groups; those of one kind are filled in this order.
    api : Groups
        Requests to the Kubernetes API.

    Attributes
    ----------
    groups : tuple of WorkerGroup
        The groups.
    complaint : str
        Why the last request failed; empty if it succeeded.

    Raises
    ------
    UsageError
        If a group is given twice, or does not exist.
    TransientError
        If the Kubernetes API does not answer.
    """

    def __init__(self, groups: Sequence[WorkerGroup], api: Groups) -> None:
        self.groups, self.complaint = tuple(groups), ""
        names = Counter(group.name for group in groups)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise UsageError(f"worker group {twice[0]} is given twice", "give each worker group once")
        self._api = api
        for group in self.groups:
            api.read(group)
        self._scheduler: Scheduler | None = None
        self._removal: _Removal | None = None
        self._followed_at: float | None = None
        self._looked_at: dict[str, float] = {}
        self._missing_since: dict[str, float] = {}
        self._connected: Counter[str] = Counter()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of workers that are scaled."""
        return tuple(dict.fromkeys(group.kind for group in self.groups))

    def memory_limits(self, others: Collection[Kind]) -> Mapping[Kind, int] | None:
        """Return the memory of the largest worker that tasks of each kind may get; None where it is not known.

        Parameters
        ----------
        others : collection of {"gpu", "cpu"}
            Kinds of workers that are expected beside those of the groups.
        """
        return memory_limits(self.groups, others)

    def start(
        self,
        scheduler: Scheduler,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check that the groups can be scaled: the role, the scheduler's endpoint, and the operator's requests to it.

        Parameters
        ----------
        scheduler : Scheduler
            The connection to the scheduler.
        sleep, clock : callable
            How to wait, and the time in seconds. Default: those of this machine.

        Raises
        ------
        UsageError
            If the scheduler does not serve the operator's endpoint.
        TransientError
            If a request is refused, or the operator does not ask the scheduler.
        """
        self._scheduler = scheduler
        for group in self.groups:
            self._set(group, group.replicas, clock())
            if self.complaint:
                cure = "check that the driver's role may patch daskworkergroups/scale"
                raise TransientError(self.complaint, cure)
        deadline = clock() + CONTACT_SECONDS
        while not (contact := scheduler.operator_contact())["asked"]:
            if not contact["served"]:
                raise UsageError(
                    "the scheduler does not serve the endpoint that names idle workers: scaling would stop busy ones",
                    "add membrain_cloud.pipeline.runners.kubernetes.operator_endpoint to "
                    "distributed.scheduler.http.routes of the scheduler",
                )
            if clock() > deadline:
                raise TransientError(
                    f"the Dask operator has not asked the scheduler at its port 8787 within {CONTACT_SECONDS:.0f} s: "
                    "it could remove no worker, and machines would run on",
                    "check that dask-kubernetes-operator 2025.1.0 or later runs and watches this namespace, that "
                    "networkPolicy.operatorNamespace is its namespace, and that spec.idleTimeout of the DaskCluster "
                    "is above 0",
                )
            sleep(2.0)
        scheduler.announce_leaving([])  # what a driver before this one has announced

    def follow(self, demand: Mapping[Demand, int], workers: WorkerRegistry, now: float) -> None:
        """Ask for more workers or fewer where the number does not fit the work, at most every `FOLLOW_SECONDS`.

        Parameters
        ----------
        demand : mapping of (kind, int) to int
            Number of tasks that wait, by kind and memory in bytes.
        workers : WorkerRegistry
            The connected workers and their assignments.
        now : float
            The time in seconds, by our own clock.
        """
        if self._followed_at is not None and now - self._followed_at < FOLLOW_SECONDS:
            return
        self._followed_at = now
        by_group, others = self._by_group(workers)
        self._connected = Counter({name: len(members) for name, members in by_group.items()})
        in_use = {name: sum(map(_occupied, members)) for name, members in by_group.items()}
        for group in self.groups:
            group.note_connected(self._connected[group.name], now)
        wanted = wanted_workers(demand, self.groups, in_use=in_use, connected=self._connected, others=others, now=now)
        if self._removal is not None:
            self._check_removal(self._removal, workers, now)
        for group in self.groups:
            group.note_wanted(wanted[group.name], now)
            if self._removal is not None and self._removal.group is group:
                continue
            size = group.next_size(now)
            if size > group.replicas:
                self._set(group, size, now)
            elif size < group.replicas and self._removal is None:
                self._shrink(group, size, by_group.get(group.name, []), workers, now)

    def describe(self, kind: Kind) -> str:
        """Return how many workers the groups for tasks of a kind have, for messages.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the tasks need.
        """
        groups = [group for group in self.groups if group.kind == kind] or list(self.groups)
        return "; ".join(
            f"worker group {group.name}: {group.replicas} asked for, {self._connected[group.name]} connected"
            for group in groups
        )

    def end(self) -> None:
        """Ask for no workers at all, one group after the other, and wait a little for the removal of each.

        Names of two groups announced together would be removed for whichever group the operator asks for first.
        """
        for group in self.groups:
            try:
                left = set(self._api.worker_names(group))
                if self._scheduler is not None:
                    self._scheduler.announce_leaving(sorted(left), even_busy=True)
                self._set(group, 0, 0.0)
                deadline = time.monotonic() + END_SECONDS
                while left and not self.complaint and time.monotonic() < deadline:
                    time.sleep(0.5)
                    left = set(self._api.worker_names(group))
            except Exception as error:  # a lost scheduler or API server
                self._set(group, 0, 0.0)
                self._complain(f"removing the workers of {group.name}: {error}")
        if self._scheduler is not None:
            with suppress(Exception):  # without names and without a driver the operator removes what is left
                self._scheduler.announce_leaving([])

    def _by_group(self, workers: WorkerRegistry) -> tuple[dict[str, list[Worker]], set[Kind]]:
        """Return the connected workers of each group, and the kinds of those beside them."""
        names = {group.name for group in self.groups}
        by_group: dict[str, list[Worker]] = {}
        others: set[Kind] = set(workers.expected) - set(self.kinds)
        for worker in workers.workers.values():
            group = worker.facts.name.rpartition("-worker-")[0]
            if group in names:
                by_group.setdefault(group, []).append(worker)
            else:
                others |= {"gpu", "cpu"} if worker.facts.kind is None else {worker.facts.kind}
        return by_group, others

    def _shrink(
        self, group: WorkerGroup, size: int, members: Sequence[Worker], workers: WorkerRegistry, now: float
    ) -> None:
        """Have idle and missing workers of a group removed, down to `size` at most."""
        if now - self._looked_at.get(group.name, now - LOOK_SECONDS) < LOOK_SECONDS or self._scheduler is None:
            return
        idle = {worker.facts.name: worker for worker in members if not worker.assignments and worker.is_open}
        least = min(group.step, group.replicas - size)
        if len(idle) + max(0, group.replicas - len(members)) < least:
            return  # too few have nothing to do
        self._looked_at[group.name] = now
        try:
            names = self._api.worker_names(group)
            if len(names) != group.replicas:
                return  # the operator is still at it
            missing = self._long_missing(set(names) - {worker.facts.name for worker in members}, now)
            leaving = [*missing, *(name for name in names if name in idle)][: group.replicas - size]
            if len(leaving) < least:
                return
            leaving = list(self._scheduler.announce_leaving(leaving))  # without those that other drivers use
            if not leaving:
                return
        except Exception as error:  # of kr8s, httpx, ssl, Dask: the run goes on with the workers that there are
            self._complain(f"removing workers of {group.name}: {error}")
            return
        for name in leaving:
            if name in idle:
                workers.mark_leaving(idle[name].facts.address)
        self._removal = _Removal(group, set(leaving), now, now)
        self._set(group, group.replicas - len(leaving), now)

    def _long_missing(self, missing: set[str], now: float) -> list[str]:
        """Return the names of workers that have been without a connection for `MISSING_SECONDS`."""
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        return sorted(name for name, since in self._missing_since.items() if now - since >= MISSING_SECONDS)

    def _check_removal(self, removal: _Removal, workers: WorkerRegistry, now: float) -> None:
        """End a removal once its workers are gone, or give it up when its time is over."""
        if now - removal.looked_at < LOOK_SECONDS:
            return
        removal.looked_at = now
        try:
            left = removal.names & set(self._api.worker_names(removal.group))
            if left and now - removal.begun_at < REMOVAL_SECONDS:
                return
            if self._scheduler is not None:
                self._scheduler.announce_leaving([])
        except Exception as error:
            self._complain(f"removing workers of {removal.group.name}: {error}")
            if now - removal.begun_at < REMOVAL_SECONDS:
                return
            left = removal.names
        self._removal = None
        if left:
            for worker in list(workers.workers.values()):
                if worker.facts.name in left:
                    workers.mark_staying(worker.facts.address)
            self._set(removal.group, removal.group.replicas + len(left), now)
            self._complain(
                f"the Dask operator has not removed {len(left)} workers of {removal.group.name} in "
                f"{REMOVAL_SECONDS:.0f} s -> see its log, and check networkPolicy.operatorNamespace"
            )

    def _set(self, group: WorkerGroup, replicas: int, now: float) -> None:
        try:
            self._api.set_replicas(group, replicas)
        except Exception as error:  # of kr8s, httpx, ssl: the run goes on with the workers that there are
            group.changed_at = now
            self._complain(f"scaling {group.name} to {replicas}: {error}")
            return
        if replicas != group.replicas:
            group.record_change(replicas, now)
        self.complaint = ""

    def _complain(self, text: str) -> None:
        if text != self.complaint:
            _LOGGER.warning(text)
        self.complaint = text


def _occupied(worker: Worker) -> float:
    """Return the share of a worker that its assignments occupy, at most 1."""
    if any(assignment.alone for assignment in worker.assignments.values()) or worker.reserved_for is not None:
        return 1.0
    return min(1.0, worker.load)
