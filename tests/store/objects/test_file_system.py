"""The options of file systems: given ones come first, and keys in URLs are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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


def test_the_portal_is_asked_at_aws_and_results_at_their_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://storage.googleapis.com")
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    hosts = {}
    for url in ("s3://cryoet-data-portal-public/1", "s3://results/x"):
        file_system, _ = open_root(url, with_defaults(url, {"anon": True}))
        file_system.connect()
        hosts[url] = urlsplit(file_system._s3.meta.endpoint_url).hostname
        checksum = file_system._s3.meta.config.request_checksum_calculation
        assert checksum == ("when_required" if "results" in url else "when_supported")
    assert hosts["s3://cryoet-data-portal-public/1"].endswith("amazonaws.com")
    assert hosts["s3://results/x"] == "storage.googleapis.com"
    mirror = with_defaults("s3://cryoet-data-portal-public/1", {"endpoint_url": "https://mirror.example.org"})
    assert "ignore_configured_endpoint_urls" not in mirror["config_kwargs"]


@pytest.mark.parametrize("endpoint", ["https://s3.us-west-2.amazonaws.com", ""])
def test_checksums_are_kept_at_aws_and_where_asked_for(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert "request_checksum_calculation" not in with_defaults("s3://b", {})["config_kwargs"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example.org")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    assert "request_checksum_calculation" not in with_defaults("s3://b", {})["config_kwargs"]


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
