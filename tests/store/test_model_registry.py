"""Model files are downloaded once, checked and cached; registries name them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import fsspec
import pytest

from membrain_cloud.errors import ModelError, StorageError, TransientError
from membrain_cloud.store.model_registry import (
    cache_folder,
    drop,
    fetch,
    read_registry,
    registry_location,
    split_pin,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"weights " * 100_000
SUM = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEMBRAIN_CLOUD_MODELS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def url() -> Iterator[str]:
    """Return the URL of an object in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/share/model.ckpt", CONTENT)
    yield "memory://share/model.ckpt"
    memory.rm("/share", recursive=True)


class Share(BaseHTTPRequestHandler):
    """A web server that answers as the requested path says, and records the requests."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status = int(self.path.split("/")[1])
        self.send_response(status)
        body = CONTENT if status == 200 else b"no"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if "short" in self.path else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def share() -> Iterator[str]:
    Share.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Share)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_is_downloaded_once(url: str, cache: Path, pinned: bool) -> None:
    promised = SUM if pinned else None
    path = fetch(url, promised)
    assert path == cache / SUM / "model.ckpt"
    assert path.read_bytes() == CONTENT
    assert not [name for name in files_in(cache) if name.endswith(".tmp")]
    fsspec.filesystem("memory").pipe_file("/share/model.ckpt", b"changed since")
    assert fetch(url, promised) == path
    assert path.read_bytes() == CONTENT


def test_only_downloads_of_killed_processes_are_removed(url: str, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    for name, age in ((".torn.tmp", 2 * 3600), (".running.tmp", 60)):
        (cache / name).write_bytes(b"half")
        os.utime(cache / name, (time.time() - age,) * 2)
    fetch(url, None)
    assert [path.name for path in cache.glob(".*")] == [".running.tmp"]


def test_errors_show_no_token(share: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(f"{share}/404/model.ckpt?token=abcdef", None)
    assert "abcdef" not in str(caught.value)
    assert "model.ckpt" in str(caught.value)


def test_a_dropped_file_is_fetched_again(url: str) -> None:
    path = fetch(url, None)
    assert drop(path)
    assert not path.exists()
    assert fetch(url, None) == path
    assert path.read_bytes() == CONTENT


def test_files_outside_the_cache_are_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "mine.ckpt").write_bytes(CONTENT)
    assert not drop(tmp_path / "mine.ckpt")
    assert (tmp_path / "mine.ckpt").exists()


def test_a_wrong_hash_leaves_no_file_and_is_named(url: str, cache: Path) -> None:
    with pytest.raises(ModelError, match=f"{SUM}, not {OTHER}"):
        fetch(url, OTHER)
    assert files_in(cache) == []


def test_local_files_are_used_in_place(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "my model.ckpt"
    path.write_bytes(CONTENT)
    assert fetch(str(path), None) == fetch(f"file://{path}", None) == path
    assert not cache.exists()
    with pytest.raises(ModelError, match="no such file"):
        fetch(f"file://{tmp_path}/none.ckpt", None)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("200/model.ckpt", "model.ckpt"),
        ("200/s/abc/download?path=%2F&files=a/b.ckpt", "download"),
        ("200/%2e%2e%2Fpasswd", "_passwd"),
        ("200/a%20b;c.ckpt", "a_b_c.ckpt"),
    ],
)
def test_file_names_from_urls_are_sanitised(share: str, cache: Path, name: str, kept: str) -> None:
    path = fetch(f"{share}/{name}", SUM)
    assert path.parent == cache / SUM
    assert path.name == kept
    assert path.read_bytes() == CONTENT


def test_a_second_request_reads_the_cache(share: str) -> None:
    for _ in range(3):
        fetch(f"{share}/200/model.ckpt", None)
    assert Share.asked == ["/200/model.ckpt"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_refusal_is_a_model_error(share: str, cache: Path, status: int) -> None:
    with pytest.raises(ModelError, match=rf"127\.0\.0\.1.*/{status}/model\.ckpt"):
        fetch(f"{share}/{status}/model.ckpt", None)
    assert files_in(cache) == []


@pytest.mark.parametrize("path", ["429/model.ckpt", "500/model.ckpt", "503/model.ckpt", "200/short.ckpt"])
def test_faults_that_may_pass_are_transient(share: str, cache: Path, path: str) -> None:
    with pytest.raises(TransientError):
        fetch(f"{share}/{path}", None)
    assert files_in(cache) == []


def test_an_absent_server_is_transient() -> None:
    with pytest.raises(TransientError):
        fetch("http://127.0.0.1:9/model.ckpt", None)


@pytest.mark.parametrize(
    ("location", "cause"),
    [
        ("memory://share/none.ckpt", "nothing is there"),
        ("gopher://x/y", "cannot be fetched"),
        ("memory://share", "not a file"),
    ],
)
def test_an_absent_file_is_a_model_error(url: str, cache: Path, location: str, cause: str) -> None:
    with pytest.raises(ModelError, match=cause):
        fetch(location, None)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises((StorageError, TransientError), match="model cache"):
        fetch(url, None)


def _fetch_often(url: str, ready: object, done: object) -> None:
    ready.wait()  # type: ignore[attr-defined]
    path = fetch(url, SUM)
    done.put((str(path), hashlib.sha256(path.read_bytes()).hexdigest()))  # type: ignore[attr-defined]


def test_concurrent_downloads_are_whole(share: str, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_fetch_often, args=(f"{share}/200/model.ckpt", ready, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {done.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {(str(cache / SUM / "model.ckpt"), SUM)}
    assert files_in(cache) == [f"{SUM}/model.ckpt"]


def test_a_pin_is_read_from_the_end() -> None:
    assert split_pin("https://host/a.ckpt") == ("https://host/a.ckpt", None)
    assert split_pin(f"https://host/a.ckpt#sha256={SUM.upper()}") == ("https://host/a.ckpt", SUM)
    assert split_pin(f"a#b.ckpt#sha256={SUM}") == ("a#b.ckpt", SUM)
    for bad in ("", "abc", SUM[:-1], SUM + "0", "g" * 64):
        with pytest.raises(ModelError, match="64 hex digits"):
            split_pin(f"a.ckpt#sha256={bad}")


def entry(**more: object) -> dict[str, object]:
    return {"url": "memory://share/model.ckpt", "sha256": SUM, **more}


def test_the_environment_names_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry_location() is None
    assert read_registry(None) == {}
    default = tmp_path / "home" / ".config" / "membrain_cloud" / "models.yaml"
    default.parent.mkdir(parents=True)
    default.write_text("models: {}")
    assert registry_location() == str(default)
    monkeypatch.setenv("MEMBRAIN_CLOUD_MODELS", "https://host/models.json")
    assert registry_location() == "https://host/models.json"


def test_a_registry_is_read_from_yaml_json_and_urls(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text(json.dumps({"models": {"v10": entry(window=128)}}))
    (tmp_path / "models.yaml").write_text(
        f"models:\n  v10:\n    url: memory://share/model.ckpt\n    sha256: {SUM.upper()}\n    window: 128\n"
    )
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/registry/models.yaml", (tmp_path / "models.yaml").read_bytes())
    read = [read_registry(str(tmp_path / name)) for name in ("models.json", "models.yaml")]
    read.append(read_registry("memory://registry/models.yaml"))
    memory.rm("/registry", recursive=True)
    assert read[0] == read[1] == read[2]
    found = read[0]["v10"]
    assert (found.sha256, found.window, found.voxel_spacing_angstrom) == (SUM, 128, None)


def test_paths_of_a_registry_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text(json.dumps({"models": {"v10": entry(url="files/a.ckpt")}}))
    assert read_registry(str(tmp_path / "models.json"))["v10"].url == str(tmp_path / "files" / "a.ckpt")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/registry/models.json", (tmp_path / "models.json").read_bytes())
    assert read_registry("memory://registry/models.json")["v10"].url == "memory://registry/files/a.ckpt"
    memory.rm("/registry", recursive=True)


@pytest.mark.parametrize(
    ("models", "cause"),
    [
        ({"v10": {"url": "a.ckpt"}}, "v10.sha256: field required"),
        ({"v10": entry(sha256="123")}, "v10.sha256"),
        ({"v10": entry(sha256=SUM + "\n")}, "v10.sha256"),
        ({"v10": entry(url="")}, "v10.url"),
        ({"v10": entry(colour="blue")}, "v10.colour"),
        ({"v10": entry(voxel_spacing_angstrom=0)}, "v10.voxel_spacing_angstrom"),
        ({"v10": entry(window=-1)}, "v10.window"),
        ({"../v10": entry()}, "../v10"),
        ({"v10\n": entry()}, "v10"),
        ({"": entry()}, "models"),
        ([], "models"),
    ],
)
def test_a_malformed_registry_is_refused(tmp_path: Path, models: object, cause: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": models}))
    with pytest.raises(ModelError) as caught:
        read_registry(str(path))
    assert str(path) in caught.value.message
    assert cause in caught.value.message


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"a: b: c", b"- 1", b""])
def test_a_file_that_is_no_registry_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"models\.yaml"):
        read_registry(str(path))
    with pytest.raises(ModelError, match="no such file"):
        read_registry(str(tmp_path / "none.yaml"))


def test_the_default_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMBRAIN_CLOUD_CACHE")
    assert cache_folder() == tmp_path / "home" / ".cache" / "membrain_cloud" / "models"
