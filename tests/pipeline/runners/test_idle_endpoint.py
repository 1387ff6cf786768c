"""A scheduler reports since when no driver has been connected, to the Dask operator's HTTP request."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import Client, LocalCluster

from membrain_cloud.pipeline import cluster_idle
from membrain_cloud.pipeline.runners import idle_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


NAMES = ["membrain_cloud.pipeline.runners.idle_endpoint", "membrain_cloud.pipeline.cluster_idle"]


@pytest.fixture(params=NAMES, ids=["name", "old name"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    routes = ["distributed.http.health", request.param]
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster


def idle_since(cluster: LocalCluster, path: str = "api/v1/check_idle", data: bytes | None = None) -> float | None:
    port = cluster.scheduler.http_server.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data, timeout=10) as response:
        value = json.load(response)["idle_since"]
        return None if value is None else float(value)


def wait_until(cluster: LocalCluster, idle: bool) -> float | None:
    for _ in range(100):
        since = idle_since(cluster)
        if (since is not None) == idle:
            return since
        time.sleep(0.05)
    raise AssertionError(f"still {since}")


def test_a_cluster_is_idle_while_no_driver_is_connected(cluster: LocalCluster) -> None:
    before = time.time()
    since = wait_until(cluster, idle=True)
    assert since is not None
    assert before - 60 < since <= time.time()
    assert wait_until(cluster, idle=True) == since  # the clock does not start again with each request
    with Client(cluster.scheduler_address, set_as_default=False):
        # A driver that plans, or waits for nodes, has no task at work; its cluster must stay.
        assert wait_until(cluster, idle=False) is None
    later = wait_until(cluster, idle=True)
    assert later is not None
    assert later > since


def test_workers_cannot_be_retired_over_http(cluster: LocalCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        idle_since(cluster, "api/v1/retire_workers", b'{"n": 1}')
    assert caught.value.code == 404
    caught.value.close()


def test_the_old_name_serves_the_same_routes() -> None:
    """Schedulers that were started by an earlier chart name the old module."""
    assert cluster_idle.routes is idle_endpoint.routes
