"""Scratch arrays are the same in memory and on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import StorageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.store.volumes.scratch_array import RawArray, ScratchSpace

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: Zyx = (9, 11, 13)
BOXES = [
    Box((0, 0, 0), SHAPE),
    Box((2, 0, 0), (5, 11, 13)),
    Box((0, 3, 0), (9, 7, 13)),
    Box((1, 2, 3), (8, 9, 10)),
    Box((8, 10, 12), SHAPE),
]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_scratch_arrays_are_equal_in_memory_and_on_disk(tmp_path: Path, memory_bytes: int) -> None:
    values = np.random.default_rng(0).normal(size=(9, 11, 13)).astype(np.complex64)
    with ScratchSpace(str(tmp_path), memory_bytes=memory_bytes, moved_by="TMPDIR") as space:
        array = space.array(SHAPE, np.complex64)
        assert isinstance(array, RawArray) == (memory_bytes == 0)
        for box in iterate_chunks(SHAPE, (9, 4, 13)):
            array.write(box, values[box.slices])
        for box in BOXES:
            found = array.read(box)
            np.testing.assert_array_equal(found, values[box.slices])
            found[:] = 0  # a copy
        np.testing.assert_array_equal(array.read(BOXES[0]), values)
        assert not list(tmp_path.iterdir())  # its file has no name


def test_an_absent_scratch_folder_is_refused(tmp_path: Path) -> None:
    with (
        ScratchSpace(str(tmp_path / "absent"), memory_bytes=0, moved_by="TMPDIR") as space,
        pytest.raises(StorageError, match="absent") as caught,
    ):
        space.array(SHAPE, np.float32)
    assert "TMPDIR" in caught.value.next_step
