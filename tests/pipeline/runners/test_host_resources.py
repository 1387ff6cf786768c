"""Memory and workers of this machine."""

from __future__ import annotations

import pytest

from membrain_cloud.pipeline.runners import host_resources
from membrain_cloud.pipeline.runners.host_resources import default_workers, worker_memory_bytes
from membrain_cloud.units import GIB


@pytest.mark.parametrize(
    ("cores", "memory_gib", "workers"),
    [(8, 64, 8), (8, 10, 3), (8, 2, 1), (None, 64, 1)],
    ids=["as many as cores", "as many as 3 GiB fit", "at least one", "unknown cores"],
)
def test_workers_that_fit(monkeypatch: pytest.MonkeyPatch, cores: int | None, memory_gib: int, workers: int) -> None:
    monkeypatch.setattr(host_resources, "total_memory_bytes", lambda: memory_gib * GIB)
    monkeypatch.setattr(host_resources.os, "cpu_count", lambda: cores)
    assert default_workers() == workers


def test_workers_share_nine_tenths_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_resources, "total_memory_bytes", lambda: 10 * GIB)
    assert worker_memory_bytes() == 9 * GIB
    assert worker_memory_bytes(3) == 3 * GIB
