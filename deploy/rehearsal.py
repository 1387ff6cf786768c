"""A run on a cluster, rehearsed on one machine: the containers' own commands as processes, with real TLS.

python deploy/rehearsal.py [--network auto|namespaces|loopback] [--folder DIR] [--tomograms N] [--keep]

What runs is what deploy/k8s/base says, command for command: the scheduler, two workers that say they have a GPU, one
CPU worker, and the driver, restarted as Kubernetes would restart them; results go to an S3 server (moto). Each has an
address of its own in a network namespace, and the cluster's names and ports, where this machine can make namespaces
(root, or users may); else all are on loopback, with other ports, which is said. Folders are put in place of the
cluster's, and what only a cluster can do (--scale) is left out. In the middle a worker is lost (its node goes without a
word; on loopback: SIGKILL), another is asked to stop (SIGTERM), and then the scheduler is killed. Afterwards
- every task must be done, and `verify` content,
- the tables must be those of an undisturbed run in one process,
- nobody without a certificate of this authority may have reached the scheduler,
- the secret key of the store, which every process was given, must be in nothing that was written.
Exit code 0 and a line for each of these, or 1 with what went wrong.
"""

from __future__ import annotations

import argparse
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
from rehearsal_parts import Pod, certificates, strangers_are_refused, with_options, without_options

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BASE = ROOT / "deploy" / "k8s" / "base"
RUN_SECONDS = 900
DRAIN_SECONDS = 25
# Dask's `comm.timeouts.tcp` is 120 s in the chart.
SILENCE_SECONDS = 240
# What a rehearsal cannot do: there is no API server to scale groups.
NEEDS_A_CLUSTER = ("--scale",)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PODS = ("s3", "scheduler", "gpu-a", "gpu-b", "cpu-a", "driver")
SCHEDULER_HOST = "membrain-cloud-r1-scheduler.membrain.svc"


