"""What is no file is refused before it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from membrain_cloud.errors import ProjectError, TomogramError
from membrain_cloud.store.formats.local_input import check_regular_file, read_file, unreadable


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for path, cause in {
        tmp_path: "a folder",
        Path("/dev/null"): "a device",
        tmp_path / "pipe": "a pipe",
        tmp_path / "link": "the link points to a file that is not there",
        tmp_path / "gone": "no such file",
        tmp_path / ("x" * 256): "name too long",
        tmp_path / "a\0b": "null byte",
    }.items():
        with pytest.raises(ProjectError, match=cause):
            read_file(path)
    (tmp_path / "x").write_bytes(b"abc")
    assert check_regular_file(tmp_path / "x") == 3
    assert read_file(tmp_path / "x", TomogramError) == b"abc"


def test_the_systems_words_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "x").write_bytes(b"abc")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ProjectError, match=r"cannot be read \(Permission denied\)"):
        read_file(tmp_path / "x")
    assert unreadable("x", ValueError("odd")) == "x: cannot be read (odd)"
