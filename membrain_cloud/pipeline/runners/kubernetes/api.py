"""Requests to the Kubernetes API: what the workers of a group have, how many there are, and how many there should be.

The driver's role needs no more than these: to read its own DaskWorkerGroups and their scale, to patch the scale, which
sets nothing but the number of replicas, and to read the names of Deployments.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from dask.utils import parse_bytes

from membrain_cloud.errors import TransientError, UsageError

if TYPE_CHECKING:
    from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup

_VERSION = "kubernetes.dask.org/v1"


class GroupApi:
    """Requests about the worker groups of one namespace.

    Parameters
    ----------
    namespace : str, optional
        The namespace. Default: that of the service account or the kubeconfig.

    Raises
    ------
    UsageError
        If kr8s is not installed.
    TransientError
        If the Kubernetes API does not answer.
    """

    def __init__(self, namespace: str | None = None) -> None:
        try:
            import kr8s
        except ImportError:
            cause = "scaling worker groups needs the package kr8s"
            raise UsageError(cause, "pip install 'membrain_cloud[kubernetes]'") from None
        try:
            self._api = kr8s.api(namespace=namespace)
            # Without specs and status: 6000 Deployments in full are some tens of MiB.
            self._names_class = kr8s.objects.new_class(
                "PartialObjectMetadataList", version="meta.k8s.io/v1", asyncio=False
            )
            self._deployment_class = kr8s.objects.Deployment
            self._group_class = kr8s.objects.new_class("DaskWorkerGroup", version=_VERSION, asyncio=False)
        except Exception as error:  # of kr8s, httpx, ssl, the kubeconfig's own
            raise _no_answer(error) from None
        self._objects: dict[str, Any] = {}

    def read(self, group: WorkerGroup) -> None:
        """Read the slots and the memory of a group's workers, and how many there are.

        Parameters
        ----------
        group : WorkerGroup
            The group, in which they are set.

        Raises
        ------
        UsageError
            If there is no such group, or it has workers of another kind.
        TransientError
            If the Kubernetes API does not answer or refuses.
        """
        import kr8s

        try:
            found = self._group_class.get(group.name, api=self._api)
        except kr8s.NotFoundError:
            cause = f"there is no DaskWorkerGroup {group.name} in namespace {self._api.namespace}"
            raise UsageError(cause, "see `kubectl get daskworkergroups`, or choose another namespace") from None
        except Exception as error:
            raise _no_answer(error) from None
        self._objects[group.name] = found
        worker = found.raw["spec"]["worker"]
        group.replicas = int(worker.get("replicas") or 0)
        _read_pod(group, worker.get("spec") or {})

    def set_replicas(self, group: WorkerGroup, replicas: int) -> None:
        """Set how many workers a group has, and nothing else.

        Parameters
        ----------
        group : WorkerGroup
            The group, which was read before.
        replicas : int
            Number of workers.

        Raises
        ------
        Exception
            Of kr8s, httpx or ssl.
        """
        found = self._objects[group.name]
        raw = found.raw
        try:
            found.patch({"spec": {"replicas": replicas}}, subresource="scale")
        finally:
            found.raw = raw  # kr8s takes the answer, a Scale, for the group

    def worker_names(self, group: WorkerGroup) -> list[str]:
        """Return the names of a group's workers, which are those of their Deployments, connected or not.

        Parameters
        ----------
        group : WorkerGroup
            The group.

        Raises
        ------
        Exception
            Of kr8s, httpx or ssl.
        """
        found = self._api.get(
            self._deployment_class,  # by its class: a name would be looked up in the server's list of all kinds
            namespace=self._api.namespace,
            label_selector=f"dask.org/workergroup-name={group.name}",
            as_object=self._names_class,
            raw=True,
        )
        names: set[str] = set()
        for answer in found:  # one list, or single objects of a server that knows no lists of names
            names |= {item["metadata"]["name"] for item in answer.get("items", [answer])}
        return sorted(names)


def _no_answer(error: Exception) -> TransientError:
    cause = f"the Kubernetes API does not answer ({type(error).__name__}: {error})"
    return TransientError(cause, "check the kubeconfig, or the service account and its role")


def _read_pod(group: WorkerGroup, pod: dict[str, Any]) -> None:
    """Set a group's slots and memory from its pod; what is not there stays unknown."""
    for container in pod.get("containers") or []:
        words = [str(word) for word in (*(container.get("command") or []), *(container.get("args") or []))]
        if words[:2] != ["dask", "worker"]:
            continue
        options = dict(itertools.pairwise(words))
        group.slots = int(options.get("--nthreads", 1))
        limit = options.get("--memory-limit") or (container.get("resources") or {}).get("limits", {}).get("memory")
        if limit not in (None, "auto", "0"):
            group.memory_bytes = parse_bytes(str(limit))
        resources = options.get("--resources", "").upper()
        if resources and not resources.startswith(group.kind.upper()):
            cause = f"DaskWorkerGroup {group.name} has workers with the resources {resources}"
            raise UsageError(cause, f"name its kind as it is, not {group.kind}")
