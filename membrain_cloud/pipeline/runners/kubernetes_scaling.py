"""Scaling of worker groups on Kubernetes: as many replicas as the tasks can use, and none at the end.

Only `spec.worker.replicas` of the named DaskWorkerGroups is patched; the Dask operator does the rest. It closes workers
in order, idle ones first. Tasks that a closing worker returns are retried without a crash being recorded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import TransientError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.tasks import Kind

# Least time between two patches of a group.
PATCH_SECONDS = 10.0
# Time that fewer replicas must have been enough before the group shrinks.
SHRINK_SECONDS = 120.0
_SCALE = re.compile(r"(gpu|cpu)=([a-z0-9]([-a-z0-9.]*[a-z0-9])?):([1-9]\d*)")


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
    replicas : int or None
        The number last patched; None before the first patch.
    patched_at : float
        Time of the last patch, by our own clock.
    enough_since : float or None
        Since when fewer replicas would do; None while they would not.
    """

    kind: Kind
    name: str
    max_replicas: int
    replicas: int | None = None
    patched_at: float = -PATCH_SECONDS
    enough_since: float | None = None

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
            The group, not yet patched.

        Raises
        ------
        UsageError
            If the text has another form.
        """
        match = _SCALE.fullmatch(text)
        if match is None:
            cause = f"worker group {text}: not of the form KIND=WORKERGROUP:MAX"
            raise UsageError(cause, "write it like gpu=membrain-gpu:64")
        kind: Kind = "gpu" if match[1] == "gpu" else "cpu"
        return cls(kind, match[2], int(match[4]))

    def wanted_replicas(self, tasks: int, slots: int, now: float) -> int | None:
        """Return the number of replicas to patch to, or None to leave the group as it is.

        Parameters
        ----------
        tasks : int
            Number of the group's tasks that are ready or in flight.
        slots : int
            Number of tasks that one worker executes at the same time.
        now : float
            The time in seconds, by our own clock. A group grows at once and shrinks after `SHRINK_SECONDS`.
        """
        wanted = min(self.max_replicas, math.ceil(tasks / max(1, slots)))
        if wanted == self.replicas:
            self.enough_since = None
            return None
        if self.replicas is not None and wanted < self.replicas:
            self.enough_since = now if self.enough_since is None else self.enough_since
            if now - self.enough_since < SHRINK_SECONDS:
                return None
        return wanted if now - self.patched_at >= PATCH_SECONDS else None

    def record_patch(self, replicas: int, now: float) -> None:
        """Record a patch that succeeded."""
        self.replicas, self.patched_at, self.enough_since = replicas, now, None


class Scaler:
    """Scales the worker groups of a run. A patch that fails does not end the run; see `complaint`.

    Parameters
    ----------
    groups : sequence of WorkerGroup
        The groups, at most one of each kind.
    namespace : str, optional
        Their Kubernetes namespace. Default: that of the service account or the kubeconfig.

    Attributes
    ----------
    complaint : str
        Why the last patch failed; empty if it succeeded.

    Raises
    ------
    UsageError
        If kr8s is not installed, two groups are of one kind, or a group does not exist.
    TransientError
        If the Kubernetes API does not answer.
    """

    def __init__(self, groups: Sequence[WorkerGroup], namespace: str | None = None) -> None:
        try:
            import kr8s
        except ImportError:
            cause = "scaling worker groups needs the package kr8s"
            raise UsageError(cause, "pip install 'membrain_cloud[kubernetes]'") from None
        self.groups, self.complaint = tuple(groups), ""
        if len({group.kind for group in groups}) < len(groups):
            raise UsageError("two worker groups of one kind are to be scaled", "give each kind one worker group")
        try:
            self._api = kr8s.api(namespace=namespace)
            self._class = kr8s.objects.new_class("DaskWorkerGroup", version="kubernetes.dask.org/v1", asyncio=False)
            self._objects = {group.name: self._find(group.name) for group in groups}
        except UsageError:
            raise
        except Exception as error:  # of kr8s, httpx, ssl, the kubeconfig's own
            cause = f"the Kubernetes API does not answer ({type(error).__name__}: {error})"
            raise TransientError(cause, "check the kubeconfig or the service account") from None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of workers that are scaled."""
        return tuple(group.kind for group in self.groups)

    def start(self) -> None:
        """Start one worker of each group that has none, from which their memory is learned.

        Raises
        ------
        TransientError
            If a patch fails.
        """
        for group in self.groups:
            if not self._objects[group.name].spec.worker.replicas:
                self._patch(group, 1, 0.0)
            if self.complaint:
                raise TransientError(self.complaint, "check that the service account may patch DaskWorkerGroups")

    def follow(self, tasks: Mapping[Kind, int], slots: Mapping[Kind, int], now: float) -> None:
        """Patch the groups whose number of replicas does not fit the work.

        Parameters
        ----------
        tasks : mapping of {"gpu", "cpu"} to int
            Number of tasks that are ready or in flight.
        slots : mapping of {"gpu", "cpu"} to int
            Number of tasks that one worker executes at the same time.
        now : float
            The time in seconds, by our own clock.
        """
        for group in self.groups:
            wanted = group.wanted_replicas(tasks[group.kind], slots[group.kind], now)
            if wanted is not None:
                self._patch(group, wanted, now)

    def end(self) -> None:
        """Patch all groups to no replicas."""
        for group in self.groups:
            self._patch(group, 0, 0.0)

    def _find(self, name: str) -> Any:
        import kr8s

        try:
            return self._class.get(name, api=self._api)
        except kr8s.NotFoundError:
            cause = f"there is no DaskWorkerGroup {name} in namespace {self._api.namespace}"
            raise UsageError(cause, "see `kubectl get daskworkergroups`, or choose another namespace") from None

    def _patch(self, group: WorkerGroup, replicas: int, now: float) -> None:
        try:
            self._objects[group.name].patch({"spec": {"worker": {"replicas": replicas}}})
        except Exception as error:  # of kr8s, httpx, ssl: the run goes on with the workers that there are
            group.patched_at, self.complaint = now, f"scaling {group.name} to {replicas}: {error}"
            return
        group.record_patch(replicas, now)
        self.complaint = ""
