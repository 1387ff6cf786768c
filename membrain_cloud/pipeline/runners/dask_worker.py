"""What executes on a Dask worker: tasks, one after the other within their time limits, and events to the driver.

The driver learns of each task's beginning and end from Dask events, which take the way of the worker's other messages.
A result would have to be fetched from the worker, with one request for each task, and would be lost with it.
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
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin, get_worker
from distributed.core import Status

from membrain_cloud.pipeline.execution.execute_task import Claim, execute_task
from membrain_cloud.pipeline.runners.host_resources import LIBRARY_THREADS, usable_cores
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Order, unpacked_registry
from membrain_cloud.pipeline.runners.worker_grace import grace_seconds
from membrain_cloud.store.volumes.files_store import limit_codec_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.pipeline.stages.base import Stage

_threads_limited = threading.Lock()


def work_bundle(content: bytes) -> dict[str, dict[str, Any]]:
    """Execute the tasks of a bundle one after the other, on the Dask worker that calls it.

    Tasks that have not begun when the worker shuts down, or when the driver no longer waits for the bundle, are left
    out.

    Parameters
    ----------
    content : bytes
        The bundle, as `Bundle.packed` returns it.

    Returns
    -------
    dict of str to dict
        Outcomes as dictionaries by token. The same are sent as events; these replace events that are lost.
    """
    worker, bundle, outcomes = get_worker(), Bundle.unpacked(content), {}
    key, registry, orders = worker.get_current_task(), unpacked_registry(bundle.registry), bundle.orders
    _limit_threads(bundle.neighbours)
    worker.log_event(bundle.topic, {"what": "began", "token": orders[0].token})
    for order, following in zip(orders, (*orders[1:], None), strict=True):
        outcome = _execute(worker, bundle, order, registry)
        outcomes[order.token] = outcome
        event = {"what": "ended", "token": order.token, "outcome": outcome}
        if following is None or not _is_wanted(worker, key):
            worker.log_event(bundle.topic, event)
            break
        worker.log_event(bundle.topic, event | {"next": following.token})
    return outcomes


def _execute(worker: Any, bundle: Bundle, order: Order, registry: Mapping[str, Stage]) -> dict[str, Any]:
    """Execute one task within its time limit and return its outcome as a dictionary."""
    claim = Claim(order.token, bundle.run_id, worker.address, take_over=order.take_over)
    limit_seconds = 3600 * order.task.job.limit("task_hours")
    overdue = {"what": "overdue", "token": order.token}
    with _TIME_LIMITS.limit(limit_seconds, lambda: worker.log_event(bundle.topic, overdue)):
        return execute_task(order.task, registry, claim=claim).as_dict()


def _is_wanted(worker: Any, key: Any) -> bool:
    """Return whether this worker stays and the driver still waits for the bundle that it executes."""
    task = worker.state.tasks.get(key)
    return worker not in _LEAVING and task is not None and task.state == "executing"


class _TimeLimits:
    """A thread that kills its process when a task exceeds its time: nothing else ends a thread that hangs.

    The worker's nanny starts another process.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._deadlines: dict[int, tuple[float, Callable[[], None]]] = {}
        self._number = 0
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float, report: Callable[[], None]) -> Iterator[None]:
        """Kill the process if this context takes longer than `seconds`; `report` is called just before."""
        deadline = time.monotonic() + seconds
        with self._change:
            self._number += 1
            number = self._number
            self._deadlines[number] = deadline, report
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="task limits", daemon=True)
                self._thread.start()
            elif deadline < self._wakes_at:
                self._change.notify()
        try:
            yield
        finally:
            with self._change:
                del self._deadlines[number]

    def _watch(self) -> None:
        with self._change:
            while True:
                now = time.monotonic()
                for deadline, report in self._deadlines.values():
                    if deadline <= now:
                        self._kill(report)
                # After the end of a task the thread wakes at its deadline once, for nothing.
                self._wakes_at = min((deadline for deadline, _ in self._deadlines.values()), default=math.inf)
                self._change.wait(None if math.isinf(self._wakes_at) else self._wakes_at - now)

    @staticmethod
    def _kill(report: Callable[[], None]) -> None:
        report()
        time.sleep(1.0)  # for the report to be sent
        os.kill(os.getpid(), signal.SIGKILL)


_TIME_LIMITS = _TimeLimits()
# Workers of this process that shut down by request.
_LEAVING: weakref.WeakSet[Any] = weakref.WeakSet()
# Topics of the runs that use a worker. A later run's plugin replaces an earlier one's, which has the same name.
_TOPICS: weakref.WeakKeyDictionary[Any, deque[str]] = weakref.WeakKeyDictionary()
_MAX_TOPICS = 16


def _limit_threads(neighbours: int) -> None:
    """Share the machine's cores with the other workers on it, unless OMP_NUM_THREADS is set. Acts once a process."""
    if "OMP_NUM_THREADS" in os.environ or not _threads_limited.acquire(blocking=False):
        return  # set from outside, or by an earlier task: the lock is never released
    threads = max(1, usable_cores() // max(1, neighbours))
    for name in LIBRARY_THREADS:
        os.environ.setdefault(name, str(threads))  # for libraries imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    limit_codec_threads(threads)


class LeaveNotice(WorkerPlugin):  # type: ignore[misc]  # distributed is not type-checked
    """A worker plugin that tells the driver when the worker shuts down by request, so that no crash is recorded.

    A worker process that gets SIGTERM without a handler then shuts down in order; `dask worker` has a handler.

    Parameters
    ----------
    topic : str
        Topic of the run's Dask events.
    """

    name = "membrain-cloud-attendance"

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def setup(self, worker: Any) -> None:
        """Add the run's topic to the worker's, and install the handler of SIGTERM where there is none.

        Parameters
        ----------
        worker : distributed.Worker
            The worker that the plugin is added to.
        """
        topics = _TOPICS.setdefault(worker, deque(maxlen=_MAX_TOPICS))
        if self.topic not in topics:
            topics.append(self.topic)
        on_main_thread = threading.current_thread() is threading.main_thread()
        if on_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(_close(worker)))

    async def teardown(self, worker: Any) -> None:
        """Send the notice and wait for the current task, unless another run's plugin only replaces this one.

        Parameters
        ----------
        worker : distributed.Worker
            The worker that closes, or whose plugin is replaced.
        """
        if worker.status in (Status.closing, Status.closing_gracefully):
            await _drain(worker)


async def _close(worker: Any) -> None:
    """Drain the worker and end its process."""
    await _drain(worker)
    os._exit(0)  # the nanny starts another; an orderly close would wait for the task's thread


async def _drain(worker: Any) -> None:
    """Tell all drivers that the worker leaves, and wait as long as it may for its current tasks."""
    _LEAVING.add(worker)
    for topic in _TOPICS.get(worker, ()):
        worker.log_event(topic, {"what": "leaving", "worker": worker.address})
    deadline = time.monotonic() + grace_seconds()
    while worker.state.executing_count and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)  # for the last events to be sent
