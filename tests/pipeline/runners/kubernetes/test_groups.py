"""Worker groups: which tasks count for which group, and when a group grows or shrinks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.runners.kubernetes.groups import (
    CHANGE_SECONDS,
    FALLBACK_SECONDS,
    WINDOW_SECONDS,
    WorkerGroup,
    groups_for,
    memory_limits,
    wanted_workers,
)

if TYPE_CHECKING:
    from membrain_cloud.pipeline.tasks import Kind

GIB = 2**30


def gpu(name: str = "gpu", most: int = 8, memory: int = 16) -> WorkerGroup:
    return WorkerGroup("gpu", name, most, slots=2, memory_bytes=memory * GIB)


def cpu(name: str = "cpu", most: int = 8, memory: int = 12) -> WorkerGroup:
    return WorkerGroup("cpu", name, most, memory_bytes=memory * GIB)


def wanted(demand: dict[tuple[Kind, int], int], *groups: WorkerGroup, now: float = 0.0, **options: Any) -> Any:
    options = {"in_use": {}, "connected": {}, "others": ()} | options
    return wanted_workers({(kind, gib * GIB): n for (kind, gib), n in demand.items()}, groups, now=now, **options)


@pytest.mark.parametrize("text", ["gpu", "gpu=x", "tpu=x:3", "gpu=x:0", "gpu=X_y:3", "gpu=../x:3"])
def test_bad_groups_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="KIND=WORKERGROUP:MAX"):
        WorkerGroup.parse(text)
    assert WorkerGroup.parse("gpu=membrain-gpu:64") == WorkerGroup("gpu", "membrain-gpu", 64)


def test_each_kind_counts_for_its_own_group() -> None:
    assert wanted({("gpu", 4): 7, ("cpu", 6): 3}, gpu(), cpu()) == {"gpu": 4, "cpu": 3}


@pytest.mark.parametrize("only", [gpu(), cpu()])
def test_a_single_group_takes_all_tasks(only: WorkerGroup) -> None:
    assert wanted({("gpu", 4): 2, ("cpu", 4): 2}, only)[only.name] == 4 // only.slots
    assert groups_for("cpu", [only], ()) == groups_for("gpu", [only], ()) == [only]


def test_workers_beside_the_groups_keep_their_tasks() -> None:
    """A GPU group of fixed size: the scaled CPU group is not enlarged for its tasks."""
    assert wanted({("gpu", 4): 9, ("cpu", 4): 1}, cpu(), others={"gpu"}) == {"cpu": 1}


def test_a_task_counts_for_groups_with_enough_memory_only() -> None:
    small, large = cpu("small", 4, 12), cpu("large", 4, 64)
    assert wanted({("cpu", 9): 3, ("cpu", 40): 2}, small, large) == {"small": 3, "large": 2}
    assert wanted({("cpu", 99): 3}, small, large) == {"small": 0, "large": 0}
    assert wanted({("gpu", 12): 3}, gpu(memory=16)) == {"gpu": 3}, "each needs more than a slot's share"


def test_groups_of_a_kind_are_filled_in_order() -> None:
    assert wanted({("gpu", 1): 20}, gpu("spot"), gpu("demand")) == {"spot": 8, "demand": 2}
    assert wanted({("gpu", 1): 20}, gpu("spot"), gpu("demand"), in_use={"spot": 3.5}) == {"spot": 8, "demand": 6}


def test_the_next_group_stands_in_where_machines_do_not_come() -> None:
    spot, demand = gpu("spot"), gpu("demand")
    spot.record_change(8, 0.0)
    spot.note_connected(0, 0.0)
    for now, expected in ((100.0, 0), (FALLBACK_SECONDS + CHANGE_SECONDS, 5)):
        spot.note_connected(3, now)
        sizes = wanted({("gpu", 1): 10}, spot, demand, in_use={"spot": 3.0}, connected={"spot": 3}, now=now)
        assert sizes == {"spot": 8, "demand": expected}, "spot machines are still asked for"
    spot.note_connected(8, 2000.0)
    assert not spot.lacks_machines(2000.0)


def test_limits_are_those_of_the_largest_worker_for_a_kind() -> None:
    assert memory_limits([gpu(), cpu(), cpu("large", memory=64)], ()) == {"gpu": 16 * GIB, "cpu": 64 * GIB}
    assert memory_limits([cpu()], ()) == {"gpu": 12 * GIB, "cpu": 12 * GIB}
    assert memory_limits([cpu()], {"gpu"}) is None, "workers that are not scaled have any memory"
    assert memory_limits([WorkerGroup("cpu", "unknown", 3)], ()) is None


def test_a_group_grows_at_once_and_shrinks_after_a_window() -> None:
    group, sizes = cpu(most=120), []
    for now in (0, 60, 120, 120 + WINDOW_SECONDS, 121 + WINDOW_SECONDS):
        group.note_wanted({0: 50, 60: 90, 120: 20}.get(int(now), 20), float(now))
        size = group.next_size(float(now))
        if size > group.replicas:
            group.record_change(size, float(now))
        sizes.append(size)
    assert sizes == [50, 90, 90, 20, 20], "90 were wanted up to ten minutes ago"


def test_sizes_change_in_steps_and_not_too_often() -> None:
    group = cpu(most=120)
    group.note_wanted(31, 0.0)
    assert group.next_size(0.0) == 40
    group.record_change(40, 0.0)
    group.note_wanted(60, 1.0)
    assert group.next_size(1.0) == 40
    assert group.next_size(CHANGE_SECONDS) == 60
    assert cpu(most=8).step == 1
    assert cpu(most=8).changed_at == -math.inf
