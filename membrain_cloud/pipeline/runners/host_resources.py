"""Resources of the machine that this process runs on, and the local workers that are made of them.

Counted is what this process may use: cores by its affinity and the CPU quota of its control group, memory by the limit
of its control group, at every level of the hierarchy (version 1 and 2). So a batch job takes what it was given.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from membrain_cloud.pipeline.tasks import Kind

# Least memory of a local worker, where there is enough.
LEAST_WORKER_BYTES = 3 * GIB
# Tasks of a GPU worker: while one computes, the next one reads ahead (stages/gpu_turn.py).
GPU_SLOTS = 2
# Environment variables that limit the threads of torch, BLAS and numba.
LIBRARY_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    # zarr's, which otherwise follow the cores of the machine: for codecs, and for what its event loop waits for.
    "ZARR_CODEC_PIPELINE__MAX_WORKERS",
    "ZARR_THREADING__MAX_WORKERS",
)
# Share of the memory that tasks may plan with; the rest is for the system and the driver.
_USABLE_MEMORY = 0.9


def usable_cores(root: str = "/") -> int:
    """Return the number of cores that this process may use: by its affinity and by CPU quotas of control groups.

    Parameters
    ----------
    root : str
        Folder with `proc` and `sys`. Default: the machine's.

    Returns
    -------
    int
        Number of cores, at least 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _control_groups(root, "cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, int(min([float(affinity), *quotas])))


def total_memory_bytes(root: str = "/") -> int:
    """Return the memory that this process may use: the machine's, or the limit of a control group where it is lower.

    Parameters
    ----------
    root : str
        Folder with `proc` and `sys`. Default: the machine's.

    Returns
    -------
    int
        Bytes.
    """
    limits = [
        limit
        for folder in _control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(folder / name)) is not None
    ]
    return min([int(psutil.virtual_memory().total), *limits])


def worker_memory_bytes(workers: int = 1) -> int:
    """Return the memory for each of a number of workers that share this machine.

    Parameters
    ----------
    workers : int
        Number of workers, at least 1. Default: one, which has all of it.

    Returns
    -------
    int
        Bytes for each worker: an equal share of 90 % of the memory.
    """
    return int(total_memory_bytes() * _USABLE_MEMORY) // workers


def default_workers() -> int:
    """Return the number of local workers that fit: one for each core and for each 3 GiB of memory, at least one."""
    return max(1, min(usable_cores(), total_memory_bytes() // LEAST_WORKER_BYTES))


@dataclass(frozen=True)
class LocalWorker:
    """A worker process of a local cluster.

    Attributes
    ----------
    kind : {"gpu", "cpu"} or None
        The tasks that it is for; None for all of them.
    memory_bytes : int
        Its memory limit.
    slots : int
        Number of tasks that it executes at the same time. Default: 1.
    gpu : int or None
        Number of its GPU among those that this process may use. Default: none.
    """

    kind: Kind | None
    memory_bytes: int
    slots: int = 1
    gpu: int | None = None


def equal_workers(count: int, gpus: int) -> list[LocalWorker]:
    """Return workers with equal shares of this machine's memory.

    Parameters
    ----------
    count : int
        Number of workers.
    gpus : int
        Number of GPUs: the first workers get one each, the others none.

    Returns
    -------
    list of LocalWorker
        The workers.
    """
    memory_bytes = worker_memory_bytes(count)
    if not gpus:
        return [LocalWorker(None, memory_bytes)] * count
    return [_gpu_worker(number, memory_bytes) for number in range(min(gpus, count))] + [
        LocalWorker("cpu", memory_bytes)
    ] * (count - gpus)


def fitting_workers(needs: Mapping[Kind, int], gpus: int, *, count: int | None = None) -> list[LocalWorker]:
    """Return the workers of this machine for a plan: every GPU, and as many CPU workers as cores and memory allow.

    Parameters
    ----------
    needs : mapping of {"gpu", "cpu"} to int
        Memory in bytes of the largest GPU task and of the largest CPU task; 0, or no entry, without such tasks.
    gpus : int
        Number of GPUs that this process may use.
    count : int, optional
        Number of workers. One of them is then a CPU worker, if there are CPU tasks and at least two. Default: as many
        as fit.

    Returns
    -------
    list of LocalWorker
        The workers, those with a GPU first. Together they have 90 % of the memory; each has enough for the largest task
        of its kind, unless `count` is too large for that.
    """
    usable, cores = worker_memory_bytes(), usable_cores()
    gpu_need, cpu_need = needs.get("gpu", 0), needs.get("cpu", 0)
    if not gpus or not gpu_need:
        need = max(gpu_need, cpu_need, min(LEAST_WORKER_BYTES, usable))
        workers = [LocalWorker(None, need)] * (count or max(1, min(cores, usable // need)))
        return _scaled(workers, usable)
    least = min(LEAST_WORKER_BYTES, usable // 4)
    gpu_need, cpu_need = max(gpu_need, least), max(cpu_need, least) if cpu_need else 0
    if count is not None:
        gpu_workers = max(1, min(gpus, count - bool(cpu_need)))
        workers = [_gpu_worker(number, GPU_SLOTS * gpu_need) for number in range(gpu_workers)]
        return _scaled(workers + [LocalWorker("cpu", cpu_need or least)] * (count - gpu_workers), usable)
    for number, slots in [(gpus, GPU_SLOTS), *((number, 1) for number in range(gpus, 0, -1))]:
        left = usable - number * slots * gpu_need
        if left >= cpu_need:
            workers = [_gpu_worker(index, slots * gpu_need, slots) for index in range(number)]
            n_cpu = min(max(1, cores - number), left // cpu_need) if cpu_need else 0
            return _scaled(workers + [LocalWorker("cpu", cpu_need)] * n_cpu, usable)
    return [LocalWorker(None, usable, gpu=0)]  # not enough for a GPU task beside a CPU task: one after the other


def _gpu_worker(number: int, memory_bytes: int, slots: int = GPU_SLOTS) -> LocalWorker:
    return LocalWorker("gpu", memory_bytes, slots, number)


def _scaled(workers: list[LocalWorker], usable_bytes: int) -> list[LocalWorker]:
    """Return the workers with their memory multiplied so that together they have what is usable."""
    wanted = sum(worker.memory_bytes for worker in workers)
    return [replace(worker, memory_bytes=worker.memory_bytes * usable_bytes // wanted) for worker in workers]


def _control_groups(root: str, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of all above it, of both versions."""
    try:
        lines = (Path(root) / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = Path(root) / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one hierarchy, version 1 one for each controller. In a container the path may be the host's.
        top = mounted / controllers if controllers else mounted
        if controllers and not top.exists():
            top = mounted / controller
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder == mounted.parent:
                break
            yield folder
            if folder == top:
                break


def _cpu_quota(folder: Path) -> float | None:
    """Return the number of cores that a control group grants; None where it has no quota."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        granted, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return granted / period_us if granted and period_us else None


def _number(file: Path) -> int | None:
    """Return the positive number in a file; None where there is none, such as "max" or -1."""
    try:
        number = int(file.read_text())
    except (OSError, ValueError):
        return None
    return number if number > 0 else None
