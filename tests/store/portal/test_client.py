"""The portal's client, sent to a stand-in that follows the portal's schema, or to the endpoint that a variable names.

MEMBRAIN_CLOUD_TEST_PORTAL=URL also asks that endpoint, such as the portal itself.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryoet_data_portal import Annotation, Run, Tomogram

from membrain_cloud.errors import InputError, ProjectError, TransientError
from membrain_cloud.store.portal.client import PortalClient, cache_folder
from membrain_cloud.store.portal.selection import PortalQuery, select

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIELDS = ("id", "runId", ("run", ("name", ("dataset", ("organismName",)))))
REAL_ENDPOINT = os.environ.get("MEMBRAIN_CLOUD_TEST_PORTAL")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stub(portal_stub: Any) -> Iterator[Any]:
    """Serve nine tomograms with ids far apart, of three runs."""
    records = {
        "Dataset": [portal_stub.dataset(10001)],
        "Run": [portal_stub.run(key, 10001) for key in (1, 2, 3)],
        "Tomogram": [
            portal_stub.tomogram(key, 1 + i % 3) for i, key in enumerate([*range(5, 9), 70, 71, 900, 5000, 5001])
        ],
        "Annotation": [portal_stub.annotation(1, 2)],
    }
    served = portal_stub.PortalStub(records).start()
    yield served
    served.stop()


def test_pages_are_windows_of_ids_of_plain_records(stub: Any) -> None:
    client = PortalClient(stub.url, page=4)
    records = client.fetch(Tomogram, FIELDS)
    assert [record["id"] for record in records] == [5, 6, 7, 8, 70, 71, 900, 5000, 5001]
    assert records[0] == {"id": 5, "runId": 1, "run": {"name": "TS_1", "dataset": {"organismName": "Homo sapiens"}}}
    assert pickle.loads(pickle.dumps(records)) == records  # noqa: S301 (our own)
    assert client.requests == 3
    assert all("limit: 4, offset: 0" in query for query in stub.queries[-3:])
    assert "_gt: 8" in stub.queries[-2]
    assert "total" not in stub.queries[-1]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([Tomogram.id > 71, Tomogram.id <= 5000], [900, 5000]),
        ([Tomogram.run.name == "TS_2"], [6, 70, 5000]),
        ([Tomogram.run.dataset.organism_name.ilike("%SAPIENS%"), Tomogram.id._in([7, 8])], [7, 8]),
        ([Tomogram.voxel_spacing > 20], []),
    ],
)
def test_filters_are_the_expressions_of_the_client(stub: Any, filters: list[Any], ids: list[int]) -> None:
    assert [record["id"] for record in PortalClient(stub.url, page=2).fetch(Tomogram, ("id",), filters)] == ids


def test_requests_are_as_many_as_pages_of_tomograms(portal_stub: Any) -> None:
    crowd = portal_stub.PortalStub(portal_stub.crowd(600)).start()
    try:
        client = PortalClient(crowd.url, page=100)
        assert len(select(client, PortalQuery(unannotated=True), spacing_near_angstrom=10.0).tomograms) == 200
        assert client.requests == len(crowd.queries) == 6 + 1
    finally:
        crowd.stop()


def test_a_busy_portal_is_retried_and_a_refusal_is_not(stub: Any) -> None:
    reports: list[str] = []
    client = PortalClient(stub.url, wait_seconds=0.01, report=reports.append)
    stub.faults[:] = [503, 502, 429]
    assert len(client.fetch(Tomogram, ("id",))) == 9
    assert client.requests == 4
    assert len(reports) == 3
    assert "503 Service Unavailable" in reports[0]
    stub.faults[:] = [503] * 5
    with pytest.raises(TransientError, match="503"):
        client.fetch(Tomogram, ("id",))
    stub.faults[:] = [403]
    sent = client.requests
    with pytest.raises(InputError, match="403"):
        client.fetch(Tomogram, ("id",))
    assert client.requests == sent + 1


@pytest.mark.parametrize(
    ("fields", "filters", "complaint"),
    [
        (("id", "noSuchField"), [], "noSuchField"),
        (("id", ("run", ("noSuchField",))), [], "noSuchField"),
        (("id",), [Tomogram.processing == "smooth"], "smooth"),
        (("id",), [Tomogram.id == "ten"], "ten"),
    ],
)
def test_what_the_schema_lacks_is_refused(stub: Any, fields: Any, filters: Any, complaint: str) -> None:
    with pytest.raises(ProjectError, match=complaint):
        PortalClient(stub.url).fetch(Tomogram, fields, filters)


def test_a_query_that_the_server_refuses_is_a_project_error(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"errors": [{"message": "the schema has moved on"}], "data": None}
    monkeypatch.setattr(stub, "answer", lambda body: answer)
    with pytest.raises(ProjectError, match="the schema has moved on"):
        PortalClient(stub.url).fetch(Run, ("id",))


@pytest.mark.parametrize("answer", [[], {}, "text"])
def test_an_answer_that_is_not_graphql_is_transient(stub: Any, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(stub, "answer", lambda body: answer)
    client = PortalClient(stub.url, attempts=2, wait_seconds=0.01)
    with pytest.raises(TransientError, match="does not answer as the portal"):
        client.fetch(Run, ("id",))
    assert client.requests == 2


def test_an_absent_server_is_a_transient_error() -> None:
    client = PortalClient("http://127.0.0.1:9/graphql", attempts=2, wait_seconds=0.01)
    with pytest.raises(TransientError, match="does not answer"):
        client.fetch(Tomogram, ("id",))


def test_a_server_that_hangs_is_given_up_on(portal_stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = portal_stub.PortalStub({"Run": []}).start()
    monkeypatch.setattr(slow, "answer", lambda body: time.sleep(2) or {})
    try:
        with pytest.raises(TransientError, match="timed out"):
            PortalClient(slow.url, attempts=1, timeout_seconds=0.2).fetch(Run, ("id",))
    finally:
        slow.stop()


def test_smaller_pages_than_requested_are_read_to_the_end(stub: Any, portal_stub: Any) -> None:
    short = portal_stub.PortalStub(stub.records, cap=2).start()
    try:
        client = PortalClient(short.url)
        assert client.fetch(Tomogram, FIELDS) == PortalClient(stub.url).fetch(Tomogram, FIELDS)
        assert client.requests == 5
    finally:
        short.stop()


def test_records_that_vanish_between_pages_are_noticed(stub: Any, portal_stub: Any) -> None:
    records = {**stub.records, "Tomogram": list(stub.records["Tomogram"])}
    moving = portal_stub.PortalStub(records).start()
    try:
        client = PortalClient(moving.url, page=4, report=lambda line: records["Tomogram"].clear())
        with pytest.raises(TransientError, match="9 tomograms were announced, 8 came"):
            client.fetch(Tomogram, ("id",))
    finally:
        moving.stop()


def test_answers_are_cached(stub: Any) -> None:
    def again(hours: float) -> int:
        client = PortalClient(stub.url, cache_hours=hours)
        assert len(client.fetch(Tomogram, FIELDS)) == 9
        assert len(client.fetch(Annotation, ("id",))) == 1
        return client.requests

    assert [again(0), again(1), again(1), again(0)] == [2, 2, 0, 2]
    next(cache_folder().iterdir()).write_text("{torn")
    assert again(1) == 1
    PortalClient(stub.url).forget()
    assert again(1) == 2


@pytest.mark.skipif(REAL_ENDPOINT is None, reason="MEMBRAIN_CLOUD_TEST_PORTAL names no endpoint of the portal")
def test_the_named_endpoint_answers_a_selection() -> None:
    client = PortalClient(str(REAL_ENDPOINT), page=500)
    (first,) = client.fetch(Run, ("id", "datasetId"), [Run.id == client.fetch(Run, ("id",), [Run.id < 1000])[0]["id"]])
    selection = select(client, PortalQuery(datasets=(first["datasetId"],)), spacing_near_angstrom=10.0, limit=3)
    assert 0 < len(selection.tomograms) <= 3
    assert all(tomogram.url.startswith("s3://") for tomogram in selection.tomograms)
