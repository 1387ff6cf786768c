"""Worker groups on Kubernetes that follow the work: as many replicas as tasks can use, none at the end.

Only `spec.worker.replicas` of the DaskWorkerGroups that were named is patched; the Dask operator does the rest. It
closes workers in order, idle ones first, and what a closing worker gives back is nobody's fault (run/roster.py).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import TransientError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.tasks import Kind

# Between two patches of a group; and how long fewer must be enough before there are fewer.
PATCH_SECONDS = 10.0
SHRINK_SECONDS = 120.0
_SCALE = re.compile(r"(gpu|cpu)=([a-z0-9]([-a-z0-9.]*[a-z0-9])?):([1-9]\d*)")


@dataclass
class WorkerGroup:
    """A DaskWorkerGroup of one kind of workers, and how many there may be."""

    kind: Kind
    name: str
    most: int
    replicas: int | None = None
    patched: float = -PATCH_SECONDS
    enough_since: float | None = field(default=None)

    @classmethod
    def parse(cls, text: str) -> WorkerGroup:
        """`gpu=membrain-gpu:64`. Raises UsageError."""
        match = _SCALE.fullmatch(text)
        if match is None:
            raise UsageError(f"--scale {text}: not of the form KIND=WORKERGROUP:MAX", "try --scale gpu=membrain-gpu:64")
        kind: Kind = "gpu" if match[1] == "gpu" else "cpu"
        return cls(kind, match[2], int(match[4]))

    def wants(self, tasks: int, slots: int, now: float) -> int | None:
        """Replicas to patch to, for so many tasks ready or in flight; None to leave it as it is."""
        wanted = min(self.most, math.ceil(tasks / max(1, slots)))
        if wanted == self.replicas:
            self.enough_since = None
            return None
        if self.replicas is not None and wanted < self.replicas:
            self.enough_since = now if self.enough_since is None else self.enough_since
            if now - self.enough_since < SHRINK_SECONDS:
                return None
        return wanted if now - self.patched >= PATCH_SECONDS else None


class Scaler:
    """Patches the groups of a run. Its faults are kept in `complaint`, and never end a run that goes on anyway.

    namespace : None takes the service account's, or the kubeconfig's.
    """

    def __init__(self, groups: Sequence[WorkerGroup], namespace: str | None = None) -> None:
        try:
            import kr8s
        except ImportError:
            cause = "--scale needs the package kr8s"
            raise UsageError(cause, "pip install 'membrain_cloud[kubernetes]'") from None
        self.groups, self.complaint = tuple(groups), ""
        if len({group.kind for group in groups}) < len(groups):
            raise UsageError("--scale names a kind of worker twice", "give each kind one worker group")
        try:
            self._api = kr8s.api(namespace=namespace)
            self._class = kr8s.objects.new_class("DaskWorkerGroup", version="kubernetes.dask.org/v1", asyncio=False)
            self._objects = {group.name: self._find(group.name) for group in groups}
        except UsageError:
            raise
        except Exception as error:  # of kr8s, httpx, ssl, the kubeconfig's own
            cause = f"--scale: the Kubernetes API does not answer ({type(error).__name__}: {error})"
            raise TransientError(cause, "check the kubeconfig or the service account") from None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(group.kind for group in self.groups)

    def start(self) -> None:
        """One worker of each kind, so that it is known how much memory they have. Raises TransientError."""
        for group in self.groups:
            if not self._objects[group.name].spec.worker.replicas:
                self._patch(group, 1, 0.0)
            if self.complaint:
                raise TransientError(self.complaint, "check that the service account may patch DaskWorkerGroups")

    def follow(self, tasks: Mapping[Kind, int], slots: Mapping[Kind, int], now: float) -> None:
        """Patch what has to be.

        tasks : ready or in flight, by kind.  slots : of one worker of a kind.
        """
        for group in self.groups:
            wanted = group.wants(tasks[group.kind], slots[group.kind], now)
            if wanted is not None:
                self._patch(group, wanted, now)

    def end(self) -> None:
        """No workers any more."""
        for group in self.groups:
            self._patch(group, 0, 0.0)

    def _find(self, name: str) -> Any:
        import kr8s

        try:
            return self._class.get(name, api=self._api)
        except kr8s.NotFoundError:
            where = f"namespace {self._api.namespace}"
            cause = f"--scale: there is no DaskWorkerGroup {name} in {where}"
            raise UsageError(cause, "see `kubectl get daskworkergroups`; or give --namespace") from None

    def _patch(self, group: WorkerGroup, replicas: int, now: float) -> None:
        try:
            self._objects[group.name].patch({"spec": {"worker": {"replicas": replicas}}})
        except Exception as error:
            group.patched, self.complaint = now, f"scaling {group.name} to {replicas}: {error}"
            return
        group.replicas, group.patched, group.enough_since, self.complaint = replicas, now, None, ""
