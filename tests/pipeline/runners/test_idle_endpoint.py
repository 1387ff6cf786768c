"""A scheduler says since when it has been without a driver, as the Dask operator asks it, over HTTP."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import Client, LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    routes = ["distributed.http.health", "membrain_cloud.pipeline.runners.idle_endpoint"]
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster


def ask(cluster: LocalCluster, path: str = "api/v1/check_idle", data: bytes | None = None) -> float | None:
    port = cluster.scheduler.http_server.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data, timeout=10) as answer:
        value = json.load(answer)["idle_since"]
        return None if value is None else float(value)


def settled(cluster: LocalCluster, idle: bool) -> float | None:
    for _ in range(100):
        answer = ask(cluster)
        if (answer is not None) == idle:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"still {answer}")


def test_a_cluster_is_idle_while_no_driver_is_connected(cluster: LocalCluster) -> None:
    before = time.time()
    since = settled(cluster, idle=True)
    assert since is not None
    assert before - 60 < since <= time.time()
    assert settled(cluster, idle=True) == since  # the clock does not start again at each question
    with Client(cluster.scheduler_address, set_as_default=False):
        # A driver that plans, or waits for nodes, has no task at work; its cluster must stay.
        assert settled(cluster, idle=False) is None
    later = settled(cluster, idle=True)
    assert later is not None
    assert later > since


def test_nobody_retires_workers_over_http(cluster: LocalCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(cluster, "api/v1/retire_workers", b'{"n": 1}')
    assert caught.value.code == 404
    caught.value.close()
