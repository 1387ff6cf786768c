"""Requests about worker groups, to a small stand-in of a Kubernetes API server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.runners.kubernetes.api import GroupApi
from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOYMENTS = "/apis/apps/v1/namespaces/cryo/deployments"
GROUPS = "/apis/kubernetes.dask.org/v1/namespaces/cryo/daskworkergroups"


class ApiServer:
    """An API server with the DaskWorkerGroups of one namespace; it can forbid patches."""

    def __init__(self) -> None:
        self.replicas = {"membrain-gpu": 0, "membrain-cpu": 3}
        self.requests: list[str] = []
        self.options: list[str] = []
        self.lists_names = True
        self.forbids = False
        self.workers = {"membrain-gpu": ["membrain-gpu-worker-b", "membrain-gpu-worker-a"], "membrain-cpu": []}
        api = self

        class Handler(BaseHTTPRequestHandler):
            # HTTP/1.0: no connection stays open, which kr8s would leave to the garbage collector.

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                path = path.rstrip("/")
                api.requests.append(f"GET {path}")
                items = [api.group(name) for name in api.replicas]
                if path == "/version":
                    self.reply({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
                elif path == GROUPS:
                    wanted = [item for item in items if f"metadata.name%3D{item['metadata']['name']}" in query]
                    self.reply({"kind": "DaskWorkerGroupList", "items": wanted if "fieldSelector" in query else items})
                elif path.startswith(f"{GROUPS}/") and path.rpartition("/")[2] in api.replicas:
                    self.reply(api.group(path.rpartition("/")[2]))
                elif path == DEPLOYMENTS:
                    self.reply(api.deployments(query, self.headers["Accept"]))
                else:
                    self.reply({"kind": "Status", "message": "not found"}, 404)

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = self.path.partition("?")[0].removeprefix(f"{GROUPS}/")
                api.requests.append(f"PATCH {name} {json.dumps(body)}")
                if api.forbids:
                    self.reply({"kind": "Status", "message": "forbidden", "code": 403}, 403)
                    return
                name, _, subresource = name.partition("/")
                assert subresource == "scale"
                api.replicas[name] = body["spec"]["replicas"]
                self.reply({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, **body})

            def reply(self, content: dict[str, Any], status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def group(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskWorkerGroup",
            "metadata": {"name": name, "namespace": "cryo", "uid": name},
            "spec": {"cluster": "membrain", "worker": {"replicas": self.replicas[name], "spec": self.pod(name)}},
        }

    def pod(self, name: str) -> dict[str, Any]:
        kind = name.rpartition("-")[2].upper()
        args = ["--name", "$(DASK_WORKER_NAME)", "--nthreads", "2", "--resources", f"{kind}=2", *self.options]
        return {
            "containers": [
                {"name": "proxy", "image": "x"},
                {
                    "name": "worker",
                    "command": ["dask", "worker"],
                    "args": args,
                    "resources": {"limits": {"memory": "12Gi"}},
                },
            ]
        }

    def deployments(self, query: str, accept: str) -> dict[str, Any]:
        """Return the names of a group's Deployments as they are asked for, in full or without their specs."""
        (name,) = [name for name in self.workers if f"dask.org%2Fworkergroup-name%3D{name}" in query]
        items = [{"metadata": {"name": worker, "namespace": "cryo"}} for worker in self.workers[name]]
        kind = "PartialObjectMetadataList" if "as=PartialObjectMetadataList" in accept and self.lists_names else ""
        return {"kind": kind or "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": items}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Start one server for all tests: kr8s keeps its first client."""
    pytest.importorskip("kr8s")
    server = ApiServer()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "cryo"}}],
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {}}],
    }
    file = tmp_path_factory.mktemp("kube") / "config"
    file.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(file))
        yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def api(server: ApiServer) -> ApiServer:
    server.replicas, server.requests, server.forbids = {"membrain-gpu": 0, "membrain-cpu": 3}, [], False
    server.options, server.lists_names = [], True
    return server


def read(name: str, kind: str = "gpu") -> tuple[GroupApi, WorkerGroup]:
    requests, group = GroupApi(), WorkerGroup.parse(f"{kind}={name}:8")
    requests.read(group)
    return requests, group


def test_a_groups_pods_tell_slots_and_memory(api: ApiServer) -> None:
    _, group = read("membrain-cpu", "cpu")
    assert (group.replicas, group.slots, group.memory_bytes) == (3, 2, 12 * 2**30)
    api.options = ["--memory-limit", "17179869184"]
    assert read("membrain-cpu", "cpu")[1].memory_bytes == 2**34
    with pytest.raises(UsageError, match="workers with the resources CPU=2"):
        read("membrain-cpu", "gpu")


def test_only_the_scale_is_patched(api: ApiServer) -> None:
    requests, group = read("membrain-gpu")
    requests.set_replicas(group, 5)
    requests.set_replicas(group, 6)
    assert api.replicas["membrain-gpu"] == 6
    patches = [line for line in api.requests if line.startswith("PATCH")]
    assert patches == [f'PATCH membrain-gpu/scale {{"spec": {{"replicas": {count}}}}}' for count in (5, 6)]
    assert {line for line in api.requests if line.startswith("GET")} <= {"GET /version", f"GET {GROUPS}"} | {
        f"GET {GROUPS}/{name}" for name in api.replicas
    }, "requests that the driver's role does not allow"


@pytest.mark.parametrize("lists_names", [True, False])
def test_workers_are_named(api: ApiServer, lists_names: bool) -> None:
    api.lists_names = lists_names
    requests, group = read("membrain-gpu")
    assert requests.worker_names(group) == ["membrain-gpu-worker-a", "membrain-gpu-worker-b"]
    _, other = read("membrain-cpu", "cpu")
    assert requests.worker_names(other) == []


def test_a_refusal_names_the_cause(api: ApiServer) -> None:
    requests, group = read("membrain-gpu")
    api.forbids = True
    with pytest.raises(Exception, match="forbidden"):
        requests.set_replicas(group, 5)


def test_an_unknown_group_is_refused(api: ApiServer) -> None:
    with pytest.raises(UsageError, match="no DaskWorkerGroup unknown in namespace cryo"):
        read("unknown")


def test_an_api_that_does_not_answer_is_named(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = GroupApi()
    monkeypatch.setattr(requests._group_class, "get", lambda *_, **__: 1 / 0)
    with pytest.raises(TransientError, match="the Kubernetes API does not answer"):
        requests.read(WorkerGroup.parse("gpu=membrain-gpu:8"))
