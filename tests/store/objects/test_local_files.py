"""Local files: created once, replaced whole, and listed without what is not whole yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.atomic import hidden_sibling
from membrain_cloud.store.objects.local_files import create_file, flush_files, replace_file, walk

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = str(tmp_path / "folder" / "a")
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert (tmp_path / "folder" / "a").read_bytes() == b"first"


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    replace_file(str(tmp_path / "a"), b"whole", flush=False)
    (tmp_path / hidden_sibling(tmp_path / "b")).write_bytes(b"half")
    assert [name for name, _ in walk(str(tmp_path))] == ["a"]


def test_files_that_were_removed_are_not_flushed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    flush_files([str(tmp_path / "a"), str(tmp_path / "removed")])
