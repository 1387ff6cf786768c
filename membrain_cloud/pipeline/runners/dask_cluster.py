"""Dask clusters: a local one of this process, or one whose scheduler has an address; their workers and their faults."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import CommClosedError

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.runners.host_resources import LIBRARY_THREADS, usable_cores, worker_memory_bytes
from membrain_cloud.pipeline.runners.worker_state import WorkerFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from membrain_cloud.pipeline.runners.host_resources import LocalWorker
    from membrain_cloud.pipeline.tasks import Kind

CONNECT_SECONDS = 20
# How to start a worker of a scheduler. Without a limit Dask takes the share of the memory that its threads are of the
# machine's cores.
WORKER_COMMAND = "start some: `dask worker {} --nthreads 1 --memory-limit 12GiB`"
# Entries that Dask's processes keep of messages, events and transitions: nothing reads them, and they take tens of MiB.
_SHORT_LOGS = {"distributed.admin.low-level-log-length": 50}


class SchedulerLost(TransientError):
    """The Dask scheduler does not answer (any more)."""


def gpu_count() -> int:
    """Return the number of this machine's GPUs that torch may use."""
    import torch

    return torch.cuda.device_count()


def local_cluster(workers: Sequence[LocalWorker]) -> SpecCluster:
    """Start a cluster of processes on this machine, within the context of `local_configuration`.

    Parameters
    ----------
    workers : sequence of LocalWorker
        The worker processes. A nanny ends its worker at 95 % of the memory limit.

    Returns
    -------
    distributed.SpecCluster
        The running cluster; the caller closes it.
    """
    common = {
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
        # Workers keep logs of the usual length: Dask's own report is made of them.
        "config": {"distributed.admin.low-level-log-length": 1000},
    }
    hides_gpus = any(worker.gpu is not None for worker in workers)
    spec = {
        number: {"cls": Nanny, "options": {**common, **_worker_options(worker, hides_gpus=hides_gpus)}}
        for number, worker in enumerate(workers)
    }
    # Any free port for the dashboard: several runs on one machine do not collide.
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)


def _worker_options(worker: LocalWorker, *, hides_gpus: bool) -> dict[str, Any]:
    """Return a local worker's memory limit, slots, resources and environment, as Nanny takes them."""
    options: dict[str, Any] = {"memory_limit": worker.memory_bytes, "nthreads": worker.slots}
    if worker.kind is not None:
        options["resources"] = {worker.kind.upper(): worker.slots}
    if hides_gpus:
        options["env"] = {"CUDA_VISIBLE_DEVICES": "" if worker.gpu is None else _device_name(worker.gpu)}
    return options


