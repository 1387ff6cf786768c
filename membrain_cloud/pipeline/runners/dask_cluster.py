"""Dask clusters: our own on this machine, or somebody's scheduler; and what their workers say of themselves."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import CommClosedError

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.runners.host_resources import LIBRARY_THREADS, total_memory_bytes
from membrain_cloud.pipeline.runners.worker_roster import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from membrain_cloud.pipeline.tasks import Kind

CONNECT_SECONDS = 20
# Tasks a GPU worker holds: while one computes, the next one reads ahead (pipeline/turns.py).
GPU_SLOTS = 2


# What Dask's processes keep of what has happened, in entries: of messages sent, of events, of transitions. Nobody here
# reads it, and it takes tens of MiB before it is full.
_SHORT_MEMORY = {"distributed.admin.low-level-log-length": 50}


class SchedulerLost(TransientError):
    """The scheduler does not answer any more."""


def gpu_count() -> int:
    """GPUs of this machine that torch may use."""
    import torch

    return torch.cuda.device_count()


def local_cluster(workers: int, memory_bytes: int, gpus: int) -> SpecCluster:
    """Processes on this machine: one worker a GPU, the others without. Call it under `local_configuration`."""
    common = {
        "memory_limit": memory_bytes,
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
        # Workers remember as usual: Dask's own report is made of it.
        "config": {"distributed.admin.low-level-log-length": 1000},
    }
    spec = {}
    for number in range(workers):
        holds = _holds(number, min(gpus, workers), workers)
        spec[number] = {"cls": Nanny, "options": {**common, **holds}}
    # Any free port for the dashboard: several runs on one machine do not meet.
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)


def _holds(number: int, gpus: int, workers: int) -> dict[str, Any]:
    if not gpus:
        return {"nthreads": 1}
    if number < gpus:
        env = {"CUDA_VISIBLE_DEVICES": _visible(number)}
        return {"nthreads": GPU_SLOTS, "resources": {"GPU": GPU_SLOTS}, "env": env}
    return {"nthreads": 1, "resources": {"CPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": ""}}


def _visible(number: int) -> str:
    """The name of the number-th of the devices that this process was given."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[number] if number < len(given) else str(number)


def local_configuration(workers: int) -> Any:
    """Dask's settings for our own cluster, as a context that is left at its end; each worker has its share of cores."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    settings = {
        # Long native calls may hold the GIL; a worker that is silent is not dead. The driver watches heartbeats itself.
        "distributed.scheduler.worker-ttl": None,
        # Workers hold no Dask data, so spilling or pausing would only stall them. At 95 % the nanny kills.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # Looking at itself costs each of Dask's processes 1 % of a core: less often will do for reports.
        "distributed.worker.profile.interval": "200ms",
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.admin.log-length": 1000,
        **_SHORT_MEMORY,
        "distributed.nanny.pre-spawn-environ": {name: str(threads) for name in LIBRARY_THREADS},
        "distributed.comm.timeouts.connect": "60s",
    }
    return dask.config.set(settings)


def connect(scheduler: str) -> Client:
    """A client of the scheduler at an address, by Dask's own configuration of TLS. Raises SchedulerLost."""
    try:
        with dask.config.set(_SHORT_MEMORY):
            return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        cause = f"no Dask scheduler answers at {scheduler} ({error})"
        raise SchedulerLost(cause, f"start them: `dask scheduler`, `dask worker {scheduler} --nthreads 1`") from None


def workers_of(client: Client) -> dict[str, Facts]:
    """Who is there. Raises SchedulerLost."""
    with scheduler_faults(client):
        told = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=30)["workers"]
    return {address: _facts(address, worker) for address, worker in told.items()}


def restart_worker(client: Client, address: str) -> None:
    """Have a worker's nanny kill it and start another, waiting for that for a minute at most.

    That the run ended meanwhile, or the scheduler was lost, is noticed elsewhere.
    """
    with suppress(SchedulerLost), scheduler_faults(client):
        client.restart_workers([address], timeout=60, raise_for_error=False)


def _facts(address: str, told: Mapping[str, Any]) -> Facts:
    """Resources say what a worker is for: GPU, CPU, or everything where it has neither."""
    resources = told.get("resources") or {}
    kind: Kind | None = "gpu" if resources.get("GPU") else "cpu" if resources.get("CPU") else None
    memory_bytes = int(told.get("memory_limit") or 0) or int(total_memory_bytes() * 0.9)
    slots = max(1, int(told.get("nthreads") or 1))
    return Facts(address, str(told["name"]), told.get("nanny"), kind, slots, memory_bytes, told.get("last_seen", 0.0))


@contextmanager
def performance_report(client: Client, file: str) -> Iterator[None]:
    """Dask's own report of what is done meanwhile, as an HTML page. Raises UsageError."""
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise UsageError("--dask-report needs the package bokeh", "pip install 'membrain_cloud[dashboard]'") from None
    from distributed import performance_report as report

    try:
        with client.as_current(), report(filename=file):
            yield
    except OSError as error:
        raise UsageError(f"--dask-report {file}: {error.strerror}", "give a file that can be written") from None


def host_of(address: str) -> str:
    return address.partition("://")[2].rpartition(":")[0]


@contextmanager
def scheduler_faults(client: Client) -> Iterator[None]:
    """Errors that mean that the scheduler is gone, as SchedulerLost."""
    from concurrent.futures import CancelledError

    where = client.scheduler.address if client.scheduler is not None else "its address"
    lost = (f"the Dask scheduler at {where} was lost", "run the same command again: finished tasks are kept")
    try:
        if client.status not in ("running", "connecting"):
            raise SchedulerLost(*lost)
        yield
    except (CommClosedError, CancelledError, TimeoutError, OSError, AttributeError) as error:
        if isinstance(error, AttributeError) and client.status == "running":
            raise
        raise SchedulerLost(*lost) from error
    except RuntimeError as error:
        if "closed" not in str(error).lower() and "not running" not in str(error).lower():
            raise
        raise SchedulerLost(*lost) from error


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Closing what is already dead may complain; nobody can act on it."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (CommClosedError, TimeoutError, OSError):
        pass
    finally:
        logger.setLevel(level)
