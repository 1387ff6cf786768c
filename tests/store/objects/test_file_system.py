"""The options of file systems: given ones come first, and keys in URLs are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec
import pytest

from membrain_cloud.errors import StorageError, TransientError, UsageError
from membrain_cloud.store.objects.file_system import is_local, is_web, open_root, with_defaults

if TYPE_CHECKING:
    from pathlib import Path


def test_s3_gets_one_request_per_chunk_and_no_retries_of_its_own() -> None:
    options = with_defaults("s3://bucket/x", {"anon": True})
    assert options["anon"]
    assert options["max_concurrency"] == 1
    assert options["config_kwargs"]["retries"] == {"total_max_attempts": 1}
    assert options["use_listings_cache"] is False
    given = with_defaults("s3://bucket", {"max_concurrency": 4, "config_kwargs": {"retries": {"mode": "standard"}}})
    assert (given["max_concurrency"], given["config_kwargs"]["retries"]) == (4, {"mode": "standard"})
    assert with_defaults("/data", {}) == {}
    with pytest.raises(UsageError, match="user or a key"):
        with_defaults("s3://key:secret@bucket/x", {})


def test_kinds_of_urls() -> None:
    assert [url for url in ("/a", "a", "file:///a", "s3://a", "https://a") if is_local(url)] == ["/a", "a", "file:///a"]
    assert [url for url in ("/a", "s3://a", "http://a", "https://a") if is_web(url)] == ["http://a", "https://a"]


def test_a_plain_path_opens_as_fsspec_opens_it(tmp_path: Path) -> None:
    for path in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/a/../b"):
        file_system, root = open_root(path, {})
        expected, expected_root = fsspec.core.url_to_fs(path)
        assert (type(file_system), root) == (type(expected), expected_root)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises((StorageError, TransientError, ValueError)):
        open_root("nowhere://x", {})
