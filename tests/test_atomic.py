"""Files replaced whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.atomic import TEMPORARY, hidden_sibling, replace_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        replace_atomically(tmp_path / "a.txt", lambda path, text=text: path.write_text(text))
        assert (tmp_path / "a.txt").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_hidden_names_are_known_as_temporary_and_never_equal(tmp_path: Path) -> None:
    names = {hidden_sibling(tmp_path / ("n" * 250)) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert TEMPORARY.fullmatch(name.rpartition("/")[2])
        assert len(name.rpartition("/")[2]) < 255
