"""The runner on a Dask cluster: the workers of this machine for a plan, and tasks that no worker takes."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.errors import TransientError
from membrain_cloud.pipeline.runners import dask_runner, host_resources
from membrain_cloud.pipeline.runners.dask_runner import REMIND_SECONDS, SCALE_WAIT_SECONDS, WAIT_SECONDS, DaskRunner
from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup
from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts

if TYPE_CHECKING:
    from membrain_cloud.pipeline.runners.host_resources import LocalWorker

GIB = 2**30
STAGES: Any = {"segment": SimpleNamespace(needs_gpu=True), "mesh": SimpleNamespace(needs_gpu=False)}


def task(stage: str, gib: float) -> Any:
    key = f"{stage}/TS_1/whole"
    return SimpleNamespace(stage=stage, run="TS_1", part="whole", key=key, memory_bytes=int(gib * GIB))


class Clocked(DaskRunner):
    """A runner that is connected to workers of the test's choice, at a time of its choice."""

    time = 0.0

    def now(self) -> float:
        return self.time

    def connect(self, *workers: tuple[str, float]) -> None:
        facts = [
            WorkerFacts(f"tcp://{kind}-{n}:1", f"{kind}-{n}", None, kind, 1, int(gib * GIB))  # type: ignore[arg-type]
            for n, (kind, gib) in enumerate(workers)
        ]
        self._workers.update({worker.address: worker for worker in facts}, self.time)

    def at(self, now: float, stage: str = "mesh", gib: float = 9.0) -> Any:
        self.time = now
        return self.refusal(task(stage, gib), "gpu" if stage == "segment" else "cpu")


def connected(*workers: tuple[str, float], **options: Any) -> Clocked:
    runner = Clocked(scheduler="tcp://127.0.0.1:9", **options)
    runner._connection._client = SimpleNamespace(status="closed", close=lambda **_: None)
    runner.connect(*workers)
    return runner


def ask_until(runner: Clocked, end: float, **what: Any) -> Any:
    """Ask each 30 s as the driver does, and return the last answer."""
    now, answer = runner.time, None
    while now < end:
        now = min(end, now + 30.0)
        answer = runner.at(now, **what)
        if answer is not None:
            return answer
    return answer


def test_a_task_for_a_larger_worker_waits_and_then_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    runner = connected(("cpu", 6.0))
    with caplog.at_level(logging.WARNING):
        assert ask_until(runner, WAIT_SECONDS - 1.0) is None
    assert "mesh of TS_1 waits for a CPU worker with 9.0 GiB" in caplog.text
    assert 1 < len(caplog.records) <= WAIT_SECONDS / REMIND_SECONDS
    failure = ask_until(runner, WAIT_SECONDS + 60.0)
    assert (failure.state, failure.run) == ("failed", "TS_1")
    assert "needs about 9.0 GiB, the largest worker for it has 6.0 GiB" in failure.message
    assert runner.at(runner.time, gib=8.0).state == "failed", "the next one need not wait"
    runner.connect(("cpu", 6.0), ("cpu", 16.0))
    assert runner.at(runner.time + 1.0) is None, "a larger worker has connected"


def test_a_run_without_workers_ends_with_an_error() -> None:
    runner = connected()
    with pytest.raises(TransientError, match="no worker for CPU stages has been connected for 10 min"):
        ask_until(runner, WAIT_SECONDS + 60.0)


def test_expected_workers_are_waited_for_and_named(caplog: pytest.LogCaptureFixture) -> None:
    runner = connected(("cpu", 6.0), expected=("gpu",))
    assert not runner.has_slot(task("segment", 4.0), "gpu")
    assert ask_until(runner, SCALE_WAIT_SECONDS - 1.0, stage="segment", gib=4.0) is None
    worker = next(iter(runner._workers.workers.values()))
    runner._workers.assign(worker, Assignment(task("mesh", 4.0), "a", "cpu"))
    assert ask_until(runner, SCALE_WAIT_SECONDS + 90.0, stage="segment", gib=4.0) is None, "other work goes on"
    runner._workers.remove("a")
    with pytest.raises(TransientError, match="no worker for GPU stages has been connected for 30 min"):
        ask_until(runner, SCALE_WAIT_SECONDS + 200.0, stage="segment", gib=4.0)
    assert connected(wait_seconds=60.0)._patience.seconds == 60.0


def test_groups_tell_their_memory_before_their_workers_come() -> None:
    scaler = SimpleNamespace(kinds=("gpu", "cpu"), memory_limits=lambda others: {"gpu": 16, "cpu": 12})
    assert connected(scaler=scaler).memory_limits == {"gpu": 16, "cpu": 12}
    assert connected().memory_limits is None, "any worker may connect later"
    assert WorkerGroup.parse("gpu=g:1").memory_bytes is None


@pytest.mark.parametrize(("count", "gpus", "kinds"), [(None, 0, [None] * 6), (None, 2, ["gpu"] * 2 + ["cpu"] * 4)])
def test_local_workers_are_made_for_the_plan(
    monkeypatch: pytest.MonkeyPatch, count: int | None, gpus: int, kinds: list[str | None]
) -> None:
    monkeypatch.setattr(host_resources, "usable_cores", lambda: 16)
    monkeypatch.setattr(host_resources, "total_memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(dask_runner, "gpu_count", lambda: gpus)
    runner = DaskRunner(workers=count)
    assert runner.memory_limits == {"gpu": int(57.6 * GIB), "cpu": int(57.6 * GIB)}
    assert len(runner._local_workers()) == 16, "without a plan there is one for each core"
    runner.prepare([task("segment", 4.4), task("mesh", 9.0), task("mesh", 2.0)], STAGES)
    made: list[LocalWorker] = list(runner._local_workers())
    assert [worker.kind for worker in made] == kinds
    assert all(worker.memory_bytes >= 8.8 * GIB for worker in made)
    assert DaskRunner(workers=4).memory_limits == {"gpu": int(14.4 * GIB), "cpu": int(14.4 * GIB)}
