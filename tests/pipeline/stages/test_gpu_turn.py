"""One task has the GPU, the next one reads ahead; and what a run counts of itself. Without a GPU and without Dask."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.pipeline.monitoring.progress import ProgressCounter
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.gpu_turn import _GPU, GpuTurn
from membrain_cloud.pipeline.stages.inference import _InTurn, _one_ahead, _until_done
from membrain_cloud.pipeline.tasks import Outcome
from membrain_cloud.segmentation.sliding_window import Slab, segment_slabs
from membrain_cloud.tiling import Tiling, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from membrain_cloud.geometry import Box
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project

SHAPE = (32, 16, 16)


class Paper:
    """A averager that notes what is done to it."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def start(self, plane: int) -> None: ...

    def feed(self, plane: int, voxels: np.ndarray) -> None:
        self.log.append("fed")

    def paint(self, windows: Sequence[Window], progress: Callable[[int], None]) -> None:
        self.log.append("painted")

    def take(self, planes: int) -> tuple[np.ndarray, None]:
        return np.zeros((planes, *SHAPE[1:]), np.float32), None


def segment(log: list[str], turn: GpuTurn) -> None:
    """What a GPU stage does with its turn, on paper."""
    tiling = Tiling(16, 8, "no")
    (block,) = tiling.blocks(SHAPE, SHAPE)

    def read(box: Box) -> np.ndarray:
        return np.zeros(box.shape, np.float32)

    def take_turn() -> None:
        turn.acquire()
        log.append("turn")

    averager = _InTurn(Paper(log), take_turn)
    for _ in segment_slabs(averager, read, SHAPE, block, tiling=tiling, planes_per_read=8, progress=lambda _: None):
        pass


def test_the_next_task_reads_ahead_and_computes_when_the_first_has_ended() -> None:
    first, second, log = GpuTurn(), GpuTurn(), []
    first.acquire()
    thread = threading.Thread(target=segment, args=(log, second))
    thread.start()
    for _ in range(500):
        if "fed" in log:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert set(log) == {"fed"}, "it has read, and waits for the GPU"
    first.release()
    thread.join(timeout=10)
    assert log[log.index("turn") + 1] == "painted"
    second.release()
    assert first.seconds >= 0.05
    assert second.seconds > 0
    first.release()
    third = GpuTurn()
    third.acquire()
    third.release()


def test_a_turn_that_was_never_taken_costs_nothing() -> None:
    turn = GpuTurn()
    turn.release()
    assert turn.seconds == 0


def test_a_run_counts_tomograms_tasks_and_time_left(project: Project, registry: Registry) -> None:
    made, now = plan(project, Settings(), registry), [0.0]
    tally = ProgressCounter(made, clock=lambda: now[0])
    assert tally.tomograms["pending"] == 3
    assert tally.eta_seconds() is None
    mask, size = made.tasks[:2]
    tally.observe("started", mask, None)
    assert (tally.tomograms["running"], tally.tomograms["pending"]) == (1, 2)
    now[0] = 10.0
    done = Outcome("mask", "TS_1", "whole", "done", seconds=10.0, measured={"gpu_seconds": 4.0, "voxels": 960})
    tally.observe("finished", mask, done)
    assert tally.voxels["mask"] == 960
    assert tally.eta_seconds() == pytest.approx(50.0), "five tasks are left, one at a time"
    tally.observe("again", size, Outcome("size", "TS_1", "whole", "again", "worker_died"))
    tally.observe("finished", size, Outcome("size", "TS_1", "whole", "done", seconds=1.0, measured={"retries": 2}))
    assert (tally.tomograms["done"], tally.gpu_seconds) == (1, 4.0)
    assert tally.retries == {("size", "worker_died"): 1, ("size", "store"): 2}
    for task, state in zip(made.tasks[2:4], ("failed", "blocked"), strict=True):
        tally.observe("finished", task, Outcome(task.stage, task.run, "whole", state))  # type: ignore[arg-type]
    assert (tally.tomograms["failed"], tally.tomograms["blocked"], tally.tomograms["pending"]) == (1, 0, 1)
    assert sum(tally.tomograms.values()) == 3


def test_a_slab_is_made_while_the_one_before_is_written() -> None:
    made, go_on = [], threading.Event()

    def slabs() -> Iterator[Slab]:
        for plane in range(3):
            made.append(plane)
            yield Slab(plane, np.zeros((1, 2, 2), np.float32), None)
            go_on.set()

    turn, seen = GpuTurn(), []
    turn.acquire()
    for slab in _one_ahead(_until_done(slabs(), turn)):
        seen.append(slab.start)
        if slab.start == 0:
            assert go_on.wait(5), "the next one is begun while this one is in hand"
    assert seen == made == [0, 1, 2]
    after = GpuTurn()
    after.acquire()  # the first has ended its turn
    after.release()


def test_slabs_that_fail_or_are_not_wanted_any_more_end_the_turn() -> None:
    def slabs(fail: bool) -> Iterator[Slab]:
        for plane in range(3):
            if fail and plane == 1:
                raise OSError("the disk is gone")
            yield Slab(plane, np.zeros((1, 2, 2), np.float32), None)

    for fail in (True, False):
        turn = GpuTurn()
        turn.acquire()
        ahead = _one_ahead(_until_done(slabs(fail), turn))
        assert next(ahead).start == 0
        if fail:
            with pytest.raises(OSError, match="the disk is gone"):
                next(ahead)
        else:
            ahead.close()
        assert _GPU.acquire(timeout=5)
        _GPU.release()
