"""A pool of workers for a few long jobs that are no stage of a tomogram, such as the folds of a cross-validation.

A job is a function of this package that takes a mapping and returns one, both JSON-able. It keeps what it has done in
its own files. So the job of a worker that dies loses little when another worker starts it again, at most twice.
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
from membrain_cloud.pipeline.runners.host_resources import default_workers, equal_workers

Job = Mapping[str, Any]
Work = Callable[[Job], dict[str, Any]]
# Times that a job is started before its lost workers are attributed to it.
ATTEMPTS = 3
POLL_SECONDS = 2.0
WORKER_WAIT_SECONDS = 120.0
_OnResult = Callable[[int, dict[str, Any]], None]


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    done: _OnResult = lambda _index, _result: None,
) -> list[dict[str, Any]]:
    """Execute jobs, one on each worker at a time, and return their results.

    Parameters
    ----------
    work : callable
        The function to call with each job; workers import it.
    jobs : sequence of mapping
        The jobs.
    workers : int, optional
        Number of local processes. Default: as many as fit, and no more than jobs.
    scheduler : str, optional
        Address of a Dask scheduler whose workers reach the same files. Where any of them has a GPU, jobs go to those
        alone. Default: a local cluster.
    in_process : bool
        Whether to execute the jobs one after the other in this process. Default: no.
    done : callable, optional
        Called with the index and the result of each job when it has ended. Default: nothing.

    Returns
    -------
    list of dict
        The results, in the order of the jobs.

    Raises
    ------
    TransientError
        If a job has lost its worker `ATTEMPTS` times, no worker connects, or the scheduler does not answer.
    Exception
        The first error of a job, after the end of the other jobs that had begun.
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
        return _JobPool(client, work, jobs, done).results()


class _JobPool:
    """Jobs that wait, jobs that execute on a worker, and results."""

    def __init__(self, client: Client, work: Work, jobs: Sequence[Job], done: _OnResult) -> None:
        self._client, self._work, self._jobs, self._done = client, work, jobs, done
        # Index of the job and number of the attempt; of running jobs also the worker's address.
        self._waiting = deque((index, 1) for index in range(len(jobs)))
        self._running: dict[Any, tuple[int, int, str]] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._failure: BaseException | None = None
        self._id = uuid.uuid4().hex[:12]

    def results(self) -> list[dict[str, Any]]:
        """Execute all jobs and return their results; raise the first failure once no job runs any more."""
        while self._running or (self._waiting and self._failure is None):
            self._assign()
            if not self._running:
                self._wait_for_a_worker()
                continue
            try:
                ended = wait(list(self._running), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue  # a worker may have connected meanwhile
            for future in ended:
                self._end(future)
        if self._failure is not None:
            raise self._failure
        return [self._results[index] for index in range(len(self._jobs))]

    def _wait_for_a_worker(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=WORKER_WAIT_SECONDS)
        except TimeoutError:
            raise TransientError(
                f"no worker has connected to {self._client.scheduler.address} in {WORKER_WAIT_SECONDS:g} s",
                f"{cluster.WORKER_COMMAND.format(self._client.scheduler.address)}; finished jobs are kept",
            ) from None

    def _assign(self) -> None:
        """Take jobs back from workers that are gone, and give each idle worker a job."""
        connected = cluster.workers_of(self._client)
        for future, (index, attempt, address) in list(self._running.items()):
            # A worker that its nanny has started again has another address: the job would wait for the old one.
            if address not in connected and not future.done():
                del self._running[future]
                future.cancel(force=True)
                self._retry(index, attempt)
        kinds = {facts.kind for facts in connected.values()}
        able = [address for address, facts in connected.items() if "gpu" not in kinds or facts.kind == "gpu"]
        busy = {address for _, _, address in self._running.values()}
        for address in sorted(set(able) - busy):
            if not self._waiting or self._failure is not None:
                return
            index, attempt = self._waiting.popleft()
            # Keys of their own: a second run on the same scheduler must not get the first one's results.
            key = f"membrain-cloud-job-{self._id}-{index}-{attempt}"
            future = self._client.submit(self._work, dict(self._jobs[index]), key=key, workers=[address], pure=False)
            self._running[future] = index, attempt, address

    def _end(self, future: Any) -> None:
        index, attempt, _ = self._running.pop(future)
        if future.status == "finished":
            self._results[index] = future.result()
            self._done(index, self._results[index])
            return
        error = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, KilledWorker):
            self._retry(index, attempt)
        else:
            self._failure = self._failure or error

    def _retry(self, index: int, attempt: int) -> None:
        """Put the job of a lost worker back in the queue, or fail if it has lost too many."""
        if attempt < ATTEMPTS:
            self._waiting.append((index, attempt + 1))
            return
        self._failure = self._failure or TransientError(
            f"job {index + 1} of {len(self._jobs)} has lost its worker {ATTEMPTS} times",
            "give workers more memory, or take fewer; finished jobs are kept",
        )


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    """Open a client of the scheduler, or of a local cluster, as the current one, and close it at the end."""
    with ExitStack() as stack:
        if scheduler is not None:
            client = cluster.connect(scheduler)
        else:
            # Trainings start processes that prepare patches, which daemons may not.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            stack.enter_context(cluster.local_configuration(workers))
            local = cluster.local_cluster(equal_workers(workers, cluster.gpu_count()))
            stack.callback(_close, local)
            client = Client(local, set_as_default=False)
        stack.callback(_close, client)
        stack.enter_context(client.as_current())
        yield client


def _close(resource: Any) -> None:
    with cluster.quiet_dask():
        resource.close()
