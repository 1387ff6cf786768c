"""A few long jobs, one a worker at a time: for what is no stage of a tomogram, such as the folds of a cross-validation.

A job is a function of this package that takes a mapping and gives one, both JSON-able. A worker that dies takes its job
with it; the job is given to another one, twice. What a job has done lies in its own files, so little is lost.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from distributed import Client, wait
from distributed.scheduler import KilledWorker

from membrain_cloud.errors import TransientError
from membrain_cloud.pipeline.runners import dask_cluster as cluster
from membrain_cloud.pipeline.runners.host_resources import default_workers, total_memory_bytes

Job = Mapping[str, Any]
Work = Callable[[Job], dict[str, Any]]
ATTEMPTS = 3
LOOK_SECONDS = 2.0
WORKER_WAIT_SECONDS = 120.0
_Told = Callable[[int, dict[str, Any]], None]


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    done: _Told = lambda _index, _result: None,
) -> list[dict[str, Any]]:
    """The results of all jobs, in their order; `done` is told of each as it comes.

    workers : local processes (default: as many as fit, and as there are jobs).  scheduler : of a Dask cluster whose
    workers reach the same files.  Where any worker has a GPU, jobs go to those alone.

    Raises what a job raises, once the others that are running have ended; TransientError for a job that has lost its
    worker ATTEMPTS times.
    """
    if not jobs:
        return []
    if in_process:
        results = []
        for index, job in enumerate(jobs):
            results.append(work(job))
            done(index, results[-1])
        return results
    with _client(min(workers or default_workers(), len(jobs)), scheduler) as client:
        return _Farm(client, work, jobs, done).results()


class _Farm:
    """Jobs over workers: the queue, who is at what, and what has come back."""

    def __init__(self, client: Client, work: Work, jobs: Sequence[Job], done: _Told) -> None:
        self.client, self.work, self.jobs, self.done = client, work, jobs, done
        self.waiting = deque((index, 1) for index in range(len(jobs)))
        self.running: dict[Any, tuple[int, int, str]] = {}
        self.found: dict[int, dict[str, Any]] = {}
        self.failure: BaseException | None = None
        self.id = uuid.uuid4().hex[:12]

    def results(self) -> list[dict[str, Any]]:
        while self.running or (self.waiting and self.failure is None):
            self._hand_out()
            if not self.running:
                self._wait_for_a_worker()
                continue
            try:
                ended = wait(list(self.running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue  # and look whether a worker has come
            for future in ended:
                self._take(future)
        if self.failure is not None:
            raise self.failure
        return [self.found[index] for index in range(len(self.jobs))]

    def _wait_for_a_worker(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
        except TimeoutError:
            raise TransientError(
                f"no worker has come to {self.client.scheduler.address} in {WORKER_WAIT_SECONDS:g} s",
                "start workers there: dask worker ADDRESS --nthreads 1; what is finished is kept",
            ) from None

    def _hand_out(self) -> None:
        there = cluster.workers_of(self.client)
        for future, (index, attempt, address) in list(self.running.items()):
            # A worker that its nanny has started again has another address: the job would wait for the old one.
            if address not in there and not future.done():
                del self.running[future]
                future.cancel(force=True)
                self._lose(index, attempt)
        kinds = {facts.kind for facts in there.values()}
        able = [address for address, facts in there.items() if "gpu" not in kinds or facts.kind == "gpu"]
        busy = {address for _, _, address in self.running.values()}
        for address in sorted(set(able) - busy):
            if not self.waiting or self.failure is not None:
                return
            index, attempt = self.waiting.popleft()
            # Keys of their own: a second run on the same scheduler must not get the first one's results.
            key = f"membrain-cloud-job-{self.id}-{index}-{attempt}"
            future = self.client.submit(self.work, dict(self.jobs[index]), key=key, workers=[address], pure=False)
            self.running[future] = index, attempt, address

    def _take(self, future: Any) -> None:
        index, attempt, _ = self.running.pop(future)
        if future.status == "finished":
            self.found[index] = future.result()
            self.done(index, self.found[index])
            return
        error = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, KilledWorker):
            self._lose(index, attempt)
        else:
            self.failure = self.failure or error

    def _lose(self, index: int, attempt: int) -> None:
        """A job's worker has died: once more, or it is the job that kills workers."""
        if attempt < ATTEMPTS:
            self.waiting.append((index, attempt + 1))
            return
        self.failure = self.failure or TransientError(
            f"job {index + 1} of {len(self.jobs)} has lost its worker {ATTEMPTS} times",
            "give workers more memory, or take fewer; what is finished is kept",
        )


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    with ExitStack() as stack:
        if scheduler is not None:
            client = cluster.connect(scheduler)
        else:
            # Trainings have processes of their own that prepare patches: daemons may have none.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            stack.enter_context(cluster.local_configuration(workers))
            memory_bytes = int(total_memory_bytes() * 0.9) // workers
            own = cluster.local_cluster(workers, memory_bytes, cluster.gpu_count())
            stack.callback(_close, own)
            client = Client(own, set_as_default=False)
        stack.callback(_close, client)
        stack.enter_context(client.as_current())
        yield client


def _close(thing: Any) -> None:
    with cluster.quiet_dask():
        thing.close()
