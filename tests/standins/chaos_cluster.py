"""For tests that kill processes: tomograms on S3, tiny networks, and a Dask cluster of processes.

`StoreLog` observes the requests to the store and counts which tasks were started by whom: a task starts with a lease,
which is made by a conditional write, whatever drivers and workers report.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from membrain_cloud.networks.picking.diffusion_net import Architecture, DiffusionNet
from membrain_cloud.networks.picking.picker import Picker, save_picker
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import TomogramRef
from membrain_cloud.store.run_state.leases import Holder
from membrain_cloud.store.run_state.receipts import ReceiptName

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.volumes.ome_zarr import OmeVersion

SHAPE, SPACING = (28, 30, 32), 10.0
# Stages of a run by default: the others are left out unless their settings name inputs.
DEFAULT_STAGES = 5


def vesicle(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy tomogram with one dark vesicle, and the mask of its membrane."""
    z, y, x = np.indices(shape)
    radius = 7.0 + 0.1 * (number % 40)
    height = np.sqrt((z - 14) ** 2 + (y - 15) ** 2 + (x - 16) ** 2) - radius
    noise = np.random.default_rng(number).normal(size=shape)
    return (0.1 * noise - np.exp(-0.5 * (height / 1.2) ** 2)).astype(np.float32), abs(height) < 2


def tiny_models(folder: Path) -> list[str]:
    """Return settings that name a network trained briefly on one vesicle, and an untrained picker."""
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    network = build_unet(architecture)
    density, membrane = vesicle(0, (32, 32, 32))
    windows = torch.from_numpy((density - density.mean()) / density.std())[None, None]
    truth = torch.from_numpy(membrane.astype(np.float32))[None, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-2)
    for _ in range(16):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(network(windows), truth).backward()
        optimiser.step()
    facts = {"window": 32, "voxel_spacing_angstrom": SPACING}
    save_segmenter(folder / "segmenter.safetensors", network, architecture, facts)
    diffusion = DiffusionNet(Architecture(channels=6, width=5, outputs=1, blocks=2, hidden=4, profile_blocks=1)).eval()
    picker = Picker(
        network=diffusion,
        offsets_angstrom=np.linspace(-10.0, 25.0, 8),
        spline_order=1,
        window_starts=(0, 1, 2),
        eigenpairs=12,
        partition_vertices=300,
        length_unit_angstrom=500.0,
        score_unit_angstrom=15.0,
        inward_normals=False,
    )
    save_picker(picker, folder / "picker.safetensors")
    return [f"segment.model={folder / 'segmenter.safetensors'}", f"pick.model={folder / 'picker.safetensors'}"]


