"""Requests to the CryoET Data Portal: plain GraphQL over POST, page by page, retried, and cached on disk.

The portal's own client asks for everything in one answer, which its server gives up on for large selections. Here a
page has at most `page` records, and the first request also asks for their number, so a truncated answer is noticed.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from membrain_cloud.errors import InputError, ProjectError, TransientError
from membrain_cloud.store.model_registry import CACHE_VARIABLE
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.version import __version__

Report = Callable[[str], None]

# HTTP status codes after which a retry may succeed.
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CHECK = "check the setting portal.endpoint"
_LONGEST_WAIT_SECONDS = 60.0


@dataclass
class PortalClient:
    """A client of one GraphQL endpoint.

    Attributes
    ----------
    endpoint : str
        URL of the endpoint.
    page : int
        Records per request. Default: 1000.
    attempts : int
        Attempts of one request, with back-off between them. Default: 5.
    timeout_seconds : float
        Longest time without an answer. Default: 120.
    cache_hours : float
        Age up to which answers are taken from the disk. Default: 0, never.
    wait_seconds : float
        Mean wait before the first retry; it doubles with each. Default: 1.
    report : callable
        Called with one sentence on progress and on each retry.
    requests : int
        Number of requests that were sent.
    """

    endpoint: str
    page: int = 1000
    attempts: int = 5
    timeout_seconds: float = 120.0
    cache_hours: float = 0.0
    wait_seconds: float = 1.0
    report: Report = lambda line: None
    requests: int = 0
    _jitter: random.Random = field(default_factory=random.Random, repr=False)

    def fetch(
        self, records: str, fields: str, where: Mapping[str, Any], page: int | None = None
    ) -> list[dict[str, Any]]:
        """Return all records of a kind that match a filter, sorted by id.

        Parameters
        ----------
        records : str
            The kind, in the plural: `tomograms`.
        fields : str
            Fields of each record, in GraphQL.
        where : Mapping
            The filter.
        page : int, optional
            Records per request. Default: the client's.

        Raises
        ------
        ProjectError
            If the portal refuses the query.
        TransientError
            If it does not answer, or changes during the requests.
        """
        kind = records[0].upper() + records[1:-1]
        first = (
            f"query Count($where: {kind}WhereClause, $page: LimitOffsetClause) {{"
            f" total: {records}Aggregate(where: $where) {{ aggregate {{ count }} }}"
            f" found: {records}(where: $where, orderBy: [{{id: asc}}], limitOffset: $page) {{ {fields} }} }}"
        )
        next_page = (
            f"query Page($where: {kind}WhereClause, $page: LimitOffsetClause) {{"
            f" found: {records}(where: $where, orderBy: [{{id: asc}}], limitOffset: $page) {{ {fields} }} }}"
        )
        answer = self.ask(first, {"where": where, "page": {"limit": page or self.page, "offset": 0}})
        result = list(answer["found"])
        total = sum(int(group["count"] or 0) for group in answer["total"]["aggregate"] or ())
        while len(result) < total:
            part = {"limit": page or self.page, "offset": len(result)}
            more = self.ask(next_page, {"where": where, "page": part})["found"]
            if not more:
                break
            result += more
            self.report(f"{records}: {len(result)} of {total}")
        if len(result) != total or len({record["id"] for record in result}) != total:
            self.forget()
            raise TransientError(
                f"{self.endpoint}: {total} {records} were announced, {len(result)} came",
                "the portal changed while it was read: run again",
            )
        return result

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Send one query, or take its answer from the disk.

        Parameters
        ----------
        query : str
            The query in GraphQL.
        variables : Mapping
            Its variables.

        Returns
        -------
        dict
            The `data` of the answer.

        Raises
        ------
        ProjectError
            If the portal refuses the query.
        TransientError
            If it does not answer.
        """
        body = json.dumps({"query": query, "variables": variables}, sort_keys=True).encode()
        name = hashlib.sha256(self.endpoint.encode() + b"\n" + body).hexdigest() + ".json"
        cached = self._cached(name)
        if cached is not None:
            return cached
        answer = self._post_with_retries(body)
        if answer.get("errors"):
            complaint = "; ".join(str(error.get("message", error)) for error in answer["errors"])[:500]
            raise ProjectError(
                f"{self.endpoint} refuses the query: {complaint}",
                "check the filters; the portal's schema may have changed (this one is of cryoet-data-portal 4.9)",
            )
        if not isinstance(answer.get("data"), dict):
            raise TransientError(f"{self.endpoint}: the answer has no data", f"run again; {_CHECK}")
        if self.cache_hours > 0:
            _cache().write(name, json.dumps(answer["data"]).encode())
        return dict(answer["data"])

    def forget(self) -> None:
        """Remove every cached answer."""
        for name in _cache().children():
            _cache().remove(name)

    def _cached(self, name: str) -> dict[str, Any] | None:
        path = cache_folder() / name
        try:
            if self.cache_hours > 0 and time.time() - path.stat().st_mtime < self.cache_hours * 3600:
                return dict(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            pass
        return None

    def _post_with_retries(self, body: bytes) -> dict[str, Any]:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._post(body)
            except TransientError as error:
                if attempt == self.attempts:
                    raise
                wait = min(_LONGEST_WAIT_SECONDS, self.wait_seconds * 2 ** (attempt - 1))
                wait *= 0.5 + self._jitter.random()
                self.report(f"{error.message}; tried again in {wait:.1f} s")
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, body: bytes) -> dict[str, Any]:
        request = urllib.request.Request(self.endpoint, body, method="POST")
        for key, value in (
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "gzip"),
            ("User-Agent", f"membrain_cloud/{__version__}"),
        ):
            request.add_header(key, value)
        self.requests += 1
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                content = response.read()
                if response.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
            return dict(json.loads(content))
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read(300).decode(errors="replace").strip()
            message = f"{self.endpoint} answers {error.code} {error.reason} {detail}".strip()
            if error.code in _TRANSIENT_STATUS:
                raise TransientError(message, "run again later") from error
            raise InputError(message, _CHECK) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, EOFError) as error:
            raise TransientError(
                f"{self.endpoint} does not answer ({error})", "check the network, run again"
            ) from error
        except ValueError as error:
            raise TransientError(f"{self.endpoint}: the answer is no JSON ({error})", _CHECK) from error


def cache_folder() -> Path:
    """Return the folder of cached answers: `portal` in $MEMBRAIN_CLOUD_CACHE, or in `~/.cache/membrain_cloud`."""
    folder = os.environ.get(CACHE_VARIABLE)
    return (Path(folder).expanduser() if folder else Path.home() / ".cache" / "membrain_cloud") / "portal"


def _cache() -> Files:
    return Files(str(cache_folder()))
