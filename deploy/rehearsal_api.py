"""The Dask operator's own controller against a real API server: what it makes of this chart. No node, no container.

python deploy/rehearsal_api.py

Needs `etcd`, `kube-apiserver` and `kubectl` on the PATH, and dask-kubernetes. The API server gets the operator's CRDs
and the objects of deploy/k8s/base that it has kinds for; then
- every object must be taken as it is, and nothing dropped from it,
- the operator must make the scheduler's Deployment and Service,
- the driver's service account, nobody else of the chart, may set the replicas of the worker groups, and nothing more,
- when it does, the operator must make as many Deployments of workers, with our scheduler's address.
Exit code 0, 1 with what failed, or 3 where a program is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml
from rehearsal_parts import free_port

ROOT = Path(__file__).parents[1]
# What servers older than 1.N drop.
NEWER = {"spec.podFailurePolicy": 26, "spec.ttlSecondsAfterFinished": 21}
NAMESPACE, RUN = "membrain", "membrain-cloud-r1"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:membrain-cloud-"


class Server:
    """etcd and kube-apiserver on loopback, an administrator's kubeconfig, and the operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> None:
        etcd, peer = free_port(), free_port()
        client = f"http://127.0.0.1:{etcd}"
        urls = ["--listen-client-urls", client, "--advertise-client-urls", client]
        self._run(
            "etcd",
            ["etcd", "--data-dir", str(self.folder / "etcd"), *urls, "--listen-peer-urls", f"http://127.0.0.1:{peer}"],
        )
        subprocess.run(
            ["openssl", "genrsa", "-out", "sa.key", "2048"], cwd=self.folder, check=True, capture_output=True
        )
        tokens = ["administrator,admin,1,system:masters", f"driver,{ACCOUNT}driver,2,system:serviceaccounts"]
        (self.folder / "tokens.csv").write_text("\n".join(tokens) + "\n")
        key = str(self.folder / "sa.key")
        options = {
            "--etcd-servers": client,
            "--secure-port": str(self.port),
            "--bind-address": "127.0.0.1",
            "--cert-dir": str(self.folder / "certs"),
            "--service-account-key-file": key,
            "--service-account-signing-key-file": key,
            "--service-account-issuer": "https://kubernetes.default.svc",
            "--token-auth-file": str(self.folder / "tokens.csv"),
            "--authorization-mode": "RBAC",
            "--service-cluster-ip-range": "10.96.0.0/24",
        }
        self._run("kube-apiserver", ["kube-apiserver", *(f"{name}={value}" for name, value in options.items())])
        cluster = {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}
        for token, path in (("administrator", self.kubeconfig), ("driver", self.folder / "kubeconfig-driver")):
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": cluster}],
                "users": [{"name": token, "user": {"token": token}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": token, "namespace": NAMESPACE}}],
                "current-context": "here",
            }
            path.write_text(yaml.safe_dump(config))
        if not wait(lambda: self.kubectl("get", "--raw", "/readyz").returncode == 0, 90):
            raise SystemExit("the API server does not come up")

    def start_operator(self) -> None:
        command = [sys.executable, "-m", "kopf", "run", "-m", "dask_kubernetes.operator.controller", "--all-namespaces"]
        self._run("operator", command, {"KUBECONFIG": str(self.kubeconfig)})

    def _run(self, name: str, command: list[str], more: dict[str, str] | None = None) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(more or {})}))

    def kubectl(self, *arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        text = None if given is None else json.dumps(given)
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def get(self, *what: str) -> dict[str, Any]:
        done = self.kubectl("get", *what, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def minor(self) -> int:
        """N of the server's version 1.N; 0 where it does not say."""
        told = json.loads(self.kubectl("get", "--raw", "/version").stdout or "{}").get("minor", "")
        return int("".join(letter for letter in told if letter.isdigit()) or 0)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def wait(until: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def rehearse(server: Server) -> Iterator[tuple[str, bool]]:
    for file in distribution("dask-kubernetes").files or ():
        if file.parent.name == "crds" and file.suffix == ".yaml":
            server.kubectl("create", "-f", str(file.locate()))
    crds = wait(lambda: server.kubectl("get", "daskclusters,daskworkergroups").returncode == 0, 60)
    yield "the operator's CRDs are taken", crds
    server.kubectl("create", "namespace", NAMESPACE)
    server.start_operator()
    kinds = {line.split()[-1] for line in server.kubectl("api-resources", "--no-headers").stdout.splitlines() if line}
    left_out = set()
    for path in sorted((ROOT / "deploy" / "k8s" / "base").glob("*-*.yaml")):
        given = yaml.safe_load(path.read_text())
        served = server.kubectl("explain", given["kind"].lower(), "--api-version", given["apiVersion"]).returncode == 0
        if given["kind"] not in kinds or not (served or "dask" in given["apiVersion"]):
            left_out.add(f"{given['kind']} {given['apiVersion']}")
            continue
        done = server.kubectl("create", "--validate=false", "-f", "-", "-o", "json", given=given)
        kept = json.loads(done.stdout) if done.returncode == 0 else {}
        lost = list(_lost(given.get("spec"), kept.get("spec")))
        for path, minor in NEWER.items():
            if path in lost and server.minor() < minor:
                lost.remove(path)
                print(f"this server drops {path} of a {given['kind']}: it is older than 1.{minor}")
        yield (
            f"{given['kind']}/{given['metadata']['name']} {done.stderr.strip()} {lost or ''}".rstrip(),
            not (done.returncode or lost),
        )
    print(f"not of this server's kinds: {', '.join(sorted(left_out)) or 'none'}")
    scheduler = f"{RUN}-scheduler"
    made = wait(lambda: bool(server.get("deployment", scheduler) and server.get("service", scheduler)), 60)
    yield "the operator makes the scheduler's Deployment and Service", made
    yield from _rights(server)
    yield from _scaling(server)


def _rights(server: Server) -> Iterator[tuple[str, bool]]:
    def may(account: str, verb: str, what: str) -> bool:
        return server.kubectl("auth", "can-i", verb, what, "--as", ACCOUNT + account).stdout.strip() == "yes"

    group = f"daskworkergroups.kubernetes.dask.org/{RUN}-gpu"
    yield "the driver may patch its groups", may("driver", "patch", group)
    yield "workers may not", not may("workers", "patch", group)
    for verb, what in (
        ("patch", "daskworkergroups.kubernetes.dask.org/another"),
        ("list", "daskworkergroups.kubernetes.dask.org"),
        ("delete", group),
        ("get", "secrets"),
        ("create", "pods"),
        ("patch", f"daskclusters.kubernetes.dask.org/{RUN}"),
    ):
        yield f"the driver may not {verb} {what}", not may("driver", verb, what)


def _scaling(server: Server) -> Iterator[tuple[str, bool]]:
    # The driver's own code, with nothing but its service account's rights.
    code = (
        "from membrain_cloud.pipeline.scaling import Scaler, WorkerGroup\n"
        f"scaler = Scaler([WorkerGroup.parse('gpu={RUN}-gpu:3')], {NAMESPACE!r})\n"
        "scaler.start()\n"
        "scaler.follow({'gpu': 10, 'cpu': 0}, {'gpu': 2, 'cpu': 1}, 1e9)\n"
        "assert not scaler.complaint, scaler.complaint\n"
    )
    environment = {**os.environ, "KUBECONFIG": str(server.folder / "kubeconfig-driver"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    yield f"the driver's scaler asks for three GPU workers {done.stderr[-500:]}".rstrip(), done.returncode == 0

    def workers() -> list[dict[str, Any]]:
        return list(server.get("deployments", "-l", f"dask.org/workergroup-name={RUN}-gpu").get("items", []))

    yield "the operator makes three Deployments of workers", wait(lambda: len(workers()) == 3, 60)
    for worker in workers()[:1]:
        container = worker["spec"]["template"]["spec"]["containers"][0]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        address = environment.get("DASK_SCHEDULER_ADDRESS")
        yield f"they go to {address}", address == f"tls://{RUN}-scheduler.{NAMESPACE}.svc:8786"
        yield "one GPU each", container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def _lost(given: Any, kept: Any, path: str = "spec") -> Iterator[str]:
    """Paths of what was given and is not kept."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                if value not in ({}, [], None):
                    yield f"{path}.{key}"
            else:
                yield from _lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            yield path
        else:
            for number, (one, other) in enumerate(zip(given, kept, strict=True)):
                yield from _lost(one, other, f"{path}.{number}")


def main() -> int:
    missing = [name for name in ("etcd", "kube-apiserver", "kubectl") if shutil.which(name) is None]
    if missing:
        print(f"NOT CHECKED: {', '.join(missing)} not here")
        return 3
    folder = Path(tempfile.mkdtemp(prefix="api-server-"))
    server, good = Server(folder), True
    try:
        server.start()
        for what, held in rehearse(server):
            print(f"{'ok' if held else 'FAILED'}: {what}", flush=True)
            good &= held
    finally:
        server.close()
    print("" if good else f"logs: {folder}")
    if good:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
