"""Where tasks are done: in this process, or on a Dask cluster. The only module that knows Dask.

Dask carries Tasks and Outcomes as dictionaries, never a voxel. The driver (drive.py) holds the graph and keeps few
tasks in flight, so the scheduler holds nothing that the store does not know.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.drive import Runner
from membrain_cloud.pipeline.stage import GIB
from membrain_cloud.pipeline.tasks import Outcome, Task
from membrain_cloud.pipeline.work import work

# A worker that dies takes one task with it (one thread, nothing queued on workers); so many deaths a task is allowed.
WORKER_DEATHS = 3
CONNECT_SECONDS = 20
WORKER_WAIT_SECONDS = 120
LEAST_WORKER_BYTES = 3 * GIB


class InProcess:
    """One task after the other, here."""

    def __init__(self) -> None:
        self.memory_bytes = int(total_memory_bytes() * 0.9)
        self._task: tuple[Task, Registry] | None = None

    def room(self) -> int:
        return 0 if self._task else 1

    def start(self, task: Task, registry: Registry) -> None:
        self._task = (task, registry)

    def finished(self) -> list[Outcome]:
        if self._task is None:
            return []
        (task, registry), self._task = self._task, None
        return [work(task, registry)]

    def close(self) -> None:
        pass


class OnDask:
    """Tasks on a Dask cluster: a local one of `workers` processes with one thread each, or the one at `scheduler`."""

    def __init__(self, *, workers: int = 0, scheduler: str | None = None) -> None:
        self.workers, self.scheduler = workers, scheduler
        self._id = uuid.uuid4().hex[:8]
        self._client: Any = None
        self._cluster: Any = None
        self._completed: Any = None
        self._tasks: dict[str, Task] = {}
        self._settings: Any = None
        if scheduler is None:
            self.memory_bytes = int(total_memory_bytes() * 0.9) // workers
        else:
            self._connect(scheduler)
            self.memory_bytes = self._least_memory()

    def room(self) -> int:
        """At most two tasks a worker are in flight: one at work, one on its way."""
        return 2 * max(1, self._threads()) - len(self._tasks)

    def start(self, task: Task, registry: Registry) -> None:
        if self._client is None:
            self._start_cluster()
        key = f"{task.key}-{self._id}"
        self._tasks[key] = task
        with _scheduler_faults(self.scheduler):
            future = self._client.submit(work_dict, task.as_dict(), registry, key=key, pure=False, retries=0)
            self._completed.add(future)

    def finished(self) -> list[Outcome]:
        with _scheduler_faults(self.scheduler):
            batch = [next(self._completed)]
            while self._completed.queue.qsize():
                batch.append(next(self._completed))
            return [self._outcome(future) for future in batch]

    def _outcome(self, future: Any) -> Outcome:
        from distributed import KilledWorker

        task = self._tasks.pop(future.key)
        if future.cancelled():
            raise TransientError(*_lost(self.scheduler))
        error = future.exception()
        if error is None:
            return Outcome.from_dict(future.result())
        message, cure = f"{type(error).__name__}: {error}", "this is a bug: please report it"
        if isinstance(error, KilledWorker):
            message = f"its worker died {error.allowed_failures + 1} times, most likely out of memory"
            cure = "take fewer workers, so that each has more memory, then run again"
        return Outcome(task.stage, task.run, task.part, "failed", message, cure)

    def close(self) -> None:
        for thing in (self._client, self._cluster):
            if thing is not None:
                with _quiet_dask():
                    thing.close()
        if self._settings is not None:
            self._settings.__exit__(None, None, None)
        self._client = self._cluster = self._settings = None

    def _start_cluster(self) -> None:
        import dask
        from distributed import Client, LocalCluster

        threads = max(1, (os.cpu_count() or 1) // self.workers)
        self._settings = dask.config.set(local_configuration(threads))
        self._cluster = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=self.memory_bytes,
            dashboard_address="127.0.0.1:0",  # any free port: several runs on one machine do not meet
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        )
        self._client = Client(self._cluster, set_as_default=False)
        self._begin()

    def _connect(self, scheduler: str) -> None:
        from distributed import Client

        try:
            self._client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
            self._client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
        except (OSError, ValueError) as error:
            self.close()
            cause = f"no Dask scheduler answers at {scheduler}, or it has no worker ({error})"
            raise UsageError(cause, f"start them: `dask scheduler`, `dask worker {scheduler} --nthreads 1`") from None
        self._begin()

    def _begin(self) -> None:
        from distributed import as_completed

        self._completed = as_completed(loop=self._client.loop)

    def _threads(self) -> int:
        if self._client is None:
            return self.workers
        with _scheduler_faults(self.scheduler):
            return sum(self._client.nthreads().values())

    def _least_memory(self) -> int:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return int(min(limits)) if limits else int(total_memory_bytes() * 0.9)


def local_configuration(threads: int) -> dict[str, Any]:
    """Dask's settings for our own cluster. `threads` is how many a worker's libraries may use."""
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {
        # Nothing is queued on a worker, so a dying worker is blamed on the one task it was doing.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": WORKER_DEATHS - 1,
        # Long native calls may hold the GIL; a worker that is silent is not dead.
        "distributed.scheduler.worker-ttl": None,
        # Workers hold no Dask data, so spilling or pausing would only stall them. At 95 % the nanny kills.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.nanny.pre-spawn-environ": environment | {"NUMBA_NUM_THREADS": str(threads)},
        "distributed.comm.timeouts.connect": "60s",
    }


def work_dict(task: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """What a Dask worker is asked to do."""
    return work(Task.from_dict(task), registry).as_dict()


def total_memory_bytes() -> int:
    """Memory this process may use: the machine's, or less where a container's limit says so."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT or psutil.virtual_memory().total)


def default_workers() -> int:
    """As many local workers as there are cores and memory for."""
    return max(1, min(os.cpu_count() or 1, total_memory_bytes() // LEAST_WORKER_BYTES))


@contextmanager
def open_runner(*, workers: int | None, scheduler: str | None, in_process: bool) -> Iterator[Runner]:
    """The runner people asked for: in process, local workers (as many as fit, without a number) or a scheduler."""
    if sum((workers is not None, scheduler is not None, in_process)) > 1:
        raise UsageError("--workers, --scheduler and --in-process exclude each other", "give one of them")
    runner: Runner
    if in_process:
        runner = InProcess()
    elif scheduler is not None:
        runner = OnDask(scheduler=scheduler)
    else:
        runner = OnDask(workers=workers or default_workers())
    try:
        yield runner
    finally:
        runner.close()


def _lost(scheduler: str | None) -> tuple[str, str]:
    where = f"the Dask scheduler at {scheduler}" if scheduler else "the local Dask scheduler"
    return f"{where} was lost", "run the same command again: finished tasks are kept"


@contextmanager
def _scheduler_faults(scheduler: str | None) -> Iterator[None]:
    """Errors that mean that the scheduler is gone."""
    from concurrent.futures import CancelledError

    from distributed.comm import CommClosedError

    try:
        yield
    except (CommClosedError, CancelledError, TimeoutError, OSError) as error:
        raise TransientError(*_lost(scheduler)) from error
    except RuntimeError as error:
        if "closed" not in str(error).lower() and "not running" not in str(error).lower():
            raise
        raise TransientError(*_lost(scheduler)) from error


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Closing what is already dead may complain; nobody can act on it."""
    from distributed.comm import CommClosedError

    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (CommClosedError, TimeoutError, OSError):
        pass
    finally:
        logger.setLevel(level)
