"""What happens on a Dask worker: task by task, watched, with word to the driver when each begins and when it ends.

The driver hears of both by Dask's events, which take the way that a worker's messages take anyway; a result would have
to be fetched from the worker, one request a task, and would be lost with it.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask.system import CPU_COUNT
from distributed import WorkerPlugin, get_worker

from membrain_cloud.pipeline.execution.execute_task import Claim, execute_task
from membrain_cloud.pipeline.runners.host_resources import LIBRARY_THREADS
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Order, unpacked_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.pipeline.stages.base import Stage

# What a worker that was told to stop may still take to finish its task (a nanny kills it after 8 s).
DRAIN_SECONDS = 7.0
_threads_bound = threading.Lock()


def work_bundle(content: bytes) -> dict[str, dict[str, Any]]:
    """Do the tasks of a bundle, one after the other. Returns outcomes by token, for the case that an event is lost.

    What has not begun when the worker is told to go, or when nobody waits for the bundle any more, is left undone.
    """
    worker, bundle, outcomes = get_worker(), Bundle.unpacked(content), {}
    key, registry, orders = worker.get_current_task(), unpacked_registry(bundle.registry), bundle.orders
    _bound_threads(bundle.neighbours)
    worker.log_event(bundle.topic, {"what": "began", "token": orders[0].token})
    for order, following in zip(orders, (*orders[1:], None), strict=True):
        outcome = _done(worker, bundle, order, registry)
        outcomes[order.token] = outcome
        word = {"what": "ended", "token": order.token, "outcome": outcome}
        if following is None or not _is_wanted(worker, key):
            worker.log_event(bundle.topic, word)
            break
        worker.log_event(bundle.topic, word | {"next": following.token})
    return outcomes


def _done(worker: Any, bundle: Bundle, order: Order, registry: Mapping[str, Stage]) -> dict[str, Any]:
    claim = Claim(order.token, bundle.run_id, worker.address, take_over=order.take_over)
    limit_seconds = 3600 * order.task.job.limit("task_hours")
    overdue = {"what": "overdue", "token": order.token}
    with _WATCH.over(limit_seconds, lambda: worker.log_event(bundle.topic, overdue)):
        return execute_task(order.task, registry, claim=claim).as_dict()


def _is_wanted(worker: Any, key: Any) -> bool:
    """Whether this worker stays, and the driver still waits for what it does."""
    task = worker.state.tasks.get(key)
    return worker not in _LEAVING and task is not None and task.state == "executing"


class _Watch:
    """One thread a process that ends it when a task takes longer than it may: nothing else stops a thread that hangs.

    A nanny starts another process.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._due: dict[int, tuple[float, Callable[[], None]]] = {}
        self._number = 0
        self._wakes = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, seconds: float, report: Callable[[], None]) -> Iterator[None]:
        """Watch over what is done in this context; `report` is called before the end."""
        due = time.monotonic() + seconds
        with self._change:
            self._number += 1
            number = self._number
            self._due[number] = due, report
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="task limits", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._change.notify()
        try:
            yield
        finally:
            with self._change:
                del self._due[number]

    def _watch(self) -> None:
        with self._change:
            while True:
                now = time.monotonic()
                for due, report in self._due.values():
                    if due <= now:
                        self._end(report)
                # A task that is over leaves its time behind: then it wakes for nothing, once.
                self._wakes = min((due for due, _ in self._due.values()), default=math.inf)
                self._change.wait(None if math.isinf(self._wakes) else self._wakes - now)

    @staticmethod
    def _end(report: Callable[[], None]) -> None:
        report()
        time.sleep(1.0)  # the word is on its way
        os.kill(os.getpid(), signal.SIGKILL)


_WATCH = _Watch()
# Workers (of this process) that were told to go.
_LEAVING: weakref.WeakSet[Any] = weakref.WeakSet()


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
    _LEAVING.add(worker)
    worker.log_event(topic, {"what": "leaving", "worker": worker.address})
    deadline = time.monotonic() + DRAIN_SECONDS
    while worker.state.executing_count and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)  # for the last words