class Rehearsal:
    """The processes of one rehearsal, and the folder and bucket that they share."""

    def __init__(self, folder: Path, tomograms: int, network: Loopback | Namespaces) -> None:
        self.folder, self.tomograms, self.network = folder, tomograms, network
        self.addresses = {name: network.add(name) for name in PODS}
        network.call(SCHEDULER_HOST, "scheduler")
        self.secret = secrets.token_urlsafe(30)
        self.ports = network.ports
        self.config = folder / "config.json"
        self.log = folder / "logs"
        self.log.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": f"http://{self.addresses['s3']}:{self.ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DASK_CONFIG": str(folder / "dask"),
            # The same for pods and the run to compare with: other threads add up in another order, and a value at the
            # edge of a histogram's bin then falls into the next.
            **dict.fromkeys(THREADS, "1"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.pods: dict[str, Pod] = {}

    def prepare(self) -> None:
        """An S3 server with a bucket, a project whose results go there, certificates, Dask's configuration."""
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
        (self.folder / "dask" / "dask.yaml").write_text(self._here(text))
        settings = yaml.safe_load((BASE / "configmap-membrain-cloud-r1-settings.yaml").read_text())["data"]
        (self.folder / "settings").mkdir()
        (self.folder / "settings" / "settings.yaml").write_text(settings["settings.yaml"])

    def start_cluster(self) -> None:
        cluster = yaml.safe_load((BASE / "daskcluster-membrain-cloud-r1.yaml").read_text())
        self._start("scheduler", cluster["spec"]["scheduler"]["spec"]["containers"][0])
        _wait_for_port(self.addresses["scheduler"], self.ports["scheduler"])
        for name, kind in (("gpu-a", "gpu"), ("gpu-b", "gpu"), ("cpu-a", "cpu")):
            group = yaml.safe_load((BASE / f"daskworkergroup-membrain-cloud-r1-{kind}.yaml").read_text())
            self._start(name, group["spec"]["worker"]["spec"]["containers"][0])

    def start_driver(self) -> None:
        job = yaml.safe_load((BASE / "job-membrain-cloud-r1-driver.yaml").read_text())["spec"]
        container = job["template"]["spec"]["containers"][0]
        # As podFailurePolicy: exit code 2 ends the job, others are tried again.
        self._start("driver", container, retries=job["backoffLimit"], final_codes=(0, 2))

    def _start(self, name: str, container: dict[str, Any], **more: Any) -> None:
        command = [self._here(str(word)) for word in (*container["command"], *container["args"])]
        environment = dict(self.environment, DASK_WORKER_NAME=name)
        for variable in container["env"]:
            environment.setdefault(variable["name"], self._here(str(variable.get("value", ""))))
        scratch = self.folder / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        command = [word.replace("$(DASK_WORKER_NAME)", name).replace("/scratch", str(scratch)) for word in command]
        if not self.network.own_addresses:
            # One address, one set of ports: workers take any.
            command = with_options(command, {"--worker-port": "0", "--nanny-port": "0"})
        if name == "driver":
            command = without_options(command, (*NEEDS_A_CLUSTER, *_options_to_come(command)))
        self.pods[name] = Pod(name, self.network.command(name, command), environment, self.log, **more)
        self.pods[name].start()

    def _here(self, text: str) -> str:
        """The cluster's folders as they are on this machine; on loopback its names and ports too."""
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
        """How many tasks have left a receipt in the bucket."""
        code = f"import rehearsal_parts as parts; print(parts.receipts({str(self.config)!r}))"
        return int(self._python(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"))

    def _python(self, code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"preparing failed:\n{done.stderr}")
        return done.stdout

    def membrain_cloud(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "membrain_cloud", *arguments]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True)

    def watch(self, until: Any, seconds: float) -> bool:
        """Restart what has ended, as Kubernetes does, until `until()` or the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for pod in self.pods.values():
                pod.look()
            if until():
                return True
            time.sleep(0.3)
        return False

    def close(self) -> None:
        for pod in reversed(self.pods.values()):
            pod.stop()


def _options_to_come(command: list[str]) -> list[str]:
    """Options of the driver that this version of `run` does not have."""
    from membrain_cloud.cli import main

    known = {option for parameter in main.commands["run"].params for option in parameter.opts}
    missing = [word for word in command if word.startswith("--") and word not in known]
    for option in sorted(set(missing) - set(NEEDS_A_CLUSTER)):
        print(f"left out: this version of `membrain-cloud run` has no {option}")
    return missing


def _wait_for_port(host: str, port: int) -> None:
    for _ in range(300):
        with socket.socket() as tried:
            if tried.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"nothing listens at {host}:{port}")


def disturb(rehearsal: Rehearsal) -> Iterator[str]:
    """Lose a worker, ask another to stop, kill the scheduler: each after some more work was done."""
    pods = rehearsal.pods
    if not rehearsal.watch(lambda: rehearsal.receipts() >= 1, RUN_SECONDS):
        raise SystemExit("no task was ever done (see the logs)")
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
    """A worker's node goes, without a word where the network can do that; another pod takes its name."""
    pod, network = rehearsal.pods[name], rehearsal.network
    if not network.own_addresses:
        pod.kill(signal.SIGKILL)
        yield "a GPU worker was killed (SIGKILL)"
        return
    start, before = time.monotonic(), rehearsal.addresses[name]
    network.cut(name)
    pod.kill(signal.SIGKILL)
    rehearsal.addresses[name] = network.join_again(name)
    yield "a GPU worker's node was lost without a word"
    log = rehearsal.log / "scheduler.txt"
    if not rehearsal.watch(lambda: f"Remove worker addr: tls://{before}:" in log.read_text(), SILENCE_SECONDS):
        raise SystemExit("the scheduler has not noticed that a worker is gone")
    yield f"the scheduler gave it up after {time.monotonic() - start:.0f} s"


def verdicts(rehearsal: Rehearsal) -> Iterator[tuple[str, bool]]:
    """What must hold afterwards."""
    driver = rehearsal.pods["driver"]
    yield f"the driver ended with exit code 0 (after {driver.restarts} restarts)", driver.returncode == 0
    config = str(rehearsal.config)
    plan = json.loads(rehearsal.membrain_cloud("plan", config, "--json").stdout or "{}")
    yield "nothing is left to do", plan.get("tasks") == []
    checked = rehearsal.membrain_cloud("verify", config)
    yield "verify finds all results whole", checked.returncode == 0
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
    found = [str(path) for path in rehearsal.folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
    yield f"the secret is in nothing that was written {found or ''}", not found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ("auto", "namespaces", "loopback")
    parser.add_argument("--network", choices=networks, default="auto", help="default: namespaces where they can be had")
    parser.add_argument("--folder", help="where it takes place (default: a temporary one)")
    parser.add_argument("--tomograms", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    asked = parser.parse_args()
    network = choose(asked.network)
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="rehearsal-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rehearsal = Rehearsal(folder, asked.tomograms, network(folder))
    print(f"network: {'a namespace a pod' if network is Namespaces else 'loopback'}", flush=True)
    good = True
    try:
        rehearsal.prepare()
        rehearsal.start_cluster()
        for what, held in strangers_are_refused(rehearsal.addresses["scheduler"], rehearsal.ports["scheduler"], folder):
            print(f"{'ok' if held else 'FAILED'}: {what}")
            good &= held
        rehearsal.start_driver()
        for what in disturb(rehearsal):
            print(what, flush=True)
        ended = rehearsal.watch(lambda: rehearsal.pods["driver"].over, RUN_SECONDS)
        print(f"{'ok' if ended else 'FAILED'}: the driver came to an end")
        good &= ended
        for what, held in verdicts(rehearsal):
            print(f"{'ok' if held else 'FAILED'}: {what}", flush=True)
            good &= held
    finally:
        rehearsal.close()
        if not asked.keep and good:
            shutil.rmtree(folder, ignore_errors=True)
    if not good:
        print(f"logs: {folder / 'logs'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
