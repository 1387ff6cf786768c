"""A stand-in for the CryoET Data Portal: graphql-core over the schema that ships in its client, on loopback.

Records are plain dictionaries with the schema's field names; relations follow from the names of the id fields. This
package's client and the portal's own (through copick) send it the same queries as the real portal.

    python tests/standins/portal_stub.py N      serve N invented tomograms and print the URL, until it is killed
"""

from __future__ import annotations

import fnmatch
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import graphql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Record = dict[str, Any]
DATE = "2024-05-01T00:00:00+00:00"

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "_eq": lambda value, to: value == to,
    "_neq": lambda value, to: value != to,
    "_in": lambda value, to: value in to,
    "_nin": lambda value, to: value not in to,
    "_gt": lambda value, to: value is not None and value > to,
    "_gte": lambda value, to: value is not None and value >= to,
    "_lt": lambda value, to: value is not None and value < to,
    "_lte": lambda value, to: value is not None and value <= to,
    "_is_null": lambda value, to: (value is None) == to,
    "_like": lambda value, to: value is not None and fnmatch.fnmatchcase(value, to.replace("%", "*")),
    "_ilike": lambda value, to: value is not None and fnmatch.fnmatchcase(value.lower(), to.lower().replace("%", "*")),
}


class PortalStub:
    """A GraphQL server with the portal's schema.

    Parameters
    ----------
    records : mapping of str to list of dict
        The records by type name.
    cap : int, optional
        Largest number of records in a response, whatever was requested. Default: no limit.

    Attributes
    ----------
    faults : list of int
        HTTP statuses of the next responses; 0 for a regular response.
    queries : list of str
        All queries so far.
    """

    def __init__(self, records: Mapping[str, list[Record]], cap: int | None = None) -> None:
        text = (files("cryoet_data_portal") / "data" / "schema.graphql").read_text()
        self.schema = graphql.build_schema(text)
        self.records = records
        self.cap = cap
        self.faults: list[int] = []
        self.queries: list[str] = []
        self.by_id = {kind: {record["id"]: record for record in rows} for kind, rows in records.items()}
        self.children: dict[tuple[str, str], dict[Any, list[Record]]] = {}
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = stub.faults.pop(0) if stub.faults else 0
                content = b"busy" if status else json.dumps(stub.answer(body)).encode()
                self.send_response(status or 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/graphql"

    def start(self) -> PortalStub:
        """Serve from a thread."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to a GraphQL request."""
        self.queries.append(body["query"])
        result = graphql.graphql_sync(
            self.schema, body["query"], variable_values=body.get("variables"), field_resolver=self.resolve
        )
        return result.formatted  # type: ignore[return-value]

    def resolve(self, source: Any, info: graphql.GraphQLResolveInfo, **arguments: Any) -> Any:
        """Return the value of a field: a record's own, a count, a page of records, or a related record."""
        if isinstance(source, dict) and info.field_name in source:
            return source[info.field_name]
        kind = graphql.get_named_type(info.return_type)
        if not isinstance(kind, graphql.GraphQLObjectType):
            return None
        name = kind.name
        if name.endswith("Aggregate"):
            rows = self.matching(name.removesuffix("Aggregate"), arguments.get("where"))
            return {"aggregate": [{"count": len(list(rows))}]}
        if info.parent_type.name == "Query":
            return self.page(name, arguments)
        return self.parent(name, source.get(f"{info.field_name}Id")) if isinstance(source, dict) else None

    def page(self, kind: str, arguments: Mapping[str, Any]) -> list[Record]:
        """Return the records that a query requests, sorted and cut to its window."""
        records = list(self.matching(kind, arguments.get("where")))
        for order in reversed(arguments.get("orderBy") or ()):
            for key, direction in order.items():
                records.sort(key=lambda record: record[key], reverse=direction.startswith("desc"))
        window = arguments.get("limitOffset") or {}
        offset, limit = window.get("offset") or 0, window.get("limit") or len(records)
        return records[offset : offset + min(limit, self.cap or limit)]

    def matching(self, kind: str, where: Mapping[str, Any] | None) -> Iterable[Record]:
        """Return the records of a type that satisfy a condition."""
        return (record for record in self.records.get(kind, ()) if self.fits(kind, record, where or {}))

    def fits(self, kind: str, record: Record, where: Mapping[str, Any]) -> bool:
        """Return whether a record, or one related to it, satisfies a condition."""
        for key, condition in where.items():
            if condition is None:
                continue
            field = self.schema.type_map[kind].fields[key]  # type: ignore[attr-defined]
            of = graphql.get_named_type(field.type)
            if not isinstance(of, graphql.GraphQLObjectType):
                value = record.get(key)
                if not all(_COMPARISONS[name](value, to) for name, to in condition.items() if to is not None):
                    return False
            elif of.name.endswith("Connection"):
                child = of.name.removesuffix("Connection")
                if not any(self.fits(child, row, condition) for row in self.children_of(kind, child, record["id"])):
                    return False
            else:
                row = self.parent(of.name, record.get(f"{key}Id"))
                if row is None or not self.fits(of.name, row, condition):
                    return False
        return True

    def parent(self, kind: str, key: Any) -> Record | None:
        return self.by_id.get(kind, {}).get(key)

    def children_of(self, kind: str, child: str, key: Any) -> list[Record]:
        name = kind[0].lower() + kind[1:] + "Id"
        if (child, name) not in self.children:
            index: dict[Any, list[Record]] = {}
            for row in self.records.get(child, ()):
                index.setdefault(row.get(name), []).append(row)
            self.children[child, name] = index
        return self.children[child, name].get(key, [])


def dataset(key: int, **values: Any) -> Record:
    base = {"id": key, "depositionId": 1, "title": f"Dataset {key}", "description": "", "organismName": "Homo sapiens"}
    dates = {"depositionDate": DATE, "releaseDate": DATE, "lastModifiedDate": DATE}
    return base | dates | {"s3Prefix": f"s3://portal/{key}/", "httpsPrefix": f"https://portal/{key}/"} | values


def run(key: int, dataset_id: int, **values: Any) -> Record:
    prefix = {"s3Prefix": f"s3://portal/{dataset_id}/{key}/", "httpsPrefix": f"https://portal/{dataset_id}/{key}/"}
    return {"id": key, "datasetId": dataset_id, "name": f"TS_{key}", **prefix, **values}


def spacing(key: int, run_id: int, angstrom: float) -> Record:
    prefix = f"s3://portal/{run_id}/VoxelSpacing{angstrom:.3f}/"
    return {"id": key, "runId": run_id, "voxelSpacing": angstrom, "s3Prefix": prefix, "httpsPrefix": prefix}


def tomogram(key: int, run_id: int, **values: Any) -> Record:
    """Return a tomogram's record; by default 12 x 10 x 8 voxels (x, y, z) of 10 Å."""
    base: Record = {
        "id": key,
        "runId": run_id,
        "alignmentId": None,
        "depositionId": 1,
        "tomogramVoxelSpacingId": run_id,
        "name": f"tomogram-{key}",
        **{"sizeX": 12, "sizeY": 10, "sizeZ": 8, "voxelSpacing": 10.0, "offsetX": 0, "offsetY": 0, "offsetZ": 0},
        "fiducialAlignmentStatus": "FIDUCIAL",
        "reconstructionMethod": "WBP",
        "reconstructionSoftware": "IMOD",
        "processing": "raw",
        "processingSoftware": None,
        "ctfCorrected": False,
        "isVisualizationDefault": True,
        "isPortalStandard": False,
        "isAuthorSubmitted": True,
        "s3OmezarrDir": f"s3://cryoet-data-portal-public/{run_id}/{key}.zarr",
        "httpsOmezarrDir": f"https://files.example.org/{run_id}/{key}.zarr",
        "fileSizeOmezarr": 8000.0,
        "scale0Dimensions": "12,10,8",
        "scale1Dimensions": "6,5,4",
        "scale2Dimensions": "3,3,2",
        **{"depositionDate": DATE, "releaseDate": DATE, "lastModifiedDate": DATE},
    }
    return base | values


def annotation(key: int, run_id: int, **values: Any) -> Record:
    base: Record = {
        "id": key,
        "runId": run_id,
        "depositionId": 10303,
        "tomogramVoxelSpacingId": run_id,
        "s3MetadataPath": "",
        "httpsMetadataPath": "",
        "annotationMethod": "MemBrain-seg",
        "annotationIngestId": str(key),
        "objectId": "GO:0016020",
        "objectName": "membrane",
        "methodType": "automated",
        **{"depositionDate": DATE, "releaseDate": DATE, "lastModifiedDate": DATE},
    }
    return base | values


def crowd(count: int) -> dict[str, list[Record]]:
    """Return `count` tomograms, two in a run, 100 runs in a dataset; a third of the runs has a membrane annotation."""
    runs = range(1, count // 2 + 1)
    return {
        "Dataset": [dataset(10000 + i) for i in range(len(runs) // 100 + 1)],
        "Run": [run(key, 10000 + key // 100) for key in runs],
        "Tomogram": [
            tomogram(2 * key + second, key, isVisualizationDefault=not second, processing=("raw", "denoised")[second])
            for key in runs
            for second in (0, 1)
        ],
        "Annotation": [annotation(key, key) for key in runs if key % 3 == 0],
    }


if __name__ == "__main__":
    served = PortalStub(crowd(int(sys.argv[1])))
    print(served.url, flush=True)
    served.server.serve_forever()
