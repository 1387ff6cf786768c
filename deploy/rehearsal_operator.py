"""An API server and a Dask operator for the rehearsal of scaling: groups, their scale, and workers as processes.

The server has what the driver's role allows: its DaskWorkerGroups, their scale, and the names of Deployments; all else
is refused with 403. The operator acts on a changed number of replicas as dask-kubernetes does. Which workers go it
learns by dask-kubernetes' own function, over HTTP from the scheduler.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import yaml
from dask_kubernetes.operator.controller import controller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_GROUPS = "/apis/kubernetes.dask.org/v1/namespaces/{}/daskworkergroups"
_DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
# The operator asks every five seconds whether its cluster is idle.
ASK_SECONDS = 5.0


@dataclass
class Group:
    """A DaskWorkerGroup: its manifest, and the names of its workers."""

    manifest: dict[str, Any]
    workers: list[str] = field(default_factory=list)
    changed: bool = False

    @property
    def replicas(self) -> int:
        return int(self.manifest["spec"]["worker"]["replicas"])


class Operator:
    """The API server and the operator.

    Parameters
    ----------
    manifests : list of dict
        The DaskWorkerGroups.
    start, stop : callable
        Start the worker of a group under a name; stop the worker of a name.
    dashboard : str
        URL of the scheduler's HTTP server.
    """

    def __init__(
        self,
        manifests: list[dict[str, Any]],
        start: Callable[[str, str], None],
        stop: Callable[[str], None],
        dashboard: str,
    ) -> None:
        self.groups = {one["metadata"]["name"]: Group(one, changed=True) for one in manifests}
        self.namespace = manifests[0]["metadata"].get("namespace", "membrain")
        self.changes: list[tuple[str, int]] = []
        self.removed: list[str] = []
        self.refused: list[str] = []
        self._start, self._stop, self._dashboard = start, stop, dashboard
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._server: ThreadingHTTPServer | None = None

    def serve(self, host: str, folder: Path) -> str:
        """Serve the API at a free port of `host`; return the path of a kubeconfig for the driver."""
        self._server = ThreadingHTTPServer((host, 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "u", "namespace": self.namespace}}],
            "clusters": [{"name": "here", "cluster": {"server": f"http://{host}:{self._server.server_address[1]}"}}],
            "users": [{"name": "u", "user": {}}],
        }
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return str(file)

    def set_replicas(self, name: str, replicas: int) -> None:
        """Take a number of replicas from the API."""
        with self._lock:
            group = self.groups[name]
            if replicas != group.replicas:
                group.manifest["spec"]["worker"]["replicas"] = replicas
                group.changed = True
                self.changes.append((name, replicas))

    def act(self) -> None:
        """Create or remove workers of groups that have changed, and ask the scheduler since when it is idle."""
        if time.monotonic() - self._asked_at >= ASK_SECONDS:
            self._asked_at = time.monotonic()
            try:
                self._ask(controller.check_scheduler_idle("scheduler", self.namespace, logging.getLogger("operator")))
            except Exception as error:  # the scheduler is starting, or was killed
                logging.getLogger("operator").debug("not asked: %s", error)
        for name, group in self.groups.items():
            with self._lock:
                changed, group.changed = group.changed, False
                needed = group.replicas - len(group.workers)
            if changed and needed > 0:
                for _ in range(needed):
                    worker = f"{name}-worker-{uuid.uuid4().hex[:10]}"
                    group.workers.append(worker)
                    self._start(name, worker)
            elif changed and needed < 0:
                self._remove(name, group, -needed)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _remove(self, name: str, group: Group, count: int) -> None:
        try:
            logger = logging.getLogger("operator")
            names = self._ask(controller.retire_workers(count, "scheduler", name, self.namespace, logger))
        except Exception:
            names = group.workers[-count:]  # what the operator does where it cannot ask
        for worker in names:
            for other in self.groups.values():
                if worker in other.workers:
                    other.workers.remove(worker)
            self.removed.append(worker)
            self._stop(worker)

    def _ask(self, question: Any) -> Any:
        async def address(*_: Any, **__: Any) -> str:
            return self._dashboard

        controller.get_scheduler_address = address
        return asyncio.run(question)


def _handler(operator: Operator) -> type[BaseHTTPRequestHandler]:
    groups, deployments = _GROUPS.format(operator.namespace), _DEPLOYMENTS.format(operator.namespace)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            path = path.rstrip("/")
            if path == "/version":
                self.reply({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
            elif path == groups:
                items = [one.manifest for name, one in operator.groups.items() if f"metadata.name%3D{name}" in query]
                self.reply({"kind": "DaskWorkerGroupList", "items": items})
            elif path == deployments:
                names = [
                    worker
                    for name, one in operator.groups.items()
                    if query.replace("%2F", "/").replace("%3D", "=").find(f"workergroup-name={name}") >= 0
                    for worker in one.workers
                ]
                items = [{"metadata": {"name": worker, "namespace": operator.namespace}} for worker in names]
                self.reply({"kind": "PartialObjectMetadataList", "metadata": {}, "items": items})
            else:
                self.refuse()

        def do_PATCH(self) -> None:
            path = self.path.partition("?")[0]
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = path.removeprefix(f"{groups}/").removesuffix("/scale")
            if path != f"{groups}/{name}/scale" or name not in operator.groups:
                self.refuse()
                return
            operator.set_replicas(name, body["spec"]["replicas"])
            self.reply({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, **body})

        def refuse(self) -> None:
            operator.refused.append(f"{self.command} {self.path}")
            self.reply({"kind": "Status", "message": f"forbidden: {self.path}", "code": 403}, 403)

        def reply(self, content: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
