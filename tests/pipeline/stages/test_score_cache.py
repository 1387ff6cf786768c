"""Rows of whole chunks, written in a second thread."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from membrain_cloud.geometry import Box
from membrain_cloud.pipeline.stages.score_cache import ChunkRowWriter

CORE = Box((6, 0, 0), (20, 3, 2))


def planes(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.float32)[:, None, None] + np.zeros((1, 3, 2), np.float32)


@pytest.mark.parametrize("steps", [[6, 20], [6, 7, 9, 10, 17, 20], list(range(6, 21))])
def test_rows_end_at_chunks_whatever_arrives_at_once(steps: list[int]) -> None:
    written: list[tuple[str, Box, np.ndarray]] = []

    def writer(name: str) -> object:
        return lambda box, array: written.append((name, box, array))

    with ChunkRowWriter(CORE, 8, {name: writer(name) for name in ("mask", "scores")}) as rows:  # type: ignore[misc]
        for start, stop in itertools.pairwise(steps):
            part = planes(start, stop)
            rows.add({"mask": part > 10, "scores": part, "variance": None, "not written": part})
    assert [(name, box.start[0], box.stop[0]) for name, box, _ in written] == [
        (name, start, stop) for start, stop in ((6, 8), (8, 16), (16, 20)) for name in ("mask", "scores")
    ]
    for name, box, array in written:
        expected = planes(box.start[0], box.stop[0])
        np.testing.assert_array_equal(array, expected if name == "scores" else expected > 10)


def test_an_error_of_the_writing_thread_is_raised() -> None:
    def fail(box: Box, array: np.ndarray) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"), ChunkRowWriter(CORE, 8, {"mask": fail}) as rows:
        rows.add({"mask": planes(6, 20)})
