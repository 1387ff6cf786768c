"""One task has the GPU while the next one reads ahead. Without a GPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.pipeline.stages.gpu_turn import _GPU, GpuTurn
from membrain_cloud.pipeline.stages.inference import _prefetch_one, _release_after, _WaitingAverager
from membrain_cloud.segmentation.sliding_window import Slab, segment_slabs
from membrain_cloud.tiling import Tiling, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from membrain_cloud.geometry import Box

SHAPE = (32, 16, 16)


class LoggedAverager:
    """A window averager that logs when it gets voxels and when it is asked to predict."""

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
    """Segment a volume of zeros with a turn at the GPU."""
    tiling = Tiling(16, 8, "no")
    (block,) = tiling.blocks(SHAPE, SHAPE)

    def read(box: Box) -> np.ndarray:
        return np.zeros(box.shape, np.float32)

    def acquire() -> None:
        turn.acquire()
        log.append("turn")

    averager = _WaitingAverager(LoggedAverager(log), acquire)
    for _ in segment_slabs(averager, read, SHAPE, block, tiling=tiling, planes_per_read=8, progress=lambda _: None):
        pass


def test_the_next_task_reads_ahead_and_predicts_after_the_first() -> None:
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


def test_a_turn_that_was_not_acquired_takes_no_time() -> None:
    turn = GpuTurn()
    turn.release()
    assert turn.seconds == 0


def test_a_slab_is_made_while_the_one_before_is_written() -> None:
    made, go_on = [], threading.Event()

    def slabs() -> Iterator[Slab]:
        for plane in range(3):
            made.append(plane)
            yield Slab(plane, np.zeros((1, 2, 2), np.float32), None)
            go_on.set()

    turn, written = GpuTurn(), []
    turn.acquire()
    for slab in _prefetch_one(_release_after(slabs(), turn)):
        written.append(slab.start)
        if slab.start == 0:
            assert go_on.wait(5), "the next slab is begun while this one is written"
    assert written == made == [0, 1, 2]
    after = GpuTurn()
    after.acquire()  # the first turn has been released
    after.release()


@pytest.mark.parametrize("fails", [True, False])
def test_a_turn_is_released_after_an_error_or_an_early_end(fails: bool) -> None:
    def slabs() -> Iterator[Slab]:
        for plane in range(3):
            if fails and plane == 1:
                raise OSError("the disk is gone")
            yield Slab(plane, np.zeros((1, 2, 2), np.float32), None)

    turn = GpuTurn()
    turn.acquire()
    ahead = _prefetch_one(_release_after(slabs(), turn))
    assert next(ahead).start == 0
    if fails:
        with pytest.raises(OSError, match="the disk is gone"):
            next(ahead)
    else:
        ahead.close()
    assert _GPU.acquire(timeout=5)
    _GPU.release()
