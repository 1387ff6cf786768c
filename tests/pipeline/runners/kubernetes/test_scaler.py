"""Worker groups follow the work: decisions, and requests to a small stand-in of a Kubernetes API server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from membrain_cloud.pipeline.runners.kubernetes_scaling import PATCH_SECONDS, SHRINK_SECONDS, Scaler, WorkerGroup

from membrain_cloud.errors import TransientError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = "/apis/kubernetes.dask.org/v1/namespaces/cryo/daskworkergroups"


class ApiServer:
    """An API server with the DaskWorkerGroups of one namespace; it can forbid patches."""

    def __init__(self) -> None:
        self.replicas = {"membrain-gpu": 0, "membrain-cpu": 3}
        self.requests: list[str] = []
        self.forbids = False
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
                else:
                    self.reply({"kind": "Status", "message": "not found"}, 404)

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = self.path.partition("?")[0].rpartition("/")[2]
                api.requests.append(f"PATCH {name} {json.dumps(body)}")
                if api.forbids:
                    self.reply({"kind": "Status", "message": "forbidden", "code": 403}, 403)
                    return
                api.replicas[name] = body["spec"]["worker"]["replicas"]
                self.reply(api.group(name))

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
            "spec": {"cluster": "membrain", "worker": {"replicas": self.replicas[name]}},
        }


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
    return server


def test_replicas_follow_the_work_and_end_at_none(api: ApiServer) -> None:
    scaler = Scaler([WorkerGroup.parse("gpu=membrain-gpu:8"), WorkerGroup.parse("cpu=membrain-cpu:4")])
    assert scaler.kinds == ("gpu", "cpu")
    scaler.start()
    assert api.replicas == {"membrain-gpu": 1, "membrain-cpu": 3}
    slots = {"gpu": 2, "cpu": 1}
    scaler.follow({"gpu": 100, "cpu": 2}, slots, 100.0)
    assert api.replicas == {"membrain-gpu": 8, "membrain-cpu": 2}
    scaler.follow({"gpu": 3, "cpu": 4}, slots, 100.0 + PATCH_SECONDS)
    assert api.replicas == {"membrain-gpu": 8, "membrain-cpu": 4}, (
        "the group grows at once and shrinks when less work lasts"
    )
    scaler.follow({"gpu": 3, "cpu": 4}, slots, 100.0 + PATCH_SECONDS + SHRINK_SECONDS)
    assert api.replicas == {"membrain-gpu": 2, "membrain-cpu": 4}
    scaler.end()
    assert api.replicas == {"membrain-gpu": 0, "membrain-cpu": 0}
    assert scaler.complaint == ""
    patches = [json.loads(line.split(" ", 2)[2]) for line in api.requests if line.startswith("PATCH")]
    assert all(list(patch) == ["spec"] and list(patch["spec"]["worker"]) == ["replicas"] for patch in patches)
    assert {line for line in api.requests if line.startswith("GET")} <= {"GET /version", f"GET {GROUPS}"} | {
        f"GET {GROUPS}/{name}" for name in api.replicas
    }, "requests that the driver's role does not allow"


def test_a_refused_patch_is_reported_and_ends_no_run(api: ApiServer) -> None:
    scaler = Scaler([WorkerGroup.parse("gpu=membrain-gpu:8")])
    api.forbids = True
    scaler.follow({"gpu": 5, "cpu": 0}, {"gpu": 1, "cpu": 1}, 100.0)
    assert "membrain-gpu to 5" in scaler.complaint
    with pytest.raises(TransientError, match="membrain-gpu"):
        scaler.start()
    api.forbids = False
    scaler.follow({"gpu": 5, "cpu": 0}, {"gpu": 1, "cpu": 1}, 100.0 + PATCH_SECONDS)
    assert (api.replicas["membrain-gpu"], scaler.complaint) == (5, "")


def test_an_unknown_group_is_refused(api: ApiServer) -> None:
    with pytest.raises(UsageError, match="no DaskWorkerGroup unknown in namespace cryo"):
        Scaler([WorkerGroup.parse("gpu=unknown:8")])


@pytest.mark.parametrize("text", ["gpu", "gpu=x", "tpu=x:3", "gpu=x:0", "gpu=X_y:3", "gpu=../x:3"])
def test_bad_groups_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="KIND=WORKERGROUP:MAX"):
        WorkerGroup.parse(text)
