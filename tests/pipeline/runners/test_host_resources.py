"""Memory, cores and workers of this machine, with control groups of both versions written to a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.pipeline.runners import host_resources
from membrain_cloud.pipeline.runners.host_resources import (
    default_workers,
    equal_workers,
    fitting_workers,
    total_memory_bytes,
    usable_cores,
    worker_memory_bytes,
)
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from pathlib import Path


def give(monkeypatch: pytest.MonkeyPatch, cores: int, memory_gib: float) -> None:
    monkeypatch.setattr(host_resources, "total_memory_bytes", lambda: int(memory_gib * GIB))
    monkeypatch.setattr(host_resources, "usable_cores", lambda: cores)


@pytest.mark.parametrize(
    ("cores", "memory_gib", "workers"),
    [(8, 64, 8), (8, 10, 3), (8, 2, 1)],
    ids=["as many as cores", "as many as 3 GiB fit", "at least one"],
)
def test_workers_that_fit(monkeypatch: pytest.MonkeyPatch, cores: int, memory_gib: int, workers: int) -> None:
    give(monkeypatch, cores, memory_gib)
    assert default_workers() == workers


def test_workers_share_nine_tenths_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 8, 10)
    assert worker_memory_bytes() == 9 * GIB
    assert worker_memory_bytes(3) == 3 * GIB


# Needs of a tomogram of 1000 x 1000 x 500 voxels: segmentation, and meshes.
LARGE = {"gpu": int(4.4 * GIB), "cpu": int(9.0 * GIB)}


@pytest.mark.parametrize(
    ("cores", "memory_gib", "gpus", "kinds"),
    [
        (16, 64, 0, {None: 6}),
        (16, 64, 1, {"gpu": 1, "cpu": 5}),
        (16, 64, 4, {"gpu": 4, "cpu": 2}),
        (64, 512, 8, {"gpu": 8, "cpu": 43}),
        (4, 512, 8, {"gpu": 8, "cpu": 1}),
        (16, 16, 2, {"gpu": 1, "cpu": 1}),
        (16, 14, 1, {None: 1}),
        (8, 12, 0, {None: 1}),
    ],
)
def test_a_large_tomogram_runs_and_every_gpu_is_used(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory_gib: int, gpus: int, kinds: dict[str | None, int]
) -> None:
    give(monkeypatch, cores, memory_gib)
    workers = fitting_workers(LARGE, gpus)
    assert {kind: sum(worker.kind == kind for worker in workers) for kind in kinds} == kinds
    assert len(workers) == sum(kinds.values())
    assert sum(worker.memory_bytes for worker in workers) <= 0.9 * memory_gib * GIB
    for worker in workers:
        need = max(LARGE.values()) if worker.kind is None else LARGE[worker.kind]
        assert worker.memory_bytes // worker.slots >= need
    assert [worker.gpu for worker in workers if worker.gpu is not None] == list(range(min(gpus, kinds.get("gpu", 1))))


def test_small_tasks_take_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 16, 128)
    assert len(fitting_workers({"cpu": GIB}, 0)) == 16
    assert [worker.kind for worker in fitting_workers({"gpu": GIB}, 2)] == ["gpu", "gpu"], "no CPU task is planned"
    assert {worker.kind for worker in fitting_workers({"cpu": GIB}, 2)} == {None}, "no GPU task is planned"


@pytest.mark.parametrize(("count", "gpus", "gpu_workers"), [(4, 8, 3), (4, 2, 2), (1, 2, 1), (12, 8, 8)])
def test_a_given_number_of_workers_has_a_cpu_worker(
    monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, gpu_workers: int
) -> None:
    give(monkeypatch, 16, 64)
    workers = fitting_workers(LARGE, gpus, count=count)
    assert len(workers) == count
    assert sum(worker.kind == "gpu" for worker in workers) == gpu_workers


def test_equal_workers_have_gpus_first(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 16, 40)
    assert [(worker.kind, worker.gpu) for worker in equal_workers(3, 1)] == [("gpu", 0), ("cpu", None), ("cpu", None)]
    assert {worker.memory_bytes for worker in equal_workers(4, 0)} == {9 * GIB}
    assert [worker.gpu for worker in equal_workers(2, 8)] == [0, 1]


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


# The files that Slurm, systemd and container engines make.
GROUPS = {
    "version 2, a batch job": (
        {
            "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0\n",
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/cpu.max": "100000 100000\n",
        },
        (GIB, 1),
    ),
    "version 2, a container": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{GIB // 2}\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        },
        (GIB // 2, 1),
    ),
    "version 1, a batch job": (
        {
            "proc/self/cgroup": "5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/x\n",
            "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000\n",
        },
        (GIB, 1),
    ),
    "version 1, the host's path in a container": (
        {
            "proc/self/cgroup": "5:memory:/docker/0123\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
        },
        (GIB, None),
    ),
    "no limit": (
        {
            "proc/self/cgroup": "0::/user.slice\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
        },
        (None, None),
    ),
    "no control groups": ({}, (None, None)),
}


@pytest.mark.parametrize(("files", "granted"), GROUPS.values(), ids=GROUPS.keys())
def test_limits_of_control_groups_count(
    tmp_path: Path, files: dict[str, str], granted: tuple[int | None, int | None]
) -> None:
    root, (memory, cores) = write(tmp_path, files), granted
    assert total_memory_bytes(root) == (memory or total_memory_bytes(str(tmp_path / "none")))
    assert usable_cores(root) == (cores or len(os.sched_getaffinity(0)))


def test_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
