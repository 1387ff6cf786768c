"""The connection to a scheduler: events it receives, its loss, and other drivers on the same scheduler."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import LocalCluster

from membrain_cloud.pipeline.runners import dask_connection
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.dask_connection import DaskConnection, TaskEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s"}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster


@pytest.fixture
def connect(cluster: LocalCluster) -> Iterator[Callable[[str], DaskConnection]]:
    opened: list[DaskConnection] = []

    def connect(topic: str) -> DaskConnection:
        opened.append(DaskConnection(topic, scheduler=cluster.scheduler_address))
        opened[-1].open()
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def leaving(connection: DaskConnection, seconds: float) -> list[str]:
    """Return the addresses of the workers that report that they leave, after the first or `seconds`."""
    deadline, addresses = time.monotonic() + seconds, []
    while not addresses and time.monotonic() < deadline:
        time.sleep(0.02)
        while not connection.events.empty():
            event = connection.events.get()
            if isinstance(event, TaskEvent):
                assert event.content["what"] == "leaving"
                addresses.append(event.content["worker"])
    return addresses


def test_a_second_driver_does_not_end_the_workers_of_the_first(
    cluster: LocalCluster, connect: Callable[[str], DaskConnection]
) -> None:
    first = connect("first")
    second = connect("second")
    assert leaving(first, 0.5) == []
    (address,) = first.workers()
    cluster.scale(0)
    assert leaving(second, 20.0) == [address]
    assert leaving(first, 20.0) == [address], "both drivers are told of a worker that leaves"


def test_workers_stay_when_a_driver_connects_again(connect: Callable[[str], DaskConnection]) -> None:
    connection = connect("topic")
    connection.mark_lost()
    assert (connection.is_open, connection.is_lost) == (False, True)
    connection.open()
    connection.mark_working()
    assert (connection.is_open, connection.is_lost) == (True, False)
    assert leaving(connection, 0.5) == []


def test_a_long_loss_of_the_scheduler_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = DaskConnection("topic", scheduler="tcp://10.0.0.1:8786")
    connection.check_patience()
    connection.mark_lost()
    connection.check_patience()
    monkeypatch.setattr(dask_connection, "RECONNECT_SECONDS", -1.0)
    with pytest.raises(SchedulerLost, match=r"the Dask scheduler at tcp://10\.0\.0\.1:8786 was lost"):
        connection.check_patience()
    connection.close()
    connection.close()