def _device_name(number: int) -> str:
    """Return the name of a GPU by its number among those visible to this process."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[number] if number < len(visible) else str(number)


def local_configuration(workers: int) -> AbstractContextManager[Any]:
    """Return a context with Dask's configuration for a local cluster.

    Parameters
    ----------
    workers : int
        Number of workers, among which the cores are divided.

    Returns
    -------
    context manager
        The configuration is in effect from this call, and until the context is left.
    """
    threads = max(1, usable_cores() // workers)
    configuration = {
        # Long native calls may hold the GIL: a silent worker is not dead. The driver watches heartbeats itself.
        "distributed.scheduler.worker-ttl": None,
        # Workers hold no Dask data, so spilling or pausing would only stall them. At 95 % the nanny ends them.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # Dask's own profiling costs each process 1 % of a core at the usual intervals; these do for reports.
        "distributed.worker.profile.interval": "200ms",
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.admin.log-length": 1000,
        **_SHORT_LOGS,
        "distributed.nanny.pre-spawn-environ": {name: str(threads) for name in LIBRARY_THREADS},
        "distributed.comm.timeouts.connect": "60s",
    }
    context: AbstractContextManager[Any] = dask.config.set(configuration)
    return context


def connect(scheduler: str) -> Client:
    """Connect to a scheduler, with TLS where Dask's configuration says so.

    Parameters
    ----------
    scheduler : str
        Address of the scheduler, e.g. ``tcp://10.0.0.1:8786``.

    Returns
    -------
    distributed.Client
        The connected client; the caller closes it.

    Raises
    ------
    SchedulerLost
        If no scheduler answers there within 20 s.
    """
    try:
        with dask.config.set(_SHORT_LOGS):
            return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        cause = f"no Dask scheduler answers at {scheduler} ({error})"
        next_step = f"start one: `dask scheduler`; {WORKER_COMMAND.format(scheduler)}"
        raise SchedulerLost(cause, next_step) from None


def workers_of(client: Client) -> dict[str, WorkerFacts]:
    """Return the scheduler's workers by address.

    Parameters
    ----------
    client : distributed.Client
        A connected client.

    Returns
    -------
    dict of str to WorkerFacts
        What each worker reports of itself.

    Raises
    ------
    SchedulerLost
        If the scheduler does not answer within 30 s.
    """
    with scheduler_faults(client):
        identities = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=30)["workers"]
    return {address: _facts(address, identity) for address, identity in identities.items()}


def _facts(address: str, identity: Mapping[str, Any]) -> WorkerFacts:
    """Return the facts of a worker; its Dask resources GPU or CPU name its kind, without either it takes all tasks."""
    resources = identity.get("resources") or {}
    kind: Kind | None = "gpu" if resources.get("GPU") else "cpu" if resources.get("CPU") else None
    return WorkerFacts(
        address=address,
        name=str(identity["name"]),
        nanny=identity.get("nanny"),
        kind=kind,
        slots=max(1, int(identity.get("nthreads") or 1)),
        memory_bytes=int(identity.get("memory_limit") or 0) or worker_memory_bytes(),
        last_seen=identity.get("last_seen", 0.0),
    )


def restart_worker(client: Client, address: str) -> None:
    """Have a worker's nanny end it and start another, and wait for that for up to a minute.

    Errors are ignored: the end of the run or the loss of the scheduler is noticed elsewhere.

    Parameters
    ----------
    client : distributed.Client
        A connected client.
    address : str
        Address of the worker.
    """
    with suppress(SchedulerLost), scheduler_faults(client):
        client.restart_workers([address], timeout=60, raise_for_error=False)


@contextmanager
def performance_report(client: Client, file: str) -> Iterator[None]:
    """Write Dask's performance report of what executes within this context.

    Parameters
    ----------
    client : distributed.Client
        The client whose scheduler is reported on.
    file : str
        Path of the HTML page to write.

    Raises
    ------
    UsageError
        If bokeh is not installed or the file cannot be written.
    """
    try:
        import bokeh  # noqa: F401  (an early answer: Dask imports it at the end only)
    except ImportError:
        raise UsageError("Dask's report needs the package bokeh", "pip install 'membrain_cloud[dashboard]'") from None
    from distributed import performance_report as report

    try:
        with client.as_current(), report(filename=file):
            yield
    except OSError as error:
        raise UsageError(f"Dask's report {file}: {error.strerror}", "choose a file that can be written") from None


@contextmanager
def scheduler_faults(client: Client) -> Iterator[None]:
    """Raise SchedulerLost for errors within this context which mean that the scheduler is gone.

    Parameters
    ----------
    client : distributed.Client
        The client that is used within the context.
    """
    from concurrent.futures import CancelledError

    address = client.scheduler.address if client.scheduler is not None else "its address"
    message = (f"the Dask scheduler at {address} was lost", "run the same command again: finished tasks are kept")
    try:
        if client.status not in ("running", "connecting"):
            raise SchedulerLost(*message)
        yield
    except (CommClosedError, CancelledError, TimeoutError, OSError, AttributeError) as error:
        if isinstance(error, AttributeError) and client.status == "running":
            raise
        raise SchedulerLost(*message) from error
    except RuntimeError as error:
        if "closed" not in str(error).lower() and "not running" not in str(error).lower():
            raise
        raise SchedulerLost(*message) from error


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Silence Dask's log and its connection errors, for closing what may be dead already."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (CommClosedError, TimeoutError, OSError):
        pass
    finally:
        logger.setLevel(level)
