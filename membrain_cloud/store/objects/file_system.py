"""The fsspec file system of a URL, opened with the arguments that the store depends on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec

from membrain_cloud.errors import UsageError
from membrain_cloud.store.objects.error_mapping import translated_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL_PROTOCOLS = {"file", "local"}
_S3_PROTOCOLS = {"s3", "s3a"}
_WEB_PROTOCOLS = {"http", "https"}
_GOOGLE_PROTOCOLS = {"gs", "gcs"}
# Buckets that are at AWS alone: an endpoint that the environment gives for the results is not for them.
_AWS_BUCKETS = {"cryoet-data-portal-public"}
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CHECKSUM_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"
# s3fs's own attempts of one request, beside those of `Files`.
_CLIENT_ATTEMPTS = 2


def is_local(url: str) -> bool:
    """Return whether a URL is a path on this machine.

    Parameters
    ----------
    url : str
        A path, or a URL.
    """
    return _protocol(url) in _LOCAL_PROTOCOLS


def is_web(url: str) -> bool:
    """Return whether a URL leads to a web server, which does not list objects.

    Parameters
    ----------
    url : str
        A path, or a URL.
    """
    return _protocol(url) in _WEB_PROTOCOLS


def with_defaults(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the file system, with the defaults that the store depends on.

    Parameters
    ----------
    url : str
        Path or URL.
    options : Mapping
        Arguments that were given; they come before the defaults.

    Raises
    ------
    UsageError
        If the URL of a bucket holds a user or a key.
    """
    merged = dict(options)
    if not is_local(url):
        merged.setdefault("use_listings_cache", False)
    if _protocol(url) in _S3_PROTOCOLS:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError(f"{url}: a bucket's URL with a user or a key", "give keys by the environment")
        # More than one makes s3fs ask for the size first: two requests per chunk.
        merged.setdefault("max_concurrency", 1)
        merged["config_kwargs"] = _client_settings(url, merged) | dict(merged.get("config_kwargs") or {})
    elif _protocol(url) in _WEB_PROTOCOLS:
        # Proxies of the environment, which aiohttp ignores unless it is told.
        merged["client_kwargs"] = {"trust_env": True} | dict(merged.get("client_kwargs") or {})
    elif _protocol(url) in _GOOGLE_PROTOCOLS:
        merged["session_kwargs"] = {"trust_env": True} | dict(merged.get("session_kwargs") or {})
    return merged


def _client_settings(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of botocore for the endpoint that a bucket is at."""
    # botocore would retry each of s3fs's attempts five times: 40 s of silence for one 503.
    settings: dict[str, Any] = {"retries": {"total_max_attempts": 1}}
    endpoint = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    if endpoint is None and url.partition("://")[2].partition("/")[0] in _AWS_BUCKETS:
        settings["ignore_configured_endpoint_urls"] = True
        return settings
    endpoint = endpoint or next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)
    if endpoint is not None and not _is_aws(endpoint) and _CHECKSUM_VARIABLE not in os.environ:
        # Google's and older S3 servers refuse the checksums that botocore adds to each request.
        settings["request_checksum_calculation"] = "when_required"
    return settings


def _is_aws(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def open_root(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Open the file system of a URL.

    Parameters
    ----------
    url : str
        Path or URL.
    options : Mapping
        Arguments of the file system; see `with_defaults`.

    Returns
    -------
    file_system : fsspec.AbstractFileSystem
        The file system.
    root : str
        The path of the URL in it.

    Raises
    ------
    StorageError, TransientError
        If the file system cannot be opened.
    """
    with translated_errors(url, "opened"):
        if url.startswith("/") and "::" not in url and "://" not in url:
            # A plain path, which workers open often; `url_to_fs` takes ten times as long.
            fs = fsspec.filesystem("file", **options)
            root = fs._strip_protocol(url)
        else:
            fs, root = fsspec.core.url_to_fs(url, **options)
    if _protocol(url) in _S3_PROTOCOLS and hasattr(fs, "retries"):
        fs.retries = _CLIENT_ATTEMPTS
    return fs, str(root)


def _protocol(url: str) -> str:
    return fsspec.core.split_protocol(url)[0] or "file"
