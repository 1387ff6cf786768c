"""Writes are atomic, and every fault becomes an error with a next step."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from membrain_cloud.errors import StorageError, TransientError
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files


@pytest.fixture(params=["local", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")


def test_objects_come_back(files: Files) -> None:
    files.write("a/b/one.bin", b"1234")
    files.write("a/two.bin", b"")
    assert files.read("a/b/one.bin") == b"1234"
    assert files.exists("a/b/one.bin")
    assert files.exists("a/b")
    assert not files.exists("a/c")
    assert files.children("a") == {"b": True, "two.bin": False}
    assert {name: info.size for name, info in files.listing("a").items()} == {"b/one.bin": 4, "two.bin": 0}
    assert pickle.loads(pickle.dumps(files)).read("a/b/one.bin") == b"1234"  # noqa: S301


def test_absent_objects_raise_file_not_found(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        files.read("nothing")
    assert files.children("nothing") == {}
    assert files.listing("nothing") == {}
    assert files.info("nothing") is None
    files.remove("nothing")


def test_names_with_a_common_prefix_are_kept_apart(files: Files) -> None:
    files.write("0/x", b"1")
    files.write("01/x", b"1")
    assert list(files.listing("0")) == ["x"]
    files.remove("0")
    assert files.exists("01/x")
    assert not files.exists("0/x")


def test_a_replaced_object_has_another_tag(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    files.write("x", b"1")
    before = files.info("x")
    files.write("x", b"2")
    assert files.info("x") != before
    assert files.listing() == {"x": files.info("x")}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_leaves_the_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    files = Files(str(tmp_path))
    files.write("x", b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("membrain_cloud.atomic.FLUSH", refuse)
    with pytest.raises(StorageError) as caught:
        files.write("x", b"new")
    assert caught.value.next_step
    assert files.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_other_disk_errors_are_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(TransientError):
        Files(str(tmp_path)).write("x", b"new")
    assert os.listdir(tmp_path) == []


def test_writes_in_progress_are_hidden(tmp_path: Path) -> None:
    (tmp_path / ".x.123.tmp").write_bytes(b"torn")
    files = Files(str(tmp_path))
    assert files.listing() == {}
    assert files.children() == {}


def test_late_writes_are_on_the_disk_after_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(
        "membrain_cloud.atomic.FLUSH", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    meter = Meter(late=True)
    files = Files(str(tmp_path)).metered(meter)
    for name in ("a/one", "two", "gone", "two"):
        files.write(name, name.encode())
    files.remove("gone")
    assert files.read("two") == b"two"
    assert flushed == []
    meter.flush()
    assert sorted(flushed) == [str(tmp_path / "a/one"), str(tmp_path / "two")]
    meter.flush()
    assert len(flushed) == 2
    Files(str(tmp_path)).metered(Meter()).write("three", b"3")
    assert len(flushed) == 3


def test_a_disk_that_refuses_the_flush_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(late=True)
    Files(str(tmp_path)).metered(meter).write("one", b"1")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("membrain_cloud.atomic.FLUSH", full)
    with pytest.raises(StorageError, match="one"):
        meter.flush()


def test_a_folder_beside_another(files: Files) -> None:
    receipts = files.below("membrain-cloud/receipts").metered(Meter())
    leases = receipts.beside("leases")
    leases.write("x", b"1")
    assert files.read("membrain-cloud/leases/x") == b"1"
    assert leases.url == f"{files.url}/membrain-cloud/leases"
    assert leases.meter is None
    assert pickle.loads(pickle.dumps(leases)).read("x") == b"1"  # noqa: S301
