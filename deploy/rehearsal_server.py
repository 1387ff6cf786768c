"""An API server on loopback: etcd, kube-apiserver, the Dask operator and, if installed, kube-controller-manager."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import yaml
from rehearsal_parts import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMESPACE = "membrain"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:membrain-cloud-"


class Server:
    """etcd and kube-apiserver on loopback, an administrator's kubeconfig, and the operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kubeconfig = folder / "kubeconfig"
        self.controllers = False
        self._kinds: set[tuple[str, str]] | None = None

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
            raise SystemExit("the API server has not become ready in 90 s: see its log")
        if shutil.which("kube-controller-manager") is not None:
            self._start_controllers(key)

    def _start_controllers(self, key: str) -> None:
        """Start kube-controller-manager, which creates pods and deletes what deleted objects owned."""
        options = {
            "--kubeconfig": str(self.kubeconfig),
            "--leader-elect": "false",
            "--bind-address": "127.0.0.1",
            "--secure-port": str(free_port()),
            "--cert-dir": str(self.folder / "certs-controllers"),
            "--service-account-private-key-file": key,
            "--root-ca-file": str(self.folder / "certs" / "apiserver.crt"),
            **({"--port": "0"} if self.minor() < 24 else {}),
        }
        self.controllers = True
        words = [f"{name}={value}" for name, value in options.items()]
        self._run("kube-controller-manager", ["kube-controller-manager", *words])

    def start_operator(self) -> None:
        command = [sys.executable, "-m", "kopf", "run", "-m", "dask_kubernetes.operator.controller", "--all-namespaces"]
        self._run("operator", command, {"KUBECONFIG": str(self.kubeconfig)})

    def _run(self, name: str, command: list[str], variables: dict[str, str] | None = None) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self.processes.append(
            subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(variables or {})})
        )

    def kubectl(self, *arguments: str, manifest: Any = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        text = None if manifest is None else json.dumps(manifest)
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def get(self, *what: str) -> dict[str, Any]:
        done = self.kubectl("get", *what, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def serves(self, manifest: dict[str, Any]) -> bool:
        """Return whether this server has the manifest's kind in its version."""
        if self._kinds is None:
            lines = self.kubectl("api-resources", "--no-headers").stdout.splitlines()
            self._kinds = {(line.split()[-3], line.split()[-1]) for line in lines if line}
        return (manifest["apiVersion"], manifest["kind"]) in self._kinds

    def minor(self) -> int:
        """Return N of the server's version 1.N; 0 where it is unknown."""
        text = json.loads(self.kubectl("get", "--raw", "/version").stdout or "{}").get("minor", "")
        return int("".join(letter for letter in text if letter.isdigit()) or 0)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def wait(until: Callable[[], bool], seconds: float) -> bool:
    """Return True once `until()` is true, or False after `seconds`."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True
