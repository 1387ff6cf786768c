"""Rehearse a run on a cluster on one machine: the containers' own commands as processes, with real TLS.

python deploy/rehearsal.py [--network auto|namespaces|loopback] [--scale both|gpu|cpu] [--folder DIR] [--keep]

The processes run the commands of deploy/k8s/base: the scheduler, two workers with a simulated GPU, one CPU worker, and
the driver, restarted as Kubernetes would restart them. Results go to an S3 server (moto). Where this machine allows
network namespaces, each process has an address of its own there and the cluster's names and ports; otherwise all are on
loopback with other ports. The cluster's folders are replaced. Python believes that the node has 32 cores.
With --scale the driver scales its worker groups (rehearsal_operator.py): of both kinds, or of one. Each must end.
Without it the option is left out, and during the run a worker's node is cut off (on loopback: the worker gets SIGKILL),
another worker gets SIGTERM, and the scheduler is killed.
Afterwards these must hold:
- every task is done, and `verify` finds no error,
- the tables are those of an undisturbed run in one process,
- no client without a certificate of this authority reaches the scheduler,
- no file contains the secret key of the store, which every process was given.
Exit code 0 with a line for each of these, or 1 with what failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rehearsal_network import Loopback, Namespaces, choose
from rehearsal_parts import (
    Pod,
    certificates,
    large_node,
    shortened_driver,
    strangers_are_refused,
    with_options,
    without_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal_operator import Operator

ROOT = Path(__file__).parents[1]
BASE = ROOT / "deploy" / "k8s" / "base"
RUN_SECONDS = 900
DRAIN_SECONDS = 25
# Dask's `comm.timeouts.tcp` is 120 s in the chart.
SILENCE_SECONDS = 240
# Options that need an API server, which a rehearsal lacks.
NEEDS_A_CLUSTER = ("--scale",)
KINDS = {"both": ("gpu", "cpu"), "gpu": ("gpu",), "cpu": ("cpu",)}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PODS = ("s3", "scheduler", "gpu-a", "gpu-b", "cpu-a", "driver")
SCHEDULER_HOST = "membrain-cloud-r1-scheduler.membrain.svc"


class Rehearsal:
    """The processes of one rehearsal, and their folder and bucket."""

    def __init__(self, folder: Path, tomograms: int, network: Loopback | Namespaces) -> None:
        self.folder, self.tomograms, self.network = folder, tomograms, network
        self.addresses = {name: network.add(name) for name in PODS}
        network.add_name(SCHEDULER_HOST, "scheduler")
        self.secret = secrets.token_urlsafe(30)
        self.ports = network.ports
        self.config = folder / "config.json"
        self.log = folder / "logs"
        self.log.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{large_node(folder)}:{ROOT}",
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": f"http://{self.addresses['s3']}:{self.ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DASK_CONFIG": str(folder / "dask"),
            # The same for pods and the undisturbed run: with other threads sums have another order, and a value at the
            # edge of a histogram's bin falls into the next.
            **dict.fromkeys(THREADS, "1"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.pods: dict[str, Pod] = {}
        self.hosts: dict[str, str] = {}
        self.operator: Operator | None = None
        self.scales: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Start an S3 server, and make a project whose results go there, certificates and Dask's configuration."""
        server = ["moto_server", "-H", self.addresses["s3"], "-p", str(self.ports["s3"])]
        self.pods["s3"] = Pod("s3", self.network.command("s3", server), self.environment, self.log)
        self.pods["s3"].start()
        _wait_for_port(self.addresses["s3"], self.ports["s3"])
        simulate = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import rehearsal_parts as parts; "
        self._python(simulate + f"parts.make_project({str(self.folder)!r}, {self.tomograms})")
        certificates(self.folder / "tls")
        certificates(self.folder / "strangers")
        (self.folder / "dask").mkdir()
        text = yaml.safe_load((BASE / "configmap-membrain-cloud-r1-dask.yaml").read_text())["data"]["dask.yaml"]
        (self.folder / "dask" / "dask.yaml").write_text(self._localize(text))
        settings = yaml.safe_load((BASE / "configmap-membrain-cloud-r1-settings.yaml").read_text())["data"]
        (self.folder / "settings").mkdir()
        (self.folder / "settings" / "settings.yaml").write_text(settings["settings.yaml"])

    def start_scheduler(self) -> None:
        cluster = yaml.safe_load((BASE / "daskcluster-membrain-cloud-r1.yaml").read_text())
        self._start("scheduler", cluster["spec"]["scheduler"]["spec"]["containers"][0])
        _wait_for_port(self.addresses["scheduler"], self.ports["scheduler"])

    def start_cluster(self) -> None:
        self.start_scheduler()
        for name, kind in (("gpu-a", "gpu"), ("gpu-b", "gpu"), ("cpu-a", "cpu")):
            group = yaml.safe_load((BASE / f"daskworkergroup-membrain-cloud-r1-{kind}.yaml").read_text())
            self._start(name, group["spec"]["worker"]["spec"]["containers"][0])

    def start_groups(self, kinds: tuple[str, ...]) -> Operator:
        """Start an operator with the worker groups of these kinds, none of which has a worker yet."""
        from rehearsal_operator import Operator

        manifests = [
            yaml.safe_load((BASE / f"daskworkergroup-membrain-cloud-r1-{kind}.yaml").read_text()) for kind in kinds
        ]
        containers = {one["metadata"]["name"]: one["spec"]["worker"]["spec"]["containers"][0] for one in manifests}

        def start(group: str, worker: str) -> None:
            number = len(self.addresses)
            self.hosts[worker] = f"w{number}"  # names of network interfaces are short
            self.addresses[worker] = self.network.add(self.hosts[worker])
            self._start(worker, containers[group])

        def stop(worker: str) -> None:
            self.pods.pop(worker).stop()

        host = "10.244.0.1" if self.network.own_addresses else "127.0.0.1"
        dashboard = f"http://{self.addresses['scheduler']}:{self.ports['dashboard']}"
        self.operator = Operator(manifests, start, stop, dashboard)
        self.scales = kinds
        self.environment["KUBECONFIG"] = self.operator.serve(host, self.folder)
        return self.operator

    def start_driver(self) -> None:
        job = yaml.safe_load((BASE / "job-membrain-cloud-r1-driver.yaml").read_text())["spec"]
        container = job["template"]["spec"]["containers"][0]
        # As podFailurePolicy: exit code 2 ends the job, after others the driver is restarted.
        self._start("driver", container, retries=job["backoffLimit"], final_codes=(0, 2))

    def _start(self, name: str, container: dict[str, Any], **options: Any) -> None:
        command = [self._localize(str(word)) for word in (*container["command"], *container["args"])]
        environment = dict(self.environment, DASK_WORKER_NAME=name)
        for variable in container["env"]:
            environment.setdefault(variable["name"], self._localize(str(variable.get("value", ""))))
        scratch = self.folder / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        command = [word.replace("$(DASK_WORKER_NAME)", name).replace("/scratch", str(scratch)) for word in command]
        if not self.network.own_addresses:
            # All workers have one address, so each takes any free port.
            command = with_options(command, {"--worker-port": "0", "--nanny-port": "0"})
        if name == "driver":
            left_out = () if self.scales else NEEDS_A_CLUSTER
            command = without_options(command, (*left_out, *_unknown_options(command)))
        if name == "driver" and self.scales:
            command = shortened_driver(command, self.scales)
        host = self.hosts.get(name, name)
        self.pods[name] = Pod(name, self.network.command(host, command), environment, self.log, **options)
        self.pods[name].start()

    def _localize(self, text: str) -> str:
        """Return a text with this machine's folders in place of the cluster's; on loopback its names and ports too."""
        loopback = {
            f"{SCHEDULER_HOST}:8786": f"127.0.0.1:{self.ports['scheduler']}",
            "tls://0.0.0.0": "tls://127.0.0.1",
            "8786": str(self.ports["scheduler"]),
            ":8787": f"127.0.0.1:{self.ports['dashboard']}",
            ":8790": "127.0.0.1:0",
            "9100": str(self.ports["metrics"]),
        }
        changes = {
            **({} if self.network.own_addresses else loopback),
            "/etc/membrain-cloud/tls": str(self.folder / "tls"),
            "/etc/membrain-cloud/settings": str(self.folder / "settings"),
            "s3://change-me/project/config.json": str(self.config),
        }
        for before, after in changes.items():
            text = text.replace(before, after)
        return text

    def receipts(self) -> int:
        """Return the number of receipts in the bucket."""
        code = f"import rehearsal_parts as parts; print(parts.receipts({str(self.config)!r}))"
        return int(self._python(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"))

    def _python(self, code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the preparation failed:\n{done.stderr}")
        return done.stdout

    def membrain_cloud(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "membrain_cloud", *arguments]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True)

    def watch(self, until: Any, seconds: float) -> bool:
        """Restart processes that have ended, as Kubernetes does; return whether `until()` became true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for pod in self.pods.values():
                pod.restart_if_ended()
            if self.operator is not None:
                self.operator.act()
            if until():
                return True
            time.sleep(0.3)
        return False

    def close(self) -> None:
        if self.operator is not None:
            self.operator.close()
        for pod in reversed(self.pods.values()):
            pod.stop()


def _unknown_options(command: list[str]) -> list[str]:
    """Return the options of a driver's command that this version of `membrain-cloud run` does not have."""
    from membrain_cloud.cli import main

    known = {option for parameter in main.commands["run"].params for option in parameter.opts}
    missing = [word for word in command if word.startswith("--") and word not in known]
    for option in sorted(set(missing) - set(NEEDS_A_CLUSTER)):
        print(f"left out: this version of `membrain-cloud run` has no {option}")
    return missing


def _wait_for_port(host: str, port: int) -> None:
    for _ in range(300):
        with socket.socket() as connection:
            if connection.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"no process listens at {host}:{port}")


def disturb(rehearsal: Rehearsal) -> Iterator[str]:
    """Lose a worker, ask another to stop, kill the scheduler, each after further tasks; yield what happened."""
    pods = rehearsal.pods
    if not rehearsal.watch(lambda: rehearsal.receipts() >= 1, RUN_SECONDS):
        raise SystemExit("no task was done in time: see the logs")
    yield from _lose(rehearsal, "gpu-a")
    rehearsal.watch(lambda: rehearsal.receipts() >= 2, RUN_SECONDS)
    seconds = pods["gpu-b"].terminate()
    if seconds > DRAIN_SECONDS:
        raise SystemExit(f"a worker took {seconds:.1f} s to stop after SIGTERM")
    yield f"a GPU worker stopped {seconds:.1f} s after SIGTERM"
    rehearsal.watch(lambda: rehearsal.receipts() >= 4, RUN_SECONDS)
    pods["scheduler"].kill(signal.SIGKILL)
    yield "the scheduler was killed (SIGKILL)"


def _lose(rehearsal: Rehearsal, name: str) -> Iterator[str]:
    """Cut a worker's node off, or kill the worker where the network cannot; another pod takes its name."""
    pod, network = rehearsal.pods[name], rehearsal.network
    if not network.own_addresses:
        pod.kill(signal.SIGKILL)
        yield "a GPU worker was killed (SIGKILL)"
        return
    start, before = time.monotonic(), rehearsal.addresses[name]
    network.cut(name)
    pod.kill(signal.SIGKILL)
    rehearsal.addresses[name] = network.rejoin(name)
    yield "a GPU worker's node was cut off"
    log = rehearsal.log / "scheduler.txt"
    if not rehearsal.watch(lambda: f"Remove worker addr: tls://{before}:" in log.read_text(), SILENCE_SECONDS):
        raise SystemExit("the scheduler has not noticed the loss of a worker")
    yield f"the scheduler gave it up after {time.monotonic() - start:.0f} s"


def scaling_checks(rehearsal: Rehearsal) -> Iterator[tuple[str, bool]]:
    """Yield what must hold after a run with scaling, and whether it does."""
    operator = rehearsal.operator
    assert operator is not None
    yield "the driver asked the API for nothing that its role forbids", not operator.refused
    yield "groups have grown and shrunk", any(count for _, count in operator.changes) and bool(operator.removed)
    left = {name: group.workers for name, group in operator.groups.items() if group.workers}
    yield f"no worker is left {left or ''}".rstrip(), not left
    log = (rehearsal.log / "driver.txt").read_text()
    yield "no worker was stopped with a task", "worker_left" not in log and "worker_died" not in log
    logs = "".join(path.read_text() for path in rehearsal.log.glob("*-worker-*.txt"))
    memory = {f"{limit} GiB" for limit in ("16.00", "12.00")}
    yield "workers know all their memory", any(text in logs for text in memory) and "384.00 MiB" not in logs


def final_checks(rehearsal: Rehearsal) -> Iterator[tuple[str, bool]]:
    """Yield what must hold afterwards, and whether it does."""
    driver = rehearsal.pods["driver"]
    yield f"the driver ended with exit code 0 (after {driver.restarts} restarts)", driver.returncode == 0
    config = str(rehearsal.config)
    planned = rehearsal.membrain_cloud("plan", config, "--json")
    # Beside the plan, standard output may have lines of libraries.
    text = planned.stdout[planned.stdout.find("{\n") :] if planned.returncode == 0 else "{}"
    yield (
        f"no task is left {planned.stderr[-300:] if planned.returncode else ''}".rstrip(),
        (json.loads(text).get("tasks") == []),
    )
    checked = rehearsal.membrain_cloud("verify", config)
    yield "verify finds all results complete", checked.returncode == 0
    alone = str(rehearsal.folder / "alone.json")
    done = rehearsal.membrain_cloud("run", alone, "--in-process")
    yield "an undisturbed run in one process", done.returncode == 0
    code = f"import rehearsal_parts as parts; parts.same_tables({config!r}, {alone!r})"
    same = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"],
        env=rehearsal.environment,
        capture_output=True,
        text=True,
    )
    yield f"the tables are the same {same.stderr.strip()[-300:]}", same.returncode == 0
    report = rehearsal.membrain_cloud("report", config, "--output", str(rehearsal.folder / "report.html"))
    yield "a report", report.returncode == 0
    rehearsal.membrain_cloud("failures", config, "--debug")
    code = f"import rehearsal_parts as parts; parts.download({config!r}, {str(rehearsal.folder / 'bucket')!r})"
    rehearsal._python(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}")
    needle = rehearsal.secret.encode()
    leaks = [str(path) for path in rehearsal.folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
    yield f"no file contains the secret {leaks or ''}", not leaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ("auto", "namespaces", "loopback")
    parser.add_argument(
        "--network", choices=networks, default="auto", help="default: namespaces where this machine allows them"
    )
    parser.add_argument("--scale", choices=tuple(KINDS), help="the driver scales these groups (default: not scaled)")
    parser.add_argument("--folder", help="working folder (default: a temporary one)")
    parser.add_argument("--tomograms", type=int, default=3, help="number of tomograms (default: 3)")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    arguments = parser.parse_args()
    network = choose(arguments.network)
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="rehearsal-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rehearsal = Rehearsal(folder, arguments.tomograms, network(folder))
    print(f"network: {'a namespace for each pod' if network is Namespaces else 'loopback'}", flush=True)
    good = True
    try:
        rehearsal.prepare()
        if arguments.scale:
            rehearsal.start_scheduler()
            operator = rehearsal.start_groups(KINDS[arguments.scale])
        else:
            rehearsal.start_cluster()
        for what, held in strangers_are_refused(rehearsal.addresses["scheduler"], rehearsal.ports["scheduler"], folder):
            print(f"{'ok' if held else 'FAILED'}: {what}")
            good &= held
        rehearsal.start_driver()
        for what in () if arguments.scale else disturb(rehearsal):
            print(what, flush=True)
        ended = rehearsal.watch(lambda: rehearsal.pods["driver"].over, RUN_SECONDS)
        print(f"{'ok' if ended else 'FAILED'}: the driver has ended")
        good &= ended
        if arguments.scale:
            rehearsal.watch(lambda: False, 2.0)  # what the operator still has to do
            print(f"replicas: {', '.join(f'{name} {count}' for name, count in operator.changes)}")
        scaled = scaling_checks(rehearsal) if arguments.scale else ()
        for what, held in itertools.chain(scaled, final_checks(rehearsal)):
            print(f"{'ok' if held else 'FAILED'}: {what}", flush=True)
            good &= held
    finally:
        rehearsal.close()
        if not arguments.keep and good:
            shutil.rmtree(folder, ignore_errors=True)
    if not good:
        print(f"logs: {folder / 'logs'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
