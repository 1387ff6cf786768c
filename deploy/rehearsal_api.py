"""Try the chart on a real API server with the Dask operator's own controller, without nodes or containers.

python deploy/rehearsal_api.py

Needs `etcd`, `kube-apiserver` and `kubectl` on the PATH, and dask-kubernetes. The API server gets the operator's CRDs
and the objects of deploy/k8s/base whose kinds it has. Then these must hold:
- the server accepts every object and drops no field; those of the overlays are tried in a dry run,
- the operator creates the scheduler's Deployment and Service,
- the driver's service account may set the replicas of the worker groups and nothing else; that of the workers may not,
- when it does, the operator creates as many Deployments of workers, with the scheduler's address,
- where `kube-controller-manager` is on the PATH too, pods of scheduler, workers and driver are created,
- when the objects are deleted, as `helm uninstall` does, none of them is left.
Exit code 0, 1 with what failed, or 3 where a program is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rehearsal_server import ACCOUNT, NAMESPACE, Server, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
# Fields that servers older than 1.N drop, with N.
NEWER = {"spec.podFailurePolicy": 26, "spec.ttlSecondsAfterFinished": 21}
RUN = "membrain-cloud-r1"


def rehearse(server: Server) -> Iterator[tuple[str, bool]]:
    for file in distribution("dask-kubernetes").files or ():
        if file.parent.name == "crds" and file.suffix == ".yaml":
            server.kubectl("create", "-f", str(file.locate()))
    crds = wait(lambda: server.kubectl("get", "daskclusters,daskworkergroups").returncode == 0, 60)
    yield "the server accepts the operator's CRDs", crds
    server.kubectl("create", "namespace", NAMESPACE)
    server.start_operator()
    yield from _base(server)
    for overlay in sorted((ROOT / "deploy" / "k8s" / "overlays").iterdir()):
        yield _overlay(server, overlay)
    scheduler = f"{RUN}-scheduler"
    is_created = wait(lambda: bool(server.get("deployment", scheduler) and server.get("service", scheduler)), 60)
    yield "the operator creates the scheduler's Deployment and Service", is_created
    yield from _rights(server)
    yield from _scaling(server)
    if server.controllers:
        yield from _pods(server)
        yield from _uninstalled(server)
    else:
        print("NOT CHECKED: pods and deletion, since kube-controller-manager is not installed")


def _base(server: Server) -> Iterator[tuple[str, bool]]:
    """Create each object of deploy/k8s/base and compare it with what the server keeps."""
    left_out = set()
    for path in sorted((ROOT / "deploy" / "k8s" / "base").glob("*-*.yaml")):
        manifest = yaml.safe_load(path.read_text())
        if not server.serves(manifest):
            left_out.add(f"{manifest['kind']} {manifest['apiVersion']}")
            continue
        done = server.kubectl("create", "--validate=false", "-f", "-", "-o", "json", manifest=manifest)
        kept = json.loads(done.stdout) if done.returncode == 0 else {}
        lost = list(_lost(manifest.get("spec"), kept.get("spec")))
        for place, minor in NEWER.items():
            if place in lost and server.minor() < minor:
                lost.remove(place)
                print(f"this server drops {place} of a {manifest['kind']}: it is older than 1.{minor}")
        yield (
            f"{manifest['kind']}/{manifest['metadata']['name']} {done.stderr.strip()} {lost or ''}".rstrip(),
            not (done.returncode or lost),
        )
    print(f"NOT CHECKED, kinds that this server lacks: {', '.join(sorted(left_out)) or 'none'}")


def _overlay(server: Server, folder: Path) -> tuple[str, bool]:
    """Try all objects of an overlay in a dry run on the server, which validates and admits them."""
    built = server.kubectl("kustomize", str(folder))
    objects = [one for one in yaml.safe_load_all(built.stdout) if one]
    served = [one for one in objects if server.serves(one)]
    # The names of the base's objects are taken; another name changes nothing else.
    for one in served:
        one["metadata"]["name"] += "-try"
    refused = []
    for one in served:
        done = server.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", manifest=one)
        refused += [done.stderr.strip()] if done.returncode else []
    what = (
        f"{folder.name}: the server accepts {len(served)} objects, and lacks the kinds of {len(objects) - len(served)}"
    )
    return f"{what} {refused or ''}".rstrip(), bool(served) and not refused


def _pods(server: Server) -> Iterator[tuple[str, bool]]:
    """Wait for the controllers' pods, whose specs are thereby admitted; without a node none starts."""
    wanted = {
        "dask.org/component=scheduler": 1,
        f"dask.org/workergroup-name={RUN}-gpu": 3,
        f"membrain-cloud/component=driver,membrain-cloud/run={RUN}": 1,
    }
    for selector, count in wanted.items():

        def pods(selector: str = selector) -> int:
            return len(server.get("pods", "-l", selector).get("items", []))

        yield f"pods with {selector}: {count}", wait(lambda pods=pods, count=count: pods() == count, 90)


