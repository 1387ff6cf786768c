"""The format of arrays: `.zarray` is parsed strictly, and written as zarr reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from membrain_cloud.errors import ChunkError, TomogramError
from membrain_cloud.geometry import Box
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.zarr_array import ArrayFormat, ChunkedArray

if TYPE_CHECKING:
    from pathlib import Path


def test_a_written_array_is_read_by_zarr_and_parsed_back(tmp_path: Path) -> None:
    values = np.arange(5 * 4 * 3, dtype=np.uint16).reshape(5, 4, 3)
    array_format = ArrayFormat.plain((5, 4, 3), (2, 4, 3), np.dtype(np.uint16))
    array = ChunkedArray.create(Files(str(tmp_path)), "a", array_format)
    array.write(array.box, values)
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "a"), "r")[:], values)
    assert ChunkedArray.open(Files(str(tmp_path)), "a").format == array_format
    np.testing.assert_array_equal(array.read(Box((1, 1, 1), (4, 3, 2))), values[1:4, 1:3, 1:2])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".zarray", "0", "1", "2"]


def parsed(**changes: Any) -> ArrayFormat:
    content = json.loads(ArrayFormat.plain((4, 4, 4), (2, 2, 2), np.dtype(np.float32)).as_json())
    return ArrayFormat.parse(json.dumps(content | changes).encode(), "a")


def test_leading_axes_are_part_of_the_chunk_names(tmp_path: Path) -> None:
    array_format = parsed(shape=[1, 1, 4, 4, 4], chunks=[1, 1, 2, 2, 2], dimension_separator=".")
    assert (array_format.shape, array_format.chunk, array_format.lead) == ((4, 4, 4), (2, 2, 2), 2)
    assert ChunkedArray(Files(str(tmp_path)), "a", array_format).chunk_name((1, 0, 1)) == "0.0.1.0.1"
    assert parsed(fill_value="NaN").fill_value != parsed(fill_value="NaN").fill_value
    assert parsed(fill_value=None).fill_value == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"shape": [2, 4, 4, 4], "chunks": [1, 2, 2, 2]}, TomogramError),
        ({"shape": [4, 4], "chunks": [2, 2]}, TomogramError),
        ({"shape": [4, 0, 4]}, TomogramError),
        ({"dtype": "<c8"}, TomogramError),
        ({"shape": None}, ChunkError),
        ({"dtype": "nonsense"}, ChunkError),
    ],
)
def test_arrays_that_are_not_volumes_are_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        parsed(**changes)
    with pytest.raises(ChunkError):
        ArrayFormat.parse(b'{"shape": [4', "a")


def test_an_absent_chunk_is_the_fill_value_in_sparse_arrays_only(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    array = ChunkedArray.create(files, "a", ArrayFormat.plain((4, 2, 2), (2, 2, 2), np.dtype(np.uint8)))
    array.write(Box((0, 0, 0), (2, 2, 2)), np.ones((2, 2, 2), np.uint8))
    with pytest.raises(ChunkError, match=r"1 of 2 chunks"):
        array.read(array.box)
    sparse = ChunkedArray.open(files, "a", sparse=True)
    assert sparse.read(array.box)[:, 0, 0].tolist() == [1, 1, 0, 0]
