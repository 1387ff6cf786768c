"""Questions to the CryoET Data Portal: plain GraphQL over POST, page by page, tried again, kept on disk.

Its own client asks for everything in one answer, which the portal's server gives up on for large selections; here a
page is at most `page` records and the number of records is asked for with the first, so that an answer cut short is
noticed.
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

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_CHECK = "check the setting portal.endpoint"
_LONGEST_WAIT_SECONDS = 60.0


@dataclass
class PortalClient:
    """One GraphQL endpoint.

    page : records a request.  attempts : of one request before it is given up, with back-off between them.
    cache_hours : answers younger than this are taken from the disk; 0: none is.  requests : how many were sent.
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
        """All records of a kind (`tomograms`) that `where` lets through, sorted by id, each with `fields`.

        page : records a request, in place of the client's.

        Raises ProjectError when the portal refuses the question, TransientError when it does not answer or changes
        while it is read.
        """
        kind = records[0].upper() + records[1:-1]
        first = (
            f"query Count($where: {kind}WhereClause, $page: LimitOffsetClause) {{"
            f" total: {records}Aggregate(where: $where) {{ aggregate {{ count }} }}"
            f" found: {records}(where: $where, orderBy: [{{id: asc}}], limitOffset: $page) {{ {fields} }} }}"
        )
        further = (
            f"query Page($where: {kind}WhereClause, $page: LimitOffsetClause) {{"
            f" found: {records}(where: $where, orderBy: [{{id: asc}}], limitOffset: $page) {{ {fields} }} }}"
        )
        answer = self.ask(first, {"where": where, "page": {"limit": page or self.page, "offset": 0}})
        found = list(answer["found"])
        total = sum(int(group["count"] or 0) for group in answer["total"]["aggregate"] or ())
        while len(found) < total:
            part = {"limit": page or self.page, "offset": len(found)}
            more = self.ask(further, {"where": where, "page": part})["found"]
            if not more:
                break
            found += more
            self.report(f"{records}: {len(found)} of {total}")
        if len(found) != total or len({record["id"] for record in found}) != total:
            self.forget()
            raise TransientError(
                f"{self.endpoint}: {total} {records} were announced, {len(found)} came",
                "the portal changed while it was read: run again",
            )
        return found

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """One question; the answer's `data`."""
        body = json.dumps({"query": query, "variables": variables}, sort_keys=True).encode()
        name = hashlib.sha256(self.endpoint.encode() + b"\n" + body).hexdigest() + ".json"
        kept = self._kept(name)
        if kept is not None:
            return kept
        answer = self._ask_again(body)
        if answer.get("errors"):
            complaint = "; ".join(str(error.get("message", error)) for error in answer["errors"])[:500]
            raise ProjectError(
                f"{self.endpoint} refuses the question: {complaint}",
                "check the options; the portal's schema may have changed (this one is of cryoet-data-portal 4.9)",
            )
        if not isinstance(answer.get("data"), dict):
            raise TransientError(f"{self.endpoint}: the answer has no data", f"run again; {_CHECK}")
        if self.cache_hours > 0:
            _cache().write(name, json.dumps(answer["data"]).encode())
        return dict(answer["data"])

    def forget(self) -> None:
        """Drop every answer that is kept on disk."""
        for name in _cache().children():
            _cache().remove(name)

    def _kept(self, name: str) -> dict[str, Any] | None:
        path = cache_folder() / name
        try:
            if self.cache_hours > 0 and time.time() - path.stat().st_mtime < self.cache_hours * 3600:
                return dict(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            pass
        return None

    def _ask_again(self, body: bytes) -> dict[str, Any]:
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
            if error.code in _PASSING:
                raise TransientError(message, "run again later") from error
            raise InputError(message, _CHECK) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, EOFError) as error:
            raise TransientError(
                f"{self.endpoint} does not answer ({error})", "check the network, run again"
            ) from error
        except ValueError as error:
            raise TransientError(f"{self.endpoint}: the answer is no JSON ({error})", _CHECK) from error


def cache_folder() -> Path:
    """Where answers are kept: `portal` in the folder that MEMBRAIN_CLOUD_CACHE names, else in ~/.cache."""
    given = os.environ.get(CACHE_VARIABLE)
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "membrain_cloud") / "portal"


def _cache() -> Files:
    return Files(str(cache_folder()))
