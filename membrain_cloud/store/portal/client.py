"""Requests to the CryoET Data Portal by its own client: plain records in windows of ids, retried, and cached on disk.

`find` of the portal's client asks for all records and all their fields in one answer, which its server gives up on for
large selections, and makes objects that do not pickle. Here filters, schema and queries are the client's, but an answer
has the wanted fields of at most `page` records above the last id. The first answer also says how many records there
are, so a truncated answer is noticed.
"""

from __future__ import annotations

import hashlib
import http
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryoet_data_portal
from gql import Client as GraphQLClient
from gql.dsl import DSLQuery, dsl_gql
from gql.transport.exceptions import TransportError, TransportQueryError, TransportServerError
from gql.transport.requests import RequestsHTTPTransport
from graphql import GraphQLError

from membrain_cloud.errors import InputError, ProjectError, TransientError
from membrain_cloud.store.model_registry import CACHE_VARIABLE
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from gql import GraphQLRequest

Report = Callable[[str], None]
Fields = Sequence["str | tuple[str, Fields]"]
"""Names of a record's fields, as in the portal's schema; a relation is a pair of its name and the fields there."""

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
        self, model: Any, fields: Fields, filters: Sequence[Any] = (), page: int | None = None
    ) -> list[dict[str, Any]]:
        """Return all records of a kind that match filters, sorted by id.

        Parameters
        ----------
        model : subclass of the client's Model
            The kind, such as `cryoet_data_portal.Tomogram`.
        fields : Fields
            Fields of each record, `id` among them.
        filters : sequence of the client's expressions
            Conditions that all hold, such as `Tomogram.voxel_spacing > 8`. Default: none.
        page : int, optional
            Records per request. Default: the client's.

        Returns
        -------
        list of dict
            The records, as the portal's interface returns them.

        Raises
        ------
        ProjectError
            If the portal refuses the query.
        InputError
            If it refuses the request.
        TransientError
            If it does not answer, or changes during the requests.
        """
        window = _Window(self, fields, page or self.page, with_total=True)
        answer: tuple[list[dict[str, Any]], int] = model.find(window, filters)
        result, total = answer
        what = model.__name__.lower() + "s"
        while len(result) < total:
            window.with_total = False
            more, _ = model.find(window, [*filters, model.id > result[-1]["id"]])
            if not more:
                break
            result += more
            self.report(f"{what}: {len(result)} of {total}")
        if len(result) != total or len({record["id"] for record in result}) != total:
            self.forget()
            raise TransientError(
                f"{self.endpoint}: {total} {what} were announced, {len(result)} came",
                "the portal changed while it was read: run again",
            )
        return result

    def forget(self) -> None:
        """Remove every cached answer."""
        for name in _cache().children():
            _cache().remove(name)

    @property
    def _portal(self) -> _Portal:
        return _opened(self.endpoint, self.timeout_seconds)

    def _ask(self, query: GraphQLRequest) -> dict[str, Any]:
        """Return the answer to a query, with retries."""
        for attempt in range(1, self.attempts + 1):
            self.requests += 1
            try:
                return self._portal.ask(query)
            except TransientError as error:
                if attempt == self.attempts:
                    raise
                wait = min(_LONGEST_WAIT_SECONDS, self.wait_seconds * 2 ** (attempt - 1))
                wait *= 0.5 + self._jitter.random()
                self.report(f"{error.message}; tried again in {wait:.1f} s")
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


