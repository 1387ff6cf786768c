"""Serve volumes and meshes of a project over HTTP on this machine, for a viewer in a browser.

    http://127.0.0.1:PORT/TOKEN/LAYER/...     an object of a volume, read from the project's store
    http://127.0.0.1:PORT/TOKEN/LAYER/info    meshes in Neuroglancer's precomputed format, made from the GLB file

Only layers that were added are served, and only to requests with the token.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.geometry import Mesh
    from membrain_cloud.store.objects.object_store import Files

_NAME = re.compile(r"[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Answer(NamedTuple):
    """An answer to a request.

    Attributes
    ----------
    status : int
        HTTP's status.
    body : bytes
        The content.
    content_range : str
        Place of the content in the object, as the header `Content-Range`; empty for whole objects.
    """

    status: int
    body: bytes
    content_range: str = ""


class LayerServer:
    """Serves layers from a thread of its own until it is closed. A context manager.

    Parameters
    ----------
    bind : str
        Address to listen on. Default: this machine only.
    port : int
        Port to listen on. Default: any free one.

    Attributes
    ----------
    url : str
        URL of the server, with the token.
    requests : list of str
        Names of the objects that were requested.
    """

    def __init__(self, bind: str = "127.0.0.1", port: int = 0) -> None:
        self._volumes: dict[str, tuple[Files, str]] = {}
        self._objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._token = secrets.token_urlsafe(18)
        self._server = ThreadingHTTPServer((bind, port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://{bind}:{self._server.server_address[1]}/{self._token}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> LayerServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def add_volume(self, layer: str, files: Files, path: str) -> str:
        """Serve every object of a volume.

        Parameters
        ----------
        layer : str
            Name of the layer, a part of its URL.
        files : Files
            The store of the volume.
        path : str
            Path of the volume there.

        Returns
        -------
        str
            URL of the layer.
        """
        self._volumes[layer] = (files, path)
        return f"{self.url}/{layer}"

    def add_meshes(self, layer: str, meshes: Mapping[int, Mesh]) -> str:
        """Serve meshes in Neuroglancer's precomputed format, one object per membrane.

        Parameters
        ----------
        layer : str
            Name of the layer, a part of its URL.
        meshes : mapping of int to Mesh
            Meshes by membrane number, vertices in Å.

        Returns
        -------
        str
            URL of the layer.
        """
        self._objects[f"{layer}/info"] = json.dumps({"@type": "neuroglancer_legacy_mesh"}).encode()
        for number, mesh in meshes.items():
            self._objects[f"{layer}/{number}:0"] = json.dumps({"fragments": [f"{number}.mesh"]}).encode()
            self._objects[f"{layer}/{number}.mesh"] = precomputed_mesh(mesh)
        return f"{self.url}/{layer}"

    def answer(self, path: str, wanted: str = "") -> Answer:
        """Return the answer to a request.

        Parameters
        ----------
        path : str
            Path of the request.
        wanted : str
            The request's header `Range`; a viewer reads chunks of shards by it. Default: the whole object.

        Returns
        -------
        Answer
            Status, body and the body's place in the object.
        """
        token, _, name = path.lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return Answer(403, b"no such token")
        self.requests.append(name)
        if not _NAME.fullmatch(name) or ".." in name.split("/"):
            return Answer(404, b"no such object")
        if name in self._objects:
            return Answer(200, self._objects[name])
        return self._volume_object(name, wanted)

    def _volume_object(self, name: str, wanted: str) -> Answer:
        layer, _, rest = name.partition("/")
        if layer not in self._volumes or not rest:
            return Answer(404, b"no such layer")
        files, base = self._volumes[layer]
        try:
            return _content(files, f"{base}/{rest}", wanted)
        except FileNotFoundError:
            return Answer(404, b"no such object")
        except MembrainCloudError as error:  # a viewer shows it; a 404 would be taken for an empty chunk
            return Answer(502, str(error).encode())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = server.answer(self.path.split("?")[0], self.headers.get("Range", ""))
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(answer.body)))
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Accept-Ranges", "bytes")
                if answer.content_range:
                    self.send_header("Content-Range", answer.content_range)
                self._finish_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_HEAD = do_GET

            def do_OPTIONS(self) -> None:
                """Let the page, which has another port, ask for the last bytes of an object."""
                self.send_response(204)
                self.send_header("Access-Control-Allow-Methods", "GET, HEAD")
                self.send_header("Access-Control-Allow-Headers", "Range")
                self._finish_headers()

            def _finish_headers(self) -> None:
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Access-Control-Expose-Headers", "Content-Range")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _content(files: Files, name: str, wanted: str) -> Answer:
    """Return an object, or the part of it that the header `Range` asks for."""
    span = _RANGE.fullmatch(wanted)
    if span is None or not any(span.groups()):
        return Answer(200, files.read(name))
    info = files.info(name)
    if info is None:
        raise FileNotFoundError(name)
    first, last = span.groups()
    start = int(first) if first else max(0, info.size - int(last))
    stop = min(info.size, int(last) + 1) if first and last else info.size
    if start >= stop:
        return Answer(416, b"no such bytes", f"bytes */{info.size}")
    return Answer(206, files.read(name, start, stop), f"bytes {start}-{stop - 1}/{info.size}")


def precomputed_mesh(mesh: Mesh) -> bytes:
    """Return a mesh as one fragment of Neuroglancer's legacy format: number of vertices, vertices in nm, triangles.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.
    """
    vertices = (mesh.vertices * (1 / ANGSTROM_PER_NM)).astype("<f4")
    return struct.pack("<I", len(vertices)) + vertices.tobytes() + np.asarray(mesh.faces, "<u4").tobytes()