def make_project(
    folder: Path, name: str, endpoint: str, runs: int, *, tall_every: int = 0, version: OmeVersion = "0.4"
) -> Project:
    """Write the same tomograms to a new bucket; each `tall_every`-th one is tall enough to be cut into blocks."""
    options = {"key": "x", "secret": "x", "endpoint_url": endpoint}
    Files(f"s3://{name}", options).filesystem.mkdir(name)
    objects = [{"name": "membrane", "is_particle": False}, {"name": "membrane-protein", "is_particle": True}]
    overlay = {"overlay_root": f"s3://{name}/one", "overlay_fs_args": options}
    config = folder / f"{name}.json"
    config.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": objects, **overlay}))
    project = CopickProject.open(str(config))
    for number in range(runs):
        tall = tall_every and number % tall_every == tall_every - 1
        density, _ = vesicle(number, (56, *SHAPE[1:]) if tall else SHAPE)
        project.write_tomogram(TomogramRef(f"TS_{number:02d}", "wbp", SPACING), density, chunk=16, version=version)
    return project


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of all results, without files that contain times, hosts and attempts."""
    volatile = ("/receipts/", "/leases/", "/attempts/", "/_receipts/", "/_leases/", "/VoxelSpacing")
    files = project.files
    return {name: files.read(name) for name in files.listing() if not any(part in f"/{name}" for part in volatile)}


def receipt_names(project: Project) -> set[str]:
    """Return the names of all receipts."""
    return {name for name in project.files.listing() if "receipts/" in name}


@dataclass
class StoreLog:
    """The starts and ends of tasks, from the requests to the store.

    Attributes
    ----------
    begun : Counter
        Name of a task's lease -> how often it was claimed before the task had its receipt.
    bereaved : Counter
        How often a lease was claimed after the process of its last holder had died.
    handed_on : Counter
        How often it was claimed although that process lives: it had given the task up.
    done : set of str
        Tasks that have their receipt.
    """

    begun: Counter[str] = field(default_factory=Counter)
    bereaved: Counter[str] = field(default_factory=Counter)
    handed_on: Counter[str] = field(default_factory=Counter)
    done: set[str] = field(default_factory=set)
    _last: dict[str, Holder] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, method: str, path: str, headers: Mapping[str, str], body: bytes, status: int) -> None:
        """Take a request and its answer; a `FaultProxy.witness`."""
        if method != "PUT" or status >= 300:
            return
        _, _, name = unquote(path.partition("?")[0]).partition("/membrain-cloud/")
        for kind in ("leases/", "receipts/"):
            before, separator, rest = name.partition(kind)
            if separator and before in ("", "tables/_"):
                with self._lock:
                    if kind == "receipts/":
                        self._finish(rest.removesuffix(".json"))
                    elif "if-none-match" in headers:
                        self._begin(rest.removesuffix(".json"), body)

    def _begin(self, task: str, body: bytes) -> None:
        if task in self.done:
            return
        lease = json.loads(body)
        holder = Holder(lease["token"], lease["count"], lease["process"], lease["facts"])
        self.begun[task] += 1
        last, self._last[task] = self._last.get(task), holder
        if last is not None:
            (self.bereaved if last.is_dead() else self.handed_on)[task] += 1

    def _finish(self, receipt: str) -> None:
        parsed = ReceiptName.parse(receipt)
        if parsed is not None:
            parts = ("whole", "finish") if parsed.part == "complete" else (parsed.part,)
            self.done |= {f"{parsed.address}/{part}" for part in parts}


class Cluster:
    """A scheduler, workers and a driver as processes that can be killed and started again."""

    def __init__(self, config: str, options: list[str], log: Path, workers: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.config, self.options, self.log = config, options, log
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker(number) for number in range(workers)]
        self.driver = self.start_driver()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return start(*command, errors=self.log.with_suffix(".err"))

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        return self.start("dask", "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def start_worker(self, number: int) -> subprocess.Popen[bytes]:
        return self.start("dask", "worker", self.address, "--nthreads", "1", "--no-dashboard", "--name", f"w{number}")

    def start_driver(self) -> subprocess.Popen[bytes]:
        how = ["--scheduler", self.address, "--log-file", str(self.log)]
        return self.start("membrain_cloud", "run", self.config, *self.options, *how)

    def restart_dead_processes(self) -> None:
        """Start the scheduler and the workers that have died again."""
        if self.scheduler.poll() is not None:
            self.scheduler = self.start_scheduler()
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[number] = self.start_worker(number)

    def kill_a_worker(self, chance: random.Random) -> None:
        """Send SIGKILL or SIGTERM to a worker, or to the nanny that would start another one."""
        nanny = psutil.Process(chance.choice(self.workers).pid)
        targets = [nanny]
        with contextlib.suppress(psutil.Error):
            targets += [child for child in nanny.children() if "spawn_main" in " ".join(child.cmdline())] * 3
        with contextlib.suppress(psutil.Error):
            chance.choice(targets).send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))

    def kill_the_scheduler(self) -> None:
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self.start_scheduler()

    def kill_the_driver(self) -> None:
        self.driver.kill()
        self.driver.wait()
        self.driver = self.start_driver()

    def end(self) -> None:
        for process in (self.driver, *self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start(*command: str, errors: Path) -> subprocess.Popen[bytes]:
    """Start a Python module as a process in a session of its own, with one thread for every library."""
    with errors.open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        )
