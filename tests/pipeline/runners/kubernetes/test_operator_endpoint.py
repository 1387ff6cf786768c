"""A scheduler answers the Dask operator: since when no driver is connected, and which workers go."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, LocalCluster

from membrain_cloud.pipeline import cluster_idle
from membrain_cloud.pipeline.runners.kubernetes import operator_endpoint
from membrain_cloud.pipeline.runners.kubernetes.operator_endpoint import RENAME_SECONDS, announce, workers_to_remove

if TYPE_CHECKING:
    from collections.abc import Iterator


NAMES = ["membrain_cloud.pipeline.runners.kubernetes.operator_endpoint", "membrain_cloud.pipeline.cluster_idle"]


@pytest.fixture(params=NAMES, ids=["name", "old name"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    routes = ["distributed.http.health", request.param]
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster


def ask(cluster: LocalCluster, path: str, content: Any = None) -> Any:
    """Send a GET, or a POST with content, as the operator does, and return the answer."""
    port = cluster.scheduler.http_server.port
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", data, timeout=10) as response:
        return json.load(response)


def idle_since(cluster: LocalCluster) -> float:
    return float(ask(cluster, "check_idle")["idle_since"])


def wait_until_idle(cluster: LocalCluster) -> float:
    for _ in range(100):
        since = idle_since(cluster)
        if since == idle_since(cluster):
            return since
        time.sleep(0.05)
    raise AssertionError("never idle")


def test_a_cluster_is_idle_while_no_driver_is_connected(cluster: LocalCluster) -> None:
    before = time.time()
    since = wait_until_idle(cluster)
    assert before - 60 < since <= time.time()
    with Client(cluster.scheduler_address, set_as_default=False):
        # A driver that plans, or waits for nodes, has no task at work; its cluster must stay.
        asked = time.time()
        assert idle_since(cluster) >= asked
    later = wait_until_idle(cluster)
    assert later > since


def test_only_announced_workers_are_named(cluster: LocalCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(cluster, "retire_workers", {"n": 1})
    assert caught.value.code == 404, "without a driver the operator chooses by itself"
    caught.value.close()
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        contact = client.run_on_scheduler(operator_endpoint.operator_contact)
        assert contact == {"served": True, "asked": True}
        assert ask(cluster, "retire_workers", {"n": 1}) == {}, "no worker of a run is stopped by strangers"
        client.run_on_scheduler(announce, ["w-1", "w-2"])
        assert list(ask(cluster, "retire_workers", {"n": 1})) == ["w-1"]
        assert ask(cluster, "retire_workers", {"n": 5}) == {"w-2": {"name": "w-2"}}
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            ask(cluster, "retire_workers", {"workers": ["tcp://127.0.0.1:1"]})
        caught.value.close()
        assert len(client.scheduler_info()["workers"]) == 1


def test_the_operators_own_functions_get_idle_time_and_names(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller")
    url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"

    async def address(*_: Any, **__: Any) -> str:
        return url

    monkeypatch.setattr(controller, "get_scheduler_address", address)
    logger = logging.getLogger("operator")

    async def both() -> tuple[float, list[str]]:
        since = await controller.check_scheduler_idle("s", "cryo", logger)
        return since, await controller.retire_workers(2, "s", "r1-gpu", "cryo", logger)

    with Client(cluster.scheduler_address, set_as_default=False) as client:
        client.run_on_scheduler(announce, ["r1-gpu-worker-a", "r1-gpu-worker-b", "r1-gpu-worker-c"])
        before = time.time()
        since, names = asyncio.run(both())
    assert since >= before
    assert names == ["r1-gpu-worker-a", "r1-gpu-worker-b"]


def test_a_worker_that_was_not_removed_is_named_again() -> None:
    scheduler = _Scheduler()
    announce(["a", "b"], dask_scheduler=scheduler)
    assert workers_to_remove(scheduler, 1, 100.0) == ["a"]
    assert workers_to_remove(scheduler, 9, 101.0) == ["b"]
    assert workers_to_remove(scheduler, 9, 102.0) == []
    announce(["b", "c"], dask_scheduler=scheduler)
    assert workers_to_remove(scheduler, 9, 103.0) == ["c"], "b was named a moment ago"
    assert workers_to_remove(scheduler, 9, 103.0 + RENAME_SECONDS) == ["b", "c"]
    announce([], dask_scheduler=scheduler)
    assert workers_to_remove(scheduler, 9, 999.0) == []


class _Scheduler(SimpleNamespace):
    """A scheduler with a driver."""

    __hash__ = object.__hash__

    def __init__(self) -> None:
        super().__init__(
            clients={"driver": None},
            aliases={"busy": "tcp://b", "idle": "tcp://i"},
            workers={"tcp://b": SimpleNamespace(processing={"task": 1}), "tcp://i": SimpleNamespace(processing={})},
        )


def test_busy_workers_of_any_driver_are_left_out() -> None:
    scheduler = _Scheduler()
    assert announce(["busy", "idle", "missing"], dask_scheduler=scheduler) == ["idle", "missing"]
    assert workers_to_remove(scheduler, 3, 1e3) == ["idle", "missing"]
    assert announce(["busy"], even_busy=True, dask_scheduler=scheduler) == ["busy"]


def test_the_old_name_serves_the_same_routes() -> None:
    """Schedulers that were started by an earlier chart name the old module."""
    assert cluster_idle.routes is operator_endpoint.routes


def test_a_scheduler_without_the_endpoint_says_so() -> None:
    assert operator_endpoint.operator_contact(_Scheduler()) == {"served": False, "asked": False}
