"""The runner on a Dask cluster: every task to one worker by name, few in flight, nothing forgotten.

Dask carries Tasks and OutcomeStore, never a voxel. The driver (drive.py) holds the graph, this runner knows
who works on what (roster.py), and the store what is done: so a scheduler or a worker may die at any moment, and costs
no more than the tasks that were in flight there.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections import Counter
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import TransientError
from membrain_cloud.pipeline.execution.crash_records import Cause, CrashRecords
from membrain_cloud.pipeline.execution.driver import KINDS, Observer
from membrain_cloud.pipeline.runners import dask_cluster as cluster
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.dask_worker import Attendance, work_bundle
from membrain_cloud.pipeline.runners.host_resources import total_memory_bytes
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Outbox, packed_registry
from membrain_cloud.pipeline.runners.worker_roster import Death, Facts, Roster, Seat, Worker
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task, timeout_outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.kubernetes_scaling import Scaler

WORKER_WAIT_SECONDS = 120.0
# A first worker may need a new machine, and that an image.
SCALE_WAIT_SECONDS = 1800.0
COUNT_SECONDS = 0.5
# Between two looks at who is there (news of workers that come and go is looked at once).
LOOK_SECONDS = 2.0
RECONNECT_SECONDS = 900.0
# A worker ends itself when its task's time is up. So long after, it is ended from here.
OVERDUE_SECONDS = 60.0


class DaskRunner:
    """Tasks on a local cluster of `workers` processes, or on the one whose scheduler is at `scheduler`.

    scaler : of worker groups on Kubernetes; their workers may not be there yet, and are none at the end.
    """

    def __init__(
        self,
        *,
        workers: int = 0,
        scheduler: str | None = None,
        scaler: Scaler | None = None,
    ) -> None:
        self.workers, self.scheduler = workers, scheduler
        self.bind(CrashRecords(None), lambda *_: None)
        self.deaths = 0
        self._id = uuid.uuid4().hex[:12]
        self._sent = 0
        self._client: Any = None
        self._cluster: Any = None
        self._settings: Any = None
        self._registry: tuple[Registry, bytes] = ({}, b"")
        self._outbox = Outbox()
        self._roster = Roster(() if scaler is None else scaler.kinds)
        self._scaler = scaler
        self._futures: dict[str, Any] = {}
        self._kinds: dict[str, Kind] = {}
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._outcomes: list[Outcome] = []
        self._again: list[tuple[Task, Kind, bool, str]] = []
        self._looked, self._lost_since = -LOOK_SECONDS, 0.0
        self._gone: dict[str, float] = {}
        self._counted, self._gpu_worker_seconds = 0.0, 0.0
        self._snapshot: Mapping[str, Any] = {
            **{name: dict.fromkeys(KINDS, 0) for name in ("workers", "in_flight", "pending")},
            "deaths": 0,
            "gpu_worker_seconds": 0.0,
        }
        self._restarting: dict[str, float] = {}
        if scheduler is None:
            self.memory_bytes = int(total_memory_bytes() * 0.9) // workers
        else:
            self._open()
            if scaler is not None:
                scaler.start()
            there = self._wait_for_workers(WORKER_WAIT_SECONDS if scaler is None else SCALE_WAIT_SECONDS)
            self.memory_bytes = min(facts.memory_bytes for facts in there.values())

    # -- what run_tasks() asks for

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        self.attempts, self.note = attempts, note

    def now(self) -> float:
        return time.monotonic()

    def has_slot(self, task: Task, kind: Kind) -> bool:
        if self._client is None:
            if self._lost_since:
                return False
            self._open()
        return self._roster.choose(kind, task.stage, self.now()) is not None

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        if self._registry[0] is not registry:
            self._registry = registry, packed_registry(registry)
        worker = self._roster.choose(kind, task.stage, self.now())
        if worker is None:  # it left since `has_slot` looked
            self._again.append((task, kind, False, take_over))
        else:
            self._send(worker, task, kind, take_over=take_over)

    def finished(self, seconds: float) -> list[Outcome]:
        if self._client is None:
            self._reopen(seconds)
        try:
            if self._client is not None:
                self._post()
                self._hear(0.0 if self._outcomes else seconds)
                if self.now() - self._looked >= LOOK_SECONDS:
                    self._look()
                self._judge()
                self._send_again()
                self._post()
        except SchedulerLost:
            self._lose_scheduler()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        if self._scaler is not None:
            self._scaler.end()
        if self._client is not None and self._client.status == "running":
            for topic in (self._topic, "all"):
                self._client.unsubscribe_topic(topic)
        for thing in (self._client, self._cluster):
            if thing is not None:
                with cluster.quiet_dask():
                    thing.close()
        if self._settings is not None:
            self._settings.__exit__(None, None, None)
        self._client = self._cluster = self._settings = None

    # -- what people are shown, and what workers follow

    def backlog(self, ready: Mapping[Kind, int]) -> None:
        """Called often: what is shown and scaled is worked out anew every half second."""
        self._roster.backlog(ready)
        now = self.now()
        if now - self._counted < COUNT_SECONDS:
            return
        in_flight = Counter(self._kinds[seat.task.key] for seat in self._roster.seats())
        waiting = Counter(kind for _, kind, _, _ in self._again)
        gpu_workers = self._roster.count("gpu")
        self._gpu_worker_seconds += gpu_workers * (now - self._counted) if self._counted else 0.0
        self._counted = now
        self._snapshot = {
            "workers": {kind: self._roster.count(kind) for kind in KINDS},
            "in_flight": {kind: in_flight[kind] for kind in KINDS},
            "pending": {kind: ready[kind] + waiting[kind] for kind in KINDS},
            "deaths": self.deaths,
            "gpu_worker_seconds": self._gpu_worker_seconds,
        }
        if self._scaler is not None:
            tasks = {kind: ready[kind] + waiting[kind] + in_flight[kind] for kind in KINDS}
            self._scaler.follow(tasks, {kind: self._roster.slots(kind) for kind in KINDS}, now)

    def snapshot(self) -> Mapping[str, Any]:
        return self._snapshot

    def report(self, file: str) -> AbstractContextManager[Any]:
        if self._client is None:
            self._open()
        return cluster.performance_report(self._client, file)

    # -- the cluster

    def _open(self) -> None:
        if self.scheduler is None:
            from distributed import Client

            self._settings = self._settings or cluster.local_configuration(self.workers)
            self._cluster = cluster.local_cluster(self.workers, self.memory_bytes, cluster.gpu_count())
            self._client = Client(self._cluster, set_as_default=False)
        else:
            self._client = cluster.connect(self.scheduler)
        topic = self._topic
        self._client.subscribe_topic(topic, lambda event: self._news.put(("word", event[1])))
        self._client.subscribe_topic("all", self._hear_of_workers)
        with cluster.scheduler_faults(self._client):
            self._client.register_plugin(Attendance(topic))
        self._look()

    @property
    def _topic(self) -> str:
        return f"membrain-cloud-{self._id}"

    def _hear_of_workers(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") in ("add-worker", "remove-worker"):
            self._news.put(("workers", None))

    def _wait_for_workers(self, seconds: float) -> dict[str, Facts]:
        deadline = self.now() + seconds
        while not (there := cluster.workers_of(self._client)):
            if self.now() > deadline:
                self.close()
                cause = f"the Dask scheduler at {self.scheduler} has no worker"
                raise TransientError(cause, f"start some: `dask worker {self.scheduler} --nthreads 1`")
            time.sleep(0.5)
        self._look()
        return there

    def _lose_scheduler(self) -> None:
        """Everything in flight is given back; nobody is blamed. A worker that lives on keeps its lease."""
        self._lost_since = self._lost_since or self.now()
        for thing in (self._client, self._cluster):
            if thing is not None:
                with cluster.quiet_dask():
                    thing.close(timeout=2)
        self._client = self._cluster = None
        self._futures.clear()
        self._outbox.clear()
        for seat in self._roster.drop_all():
            self._give_back(seat, "scheduler_lost")

    def _reopen(self, seconds: float) -> None:
        if self._lost_since and self.now() - self._lost_since > RECONNECT_SECONDS:
            where = f"the Dask scheduler at {self.scheduler}" if self.scheduler else "the local Dask scheduler"
            raise SchedulerLost(f"{where} was lost", "run the same command again: finished tasks are kept")
        if not self._lost_since:
            time.sleep(seconds)  # nothing has been started yet
            return
        try:
            self._open()
        except SchedulerLost:  # not there yet
            self._lose_scheduler()
            time.sleep(seconds)
            return
        self._lost_since = 0.0

    # -- news

    def _hear(self, seconds: float) -> None:
        """Wait for news, then take all there is."""
        news: list[tuple[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            news.append(self._news.get(timeout=seconds) if seconds > 0 else self._news.get_nowait())
            while True:
                news.append(self._news.get_nowait())
        for what, content in news:
            if what == "workers":
                self._looked = -LOOK_SECONDS
            elif what == "word":
                self._hear_word(content)
            else:
                self._hear_future(content)

    def _hear_word(self, word: dict[str, Any]) -> None:
        token = word.get("token", "")
        if word["what"] == "began":
            self._roster.started(token, self.now())
        elif word["what"] == "leaving":
            self._roster.leaving(word["worker"])
        elif word["what"] == "overdue":
            self._end_overdue(token)
        elif word["what"] == "ended":
            self._end(token, Outcome.from_dict(word["outcome"]))
            if "next" in word:
                self._roster.started(word["next"], self.now())

    def _hear_future(self, tokens: Sequence[str]) -> None:
        """What Dask says of a bundle; it matters only where the worker's own word did not come."""
        left = [token for token in tokens if token in self._futures]
        if not left:
            return
        future = self._futures[left[0]]
        if future.status == "cancelled":
            with cluster.scheduler_faults(self._client):
                raise SchedulerLost("the Dask scheduler was lost", "run the same command again")
        elif future.status == "error":
            error = future.exception()
            message, cure = f"{type(error).__name__}: {error}", "this is a bug: please report it"
            for token in self._roster.begun(left) or left:
                task = self._roster.task_of(token)
                if task is not None:
                    self._end(token, Outcome(task.stage, task.run, task.part, "failed", message, cure))
            self._take_back(left)
        elif future.status == "finished":
            with cluster.scheduler_faults(self._client):
                outcomes = future.result(timeout=30)
            for token in left:
                if token in outcomes:
                    self._end(token, Outcome.from_dict(outcomes[token]))
            self._take_back(left)

    def _take_back(self, tokens: Sequence[str]) -> None:
        """Of a bundle that has ended, what was left undone."""
        for token in tokens:
            found = self._roster.take(token)
            if found is not None:
                self._give_back(found[1], "worker_left")

    def _end(self, token: str, outcome: Outcome) -> None:
        self._futures.pop(token, None)
        found = self._roster.take(token, outcome.seconds if outcome.state == "done" else None)
        if found is None:
            return  # its worker was given up; the task is elsewhere by now
        worker, seat = found
        self._kinds.pop(seat.task.key, None)
        self._outcomes.append(outcome.at(worker.facts.address))

    # -- workers that come, go, hang

    def _look(self) -> None:
        """Compare with who is there."""
        self._looked = now = self.now()
        there = cluster.workers_of(self._client)
        self._gone = {address: seen for address, seen in self._gone.items() if address in there}
        for address, seen in self._gone.items():
            if there[address].last_seen == seen:  # given up, and still as silent
                del there[address]
        changes = self._roster.update(there, now)
        for seat in changes.given_back:
            self._give_back(seat, "worker_left", take_over=seat.token)
        for worker, seat in self._roster.overdue(now, OVERDUE_SECONDS):
            self._end_overdue(seat.token)
            self._restart(worker)
        for worker in self._roster.silent(now):
            self._restart(worker)

    def _restart(self, worker: Worker) -> None:
        """Have a worker's nanny kill it and start another; what has no nanny is given up."""
        address, now = worker.facts.address, self.now()
        asked = self._restarting.get(address)
        if asked is None:
            self._restarting[address] = now
            threading.Thread(target=cluster.restart_worker, args=(self._client, address), daemon=True).start()
        elif now - asked > 90:
            self._gone[address] = worker.facts.last_seen
            self._restarting.pop(address)

    def _end_overdue(self, token: str) -> None:
        """A task's time is up and its worker is ending: others there are not to blame."""
        found = self._roster.take(token)
        if found is not None:
            worker, seat = found
            worker.leaving = True
            self._futures.pop(token, None)
            self._kinds.pop(seat.task.key, None)
            self._outcomes.append(
                timeout_outcome(seat.task, seat.task.job.limit("task_hours")).at(worker.facts.address)
            )

    def _judge(self) -> None:
        """Deaths that are understood: who goes on, who goes on alone, who is set aside."""
        for death, came_back in self._roster.verdicts(self.now()):
            self.deaths += 1
            died = came_back and death.certain
            for seat in death.seats:
                self._judge_seat(death, seat, died)

    def _judge_seat(self, death: Death, seat: Seat, died: bool) -> None:
        cause: Cause = "worker_died" if died else "machine_lost"
        found = self.attempts.record(seat.task, cause, alone=death.alone, worker=death.worker.address)
        poison = found.failure()
        if poison is None:
            self._give_back(seat, cause, alone=died, take_over=seat.token)
            return
        self._futures.pop(seat.token, None)
        self._kinds.pop(seat.task.key, None)
        self._outcomes.append(poison.at(death.worker.address))

    # -- sending

    def _send(self, worker: Worker, task: Task, kind: Kind, *, alone: bool = False, take_over: str = "") -> None:
        self._sent += 1
        token = f"{self._id}-{self._sent}"
        seat = Seat(task, token, self.now(), alone)
        self._roster.seat(worker, seat)
        self._kinds[task.key] = kind
        self._outbox.put(worker, seat, take_over)

    def _post(self) -> None:
        """Send what is to be sent."""
        for worker, orders in self._outbox.empty():
            address, tokens = worker.facts.address, tuple(order.token for order in orders)
            neighbours = self._roster.on_host(cluster.host_of(address))
            bundle = Bundle(self._id, self._topic, neighbours, self._registry[1], orders)
            with cluster.scheduler_faults(self._client):
                future = self._client.submit(
                    work_bundle,
                    bundle.packed(),
                    key=tokens[0],
                    workers=[address],
                    allow_other_workers=False,
                    pure=False,
                    retries=0,
                )
            # Each holds the future: with the last of them it is let go.
            self._futures |= dict.fromkeys(tokens, future)
            future.add_done_callback(lambda _, tokens=tokens: self._news.put(("future", tokens)))

    def _give_back(self, seat: Seat, cause: str, *, alone: bool = False, take_over: str = "") -> None:
        self._futures.pop(seat.token, None)
        kind = self._kinds.pop(seat.task.key)
        self._again.append((seat.task, kind, alone or seat.alone, take_over))
        self.note("again", seat.task, Outcome(seat.task.stage, seat.task.run, seat.task.part, "again", cause))

    def _send_again(self) -> None:
        waiting, self._again = self._again, []
        for task, kind, alone, take_over in waiting:
            worker = None
            if self._client is not None:  # it may go while we send
                worker = self._roster.choose(kind, task.stage, self.now(), alone=task.key if alone else None)
            if worker is None:
                self._again.append((task, kind, alone, take_over))
            else:
                self._send(worker, task, kind, alone=alone, take_over=take_over)