@dataclass
class _Window:
    """What the client's `Model.find` sends its filters to: one request for the first records that match.

    Attributes
    ----------
    client : PortalClient
        Sends the request.
    fields : Fields
        Fields of each record.
    limit : int
        Number of records at most.
    with_total : bool
        Whether the number of all matching records is asked for as well.
    """

    client: PortalClient
    fields: Fields
    limit: int
    with_total: bool

    def find(self, model: Any, where: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """Return records sorted by id, from the disk or by a request, and how many match (0 if it was not asked)."""
        asked = [self.client.endpoint, model.__name__, where, self.fields, self.limit, self.with_total]
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest() + ".json"
        answer = _cached(name, self.client.cache_hours)
        if answer is None:
            answer = self.client._ask(self._query(model, where))
            if self.client.cache_hours > 0:
                _cache().write(name, json.dumps(answer).encode())
        groups = answer["total"]["aggregate"] or () if self.with_total else ()
        return list(answer["records"]), sum(int(group["count"] or 0) for group in groups)

    def _query(self, model: Any, where: dict[str, Any]) -> GraphQLRequest:
        schema, records = self.client._portal.ds, model._get_gql_root_field()
        try:
            page = getattr(schema.Query, records)(
                where=where, orderBy=[{"id": "asc"}], limitOffset={"limit": self.limit, "offset": 0}
            ).select(*_selected(schema, getattr(schema, model._get_gql_type()), self.fields))
            asked = {"records": page}
            if self.with_total:
                kind = getattr(schema, f"{model._get_gql_type()}Aggregate")
                count = getattr(schema, f"{model._get_gql_type()}AggregateFunctions").count
                total = getattr(schema.Query, f"{records}Aggregate")(where=where)
                asked["total"] = total.select(kind.aggregate.select(count))
            return dsl_gql(DSLQuery(**asked))
        except (GraphQLError, AttributeError) as error:
            raise _refused(self.client.endpoint, str(error)) from error


class _Portal(cryoet_data_portal.Client):  # type: ignore[misc]  # it has no types
    """The portal's client with a time limit, and without retries of its own, which would not be counted."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        super().__init__(url)
        self._timeout_seconds = timeout_seconds

    def get_client(self) -> GraphQLClient:
        headers = {"User-Agent": f"membrain_cloud/{__version__}"}
        transport = RequestsHTTPTransport(self.url, headers=headers, timeout=self._timeout_seconds)  # type: ignore[arg-type]
        return GraphQLClient(transport=transport, schema=self.schema)

    def ask(self, query: GraphQLRequest) -> dict[str, Any]:
        """Send a query once and return the data of the answer."""
        try:
            return dict(self.get_client().execute(query))
        except TransportServerError as error:
            status = error.code or 0
            reason = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else ""
            message = f"{self.url} answers {status} {reason}".strip()
            if status in _TRANSIENT_STATUS:
                raise TransientError(message, "run again later") from error
            raise InputError(message, _CHECK) from error
        except TransportQueryError as error:
            complaints = (str(each.get("message", each)) for each in error.errors or [{"message": str(error)}])
            raise _refused(self.url, "; ".join(complaints)) from error
        except GraphQLError as error:
            raise _refused(self.url, str(error)) from error
        except (TransportError, OSError) as error:
            raise TransientError(
                f"{self.url} does not answer as the portal ({str(error)[:300]})",
                f"run again; check the network; {_CHECK}",
            ) from error


@lru_cache(maxsize=4)
def _opened(endpoint: str, timeout_seconds: float) -> _Portal:
    """Return the portal's client of an endpoint. It is kept, because it takes a second to parse the schema."""
    return _Portal(endpoint, timeout_seconds)


def cache_folder() -> Path:
    """Return the folder of cached answers: `portal` in $MEMBRAIN_CLOUD_CACHE, or in `~/.cache/membrain_cloud`."""
    folder = os.environ.get(CACHE_VARIABLE)
    return (Path(folder).expanduser() if folder else Path.home() / ".cache" / "membrain_cloud") / "portal"


def _cache() -> Files:
    return Files(str(cache_folder()))


def _cached(name: str, hours: float) -> dict[str, Any] | None:
    path = cache_folder() / name
    try:
        if hours > 0 and time.time() - path.stat().st_mtime < hours * 3600:
            return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        pass
    return None


def _selected(schema: Any, kind: Any, fields: Fields) -> list[Any]:
    """Return fields as the client's schema has them, those of relations within their relation."""
    selected = []
    for name in fields:
        if isinstance(name, str):
            selected.append(getattr(kind, name))
        else:
            relation = getattr(kind, name[0])
            related = getattr(schema, _named_type(relation.field.type))
            selected.append(relation.select(*_selected(schema, related, name[1])))
    return selected


def _named_type(kind: Any) -> str:
    """Return the name of a type of the schema, whether it is a list or may be null."""
    while hasattr(kind, "of_type"):
        kind = kind.of_type
    return str(kind.name)


def _refused(endpoint: str, complaint: str) -> ProjectError:
    return ProjectError(
        f"{endpoint} refuses the query: {complaint[:500]}",
        "check the filters; the portal's schema may have changed (this one is of cryoet-data-portal "
        f"{cryoet_data_portal.__version__})",
    )
