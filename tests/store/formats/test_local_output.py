"""Local files are written whole or not at all."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import StorageError, TransientError
from membrain_cloud.store.formats.local_output import write_local_file

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_local_file(str(path), lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageError), (errno.EIO, TransientError)])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, "of the test")

    with pytest.raises(kind, match=r"a\.txt"):
        write_local_file(str(path), fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
