"""What happens on a Dask worker: one task, watched, with word to the driver when it begins and when it ends.

The driver hears of both by Dask's events, which take the way that a worker's messages take anyway; a result would have
to be fetched from the worker, one request a task, and would be lost with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dask.system import CPU_COUNT
from distributed import WorkerPlugin, get_worker

from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.run.machine import LIBRARY_THREADS
from membrain_cloud.pipeline.tasks import Task
from membrain_cloud.pipeline.work import Claim, work

# What a worker that was told to stop may still take to finish its task (a nanny kills it after 8 s).
DRAIN_SECONDS = 7.0
_threads_bound = threading.Lock()


def work_message(message: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Do the task of a message. Returns the outcome too, for the case that its event is lost."""
    worker, token, topic = get_worker(), message["token"], message["topic"]
    _bound_threads(message["neighbours"])
    worker.log_event(topic, {"what": "began", "token": token})
    claim = Claim(token, message["run_id"], worker.address, take_over=message["take_over"])
    with _watched(message["limit_seconds"], lambda: worker.log_event(topic, {"what": "overdue", "token": token})):
        outcome = work(Task.from_dict(message["task"]), registry, claim=claim).as_dict()
    worker.log_event(topic, {"what": "ended", "token": token, "outcome": outcome})
    return outcome


@contextmanager
def _watched(seconds: float, report: Any) -> Iterator[None]:
    """End the process when the task takes longer: nothing else stops a thread that hangs. A nanny starts another."""

    def end() -> None:
        report()
        time.sleep(1.0)  # the word is on its way
        os.kill(os.getpid(), signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _bound_threads(neighbours: int) -> None:
    """Share the machine's cores with the other workers on it, where nobody has said how (OMP_NUM_THREADS)."""
    if "OMP_NUM_THREADS" in os.environ or not _threads_bound.acquire(blocking=False):
        return  # said already, or done by an earlier task; the lock is never let go
    threads = max(1, CPU_COUNT // max(1, neighbours))
    for name in LIBRARY_THREADS:
        os.environ.setdefault(name, str(threads))  # for libraries that come later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


class Attendance(WorkerPlugin):
    """Tells the driver that a worker is leaving because it was told to, so that its task is not blamed for it.

    A worker process that gets SIGTERM by itself closes in order; under `dask worker`, Dask sees to that.
    """

    name = "membrain-cloud-attendance"

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def setup(self, worker: Any) -> None:
        self._worker = worker
        on_main_thread = threading.current_thread() is threading.main_thread()
        if on_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(_close(worker, self.topic)))

    async def teardown(self, worker: Any) -> None:
        await _drain(worker, self.topic)


async def _close(worker: Any, topic: str) -> None:
    await _drain(worker, topic)
    os._exit(0)  # the nanny starts another; an orderly close would wait for the thread


async def _drain(worker: Any, topic: str) -> None:
    worker.log_event(topic, {"what": "leaving", "worker": worker.address})
    deadline = time.monotonic() + DRAIN_SECONDS
    while worker.state.executing_count and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)  # for the last words
