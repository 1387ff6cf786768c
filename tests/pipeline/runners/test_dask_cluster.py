"""Dask clusters: what a local worker gets, what a worker reports, and which errors mean a lost scheduler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.runners import dask_cluster
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost, scheduler_faults, workers_of
from membrain_cloud.pipeline.runners.host_resources import LocalWorker


def client(status: str = "running", **identities: dict[str, Any]) -> Any:
    """Return a client whose scheduler knows the workers with these identities, by address."""
    workers = {address.replace("_", ":"): identity for address, identity in identities.items()}
    scheduler = SimpleNamespace(address="tcp://10.0.0.1:8786", identity=None)
    return SimpleNamespace(status=status, scheduler=scheduler, sync=lambda *_, **__: {"workers": workers})


def test_the_first_local_workers_get_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    workers = [LocalWorker("gpu", 9, 2, 0), LocalWorker("gpu", 9, 2, 1), LocalWorker("cpu", 7)]
    first, second, third = (dask_cluster._worker_options(worker, hides_gpus=True) for worker in workers)
    gpu = {"memory_limit": 9, "nthreads": 2, "resources": {"GPU": 2}}
    assert first == {**gpu, "env": {"CUDA_VISIBLE_DEVICES": "GPU-a"}}
    assert second == {**gpu, "env": {"CUDA_VISIBLE_DEVICES": "GPU-b"}}
    cpu = {"memory_limit": 7, "nthreads": 1, "resources": {"CPU": 1}}
    assert third == {**cpu, "env": {"CUDA_VISIBLE_DEVICES": ""}}
    plain = dask_cluster._worker_options(LocalWorker(None, 7), hides_gpus=False)
    assert plain == {"memory_limit": 7, "nthreads": 1}


def test_a_workers_resources_name_its_kind() -> None:
    gpu = {"name": "a", "nanny": "tcp://n", "resources": {"GPU": 2}, "nthreads": 2, "memory_limit": 8, "last_seen": 3.0}
    facts = workers_of(client(gpu_1=gpu, cpu_1={"name": 7, "resources": {"CPU": 1}}, any_1={"name": "c"}))
    assert [worker.kind for worker in facts.values()] == ["gpu", "cpu", None]
    assert (facts["gpu:1"].slots, facts["gpu:1"].memory_bytes, facts["gpu:1"].last_seen) == (2, 8, 3.0)
    assert (facts["cpu:1"].name, facts["cpu:1"].slots) == ("7", 1)
    assert facts["any:1"].memory_bytes > 0, "without a limit the machine's memory counts"


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), RuntimeError("Client is closed")])
def test_errors_of_a_lost_scheduler(error: Exception) -> None:
    with pytest.raises(SchedulerLost, match=r"tcp://10\.0\.0\.1:8786 was lost"), scheduler_faults(client()):
        raise error


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug"), scheduler_faults(client()):
        raise RuntimeError("a bug")
    with pytest.raises(SchedulerLost), scheduler_faults(client("closed")):
        raise AssertionError("not reached")


def test_a_report_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    pytest.importorskip("bokeh")

    def refuse(filename: str) -> Any:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr("distributed.performance_report", refuse)
    connected = SimpleNamespace(as_current=nullcontext)
    with (
        pytest.raises(UsageError, match="Dask's report /no/such/file: No such file"),
        dask_cluster.performance_report(connected, "/no/such/file"),
    ):
        pass
