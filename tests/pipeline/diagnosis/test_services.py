"""Checks of a Dask scheduler: its workers, their memory and their versions."""

from __future__ import annotations

import dask
import pytest
from distributed import LocalCluster

from membrain_cloud.pipeline.diagnosis.check import run_checks
from membrain_cloud.pipeline.diagnosis.scheduler import SchedulerFacts, ask_scheduler, version_differences
from membrain_cloud.pipeline.diagnosis.services import check_scheduler, scheduler_checks
from membrain_cloud.pipeline.runners import dask_cluster
from membrain_cloud.pipeline.runners.worker_state import WorkerFacts
from membrain_cloud.units import GIB

ADDRESS = "tcp://scheduler:8786"


def worker(name: str, memory_gib: float, kind: str = "cpu") -> WorkerFacts:
    return WorkerFacts(f"tcp://{name}:1", name, None, kind, slots=1, memory_bytes=int(memory_gib * GIB))


def test_a_scheduler_that_answers_is_in_order_with_the_same_versions() -> None:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit="4GiB"
    ) as cluster:
        facts = ask_scheduler(cluster.scheduler_address)
        checks = list(check_scheduler(cluster.scheduler_address))
    assert len(facts.workers) == 2
    assert facts.differences == {}
    assert [check.state for check in checks] == ["ok", "ok", "ok"]
    assert "2 workers (2 any kind)" in checks[0].detail


def test_a_scheduler_that_does_not_answer_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 0.5)
    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        (check,) = run_checks("scheduler", lambda: check_scheduler("tcp://127.0.0.1:9"))
    assert check.state == "failed"
    assert "tcp://127.0.0.1:9" in check.detail


def test_a_scheduler_without_workers_is_a_warning() -> None:
    (check,) = scheduler_checks(ADDRESS, SchedulerFacts((), {}))
    assert check.state == "warning"
    assert ADDRESS in check.cure


def test_workers_with_a_fraction_of_their_memory_are_a_failure() -> None:
    facts = SchedulerFacts((worker("a", 12), worker("b", 0.375), worker("c", 16, "gpu")), {})
    scheduler, memory, versions = scheduler_checks(ADDRESS, facts)
    assert "3 workers (2 cpu, 1 gpu)" in scheduler.detail
    assert (memory.state, versions.state) == ("failed", "ok")
    assert "0.4 GiB, of b" in memory.detail
    assert "--memory-limit" in memory.cure


@pytest.mark.parametrize(("package", "state"), [("membrain_cloud", "failed"), ("numpy", "warning")])
def test_other_versions_on_workers_are_named_with_their_number(package: str, state: str) -> None:
    here = {"membrain_cloud": "0.2.0", "numpy": "2.4.6", "torch": None}
    differences = version_differences(here, [here, here | {package: "0.1"}, here | {package: "0.1"}])
    assert set(differences) == {package}
    *_, versions = scheduler_checks(ADDRESS, SchedulerFacts((worker("a", 12),), differences))
    assert versions.state == state
    assert f"{package} {here[package]} here, 0.1 on 2, {here[package]} on 1 workers" in versions.detail


def test_a_worker_without_a_package_differs() -> None:
    differences = version_differences({"torch": "2.13.0"}, [{"torch": None}])
    assert differences == {"torch": {"here": "2.13.0", "None": 1}}