def _uninstalled(server: Server) -> Iterator[tuple[str, bool]]:
    folder = ROOT / "deploy" / "k8s" / "base"
    for path in sorted(folder.glob("*-*.yaml")):
        if server.serves(yaml.safe_load(path.read_text())):
            server.kubectl("delete", "--wait=false", "-f", str(path))
    kinds = "daskclusters,daskworkergroups,deployments,replicasets,jobs,pods,services,networkpolicies,roles"

    def left() -> list[str]:
        return [f"{one['kind']}/{one['metadata']['name']}" for one in server.get(kinds).get("items", [])]

    gone = wait(lambda: not left(), 120)
    yield f"no object is left after deletion {'' if gone else left()}".rstrip(), gone


def _rights(server: Server) -> Iterator[tuple[str, bool]]:
    def may(account: str, verb: str, *what: str) -> bool:
        return server.kubectl("auth", "can-i", verb, *what, "--as", ACCOUNT + account).stdout.strip() == "yes"

    group = f"daskworkergroups.kubernetes.dask.org/{RUN}-gpu"
    scale = ("daskworkergroups.kubernetes.dask.org", f"{RUN}-gpu", "--subresource=scale")
    yield "the driver may set the replicas of its groups", may("driver", "patch", *scale)
    yield "workers may not", not may("workers", "patch", *scale)
    yield "the driver may list the names of workers", may("driver", "list", "deployments.apps")
    for verb, what in (
        ("patch", group),
        ("patch", "daskworkergroups.kubernetes.dask.org/another"),
        ("list", "daskworkergroups.kubernetes.dask.org"),
        ("delete", group),
        ("get", "secrets"),
        ("create", "pods"),
        ("delete", "deployments.apps"),
        ("patch", "deployments.apps"),
        ("patch", f"daskclusters.kubernetes.dask.org/{RUN}"),
    ):
        yield f"the driver may not {verb} {what}", not may("driver", verb, what)


def _scaling(server: Server) -> Iterator[tuple[str, bool]]:
    # The driver's own code with the rights of its service account.
    code = (
        "from membrain_cloud.pipeline.runners.kubernetes.api import GroupApi\n"
        "from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup\n"
        "from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler\n"
        "from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry\n"
        f"scaler = Scaler([WorkerGroup.parse('gpu={RUN}-gpu:3')], GroupApi({NAMESPACE!r}))\n"
        "assert (scaler.groups[0].slots, scaler.groups[0].memory_bytes) == (2, 2**34)\n"
        "scaler.follow({('gpu', 0): 10}, WorkerRegistry(), 1e9)\n"
        "assert not scaler.complaint, scaler.complaint\n"
    )
    environment = {**os.environ, "KUBECONFIG": str(server.folder / "kubeconfig-driver"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    yield f"the driver's scaler requests three GPU workers {done.stderr[-500:]}".rstrip(), done.returncode == 0

    def workers() -> list[dict[str, Any]]:
        return list(server.get("deployments", "-l", f"dask.org/workergroup-name={RUN}-gpu").get("items", []))

    yield "the operator creates three Deployments of workers", wait(lambda: len(workers()) == 3, 60)
    for worker in workers()[:1]:
        container = worker["spec"]["template"]["spec"]["containers"][0]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        address = environment.get("DASK_SCHEDULER_ADDRESS")
        yield f"they connect to {address}", address == f"tls://{RUN}-scheduler.{NAMESPACE}.svc:8786"
        yield "one GPU each", container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def _lost(sent: Any, kept: Any, path: str = "spec") -> Iterator[str]:
    """Yield the paths of fields that the server has dropped."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            if not isinstance(kept, dict) or key not in kept:
                if value not in ({}, [], None):
                    yield f"{path}.{key}"
            else:
                yield from _lost(value, kept[key], f"{path}.{key}")
    elif isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) != len(sent):
            yield path
        else:
            for number, (one, other) in enumerate(zip(sent, kept, strict=True)):
                yield from _lost(one, other, f"{path}.{number}")


def main() -> int:
    missing = [name for name in ("etcd", "kube-apiserver", "kubectl") if shutil.which(name) is None]
    if missing:
        print(f"NOT CHECKED: {', '.join(missing)} not installed")
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
