"""Meshes and picks as copick stores them: GLB with one named geometry for each membrane, and JSON of picks.

Picks are written as JSON directly: copick's models take 15 s for 20 000 points. Equal content gives equal bytes.
"""

from __future__ import annotations

import io
import json
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import MESH_SURFACES, Mesh, Picks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.geometry import MeshSurface
    from membrain_cloud.store.refs import ObjectRef

_GLB_MAGIC, _GLB_JSON = 0x46546C67, 0x4E4F534A


def meshes_to_glb(meshes: Mapping[int, Mesh]) -> bytes:
    """Return membranes as a GLB file.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        The membranes by their ids.

    Returns
    -------
    bytes
        Vertices as float32, xyz in Å; the geometries are named `membrane_{id}`, in the order of the ids. What a mesh is
        of and the thickness of its slab are in its `extras`.
    """
    import trimesh

    if not meshes:  # trimesh refuses an empty scene
        return _glb_of_json({"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]})
    scene = trimesh.Scene()
    for number in sorted(meshes):
        mesh, name = meshes[number], f"membrane_{number}"
        geometry = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False, validate=False)
        geometry.metadata.update(_mesh_extras(mesh))
        scene.add_geometry(geometry, node_name=name, geom_name=name)
    return bytes(scene.export(file_type="glb"))


def meshes_from_glb(content: bytes, what: str) -> dict[int, Mesh]:
    """Return the membranes of a GLB file.

    Parameters
    ----------
    content : bytes
        The file.
    what : str
        What the file is, for errors.

    Returns
    -------
    dict of int to Mesh
        Vertices (V, 3) float64 as stored. The keys are the numbers at the end of the geometries' names, or 1..N in the
        order of the names where these are missing, 0 or not distinct.

    Raises
    ------
    ProjectError
        If the content is no GLB file, or damaged.
    """
    import trimesh

    try:
        if not _glb_json(content).get("meshes"):
            return {}
        scene = trimesh.load_scene(io.BytesIO(content), file_type="glb", process=False)
        nodes = [(str(node), *scene.graph[node]) for node in sorted(scene.graph.nodes_geometry)]
        geometries = [(node, transform, scene.geometry[geometry]) for node, transform, geometry in nodes]
    except Exception as error:  # trimesh raises whatever the broken part of the file makes it raise
        raise ProjectError(f"{what} is damaged or no GLB file ({error})", "write it again, or remove it") from error
    surfaces = [(node, transform, mesh) for node, transform, mesh in geometries if isinstance(mesh, trimesh.Trimesh)]
    numbers = _numbers([node for node, _, _ in surfaces])
    meshes = {}
    for number, (_, transform, mesh) in zip(numbers, surfaces, strict=True):
        vertices = np.array(mesh.vertices, np.float64)
        if not np.array_equal(transform, np.eye(4)):
            vertices = vertices @ transform[:3, :3].T + transform[:3, 3]
        meshes[number] = Mesh(vertices, np.array(mesh.faces, np.int32), *_of_extras(mesh.metadata))
    return dict(sorted(meshes.items()))


def _mesh_extras(mesh: Mesh) -> dict[str, Any]:
    """Return what is stored with a mesh beside its vertices and faces."""
    extras = {"membrane_surface": mesh.surface, "membrane_thickness_angstrom": mesh.thickness_angstrom}
    return {name: value for name, value in extras.items() if value is not None}


def _of_extras(extras: Mapping[str, Any]) -> tuple[MeshSurface | None, float | None]:
    """Return what a mesh is of and its thickness, Å; None for what is absent or not understood."""
    surface = next((kind for kind in MESH_SURFACES if kind == extras.get("membrane_surface")), None)
    thickness = extras.get("membrane_thickness_angstrom")
    if not isinstance(thickness, int | float) or not 0.0 < thickness < np.inf:
        return surface, None
    return surface, float(thickness)


def _numbers(names: list[str]) -> list[int]:
    matches = [re.search(r"(\d+)$", name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    return numbers if len(set(numbers)) == len(names) and 0 not in numbers else list(range(1, len(names) + 1))


def _glb_of_json(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<5I", _GLB_MAGIC, 2, 20 + len(text), len(text), _GLB_JSON) + text


def _glb_json(content: bytes) -> dict[str, Any]:
    magic, _, total, length, kind = struct.unpack_from("<5I", content)
    if magic != _GLB_MAGIC or kind != _GLB_JSON or total != len(content):
        raise ValueError(f"{len(content)} bytes, its header says {total}")
    return dict(json.loads(content[20 : 20 + length]))


def picks_to_json(picks: Picks, ref: ObjectRef) -> bytes:
    """Return picks as copick's picks file.

    Parameters
    ----------
    picks : Picks
        The particles.
    ref : ObjectRef
        Names object, user, session and run.

    Returns
    -------
    bytes
        JSON: the location is the centre in Å, the transformation a rotation without translation, `instance_id` the
        membrane. Our own `in_plane` is ignored by copick.
    """
    matrices = np.tile(np.eye(4), (len(picks), 1, 1))
    if picks.orientations is not None:
        matrices[:, :3, :3] = picks.orientations
    columns = zip(
        picks.positions.tolist(), matrices.tolist(), picks.membrane_ids.tolist(), picks.scores.tolist(), strict=True
    )
    points: list[dict[str, Any]] = [
        {"location": {"x": x, "y": y, "z": z}, "transformation_": matrix, "instance_id": int(number), "score": score}
        for (x, y, z), matrix, number, score in columns
    ]
    if picks.in_plane is not None:
        for point, in_plane in zip(points, picks.in_plane.tolist(), strict=True):
            point["in_plane"] = in_plane
    file = {
        "pickable_object_name": ref.name,
        "user_id": ref.user,
        "session_id": ref.session,
        "run_name": ref.run,
        "voxel_spacing": None,
        "unit": "angstrom",
        "trust_orientation": picks.orientations is not None,
        "points": points,
    }
    return json.dumps(file, allow_nan=False).encode()


def picks_from_json(content: bytes, what: str) -> Picks:
    """Return the picks of copick's picks file.

    Parameters
    ----------
    content : bytes
        The file.
    what : str
        What the file is, for errors.

    Returns
    -------
    Picks
        The centre is the location plus the translation; orientations are there only where the file says that they can
        be trusted.

    Raises
    ------
    ProjectError
        If the content is no such JSON, a point has no location, or positions are not in ångström.
    """
    try:
        file = json.loads(content)
        points = file.get("points") or []
        unit = file.get("unit") or "angstrom"
        locations = [[p["location"][axis] for axis in "xyz"] for p in points]
        matrices = [p.get("transformation_") or np.eye(4) for p in points]
        scores = [1.0 if p.get("score") is None else p["score"] for p in points]
        membranes = [p.get("instance_id") or 0 for p in points]
        in_plane = [p.get("in_plane") for p in points]
        positions = np.array(locations, np.float64).reshape(-1, 3)
        transforms = np.array(matrices, np.float64).reshape(-1, 4, 4)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{what} is damaged or no picks file ({error!r})", "write it again, or remove it") from error
    if unit != "angstrom":
        raise ProjectError(f"{what}: positions in {unit!r}", "store them in angstrom, as copick does")
    trusted = file.get("trust_orientation", True) is not False
    return Picks(
        positions + transforms[:, :3, 3],
        transforms[:, :3, :3].copy() if trusted else None,
        np.array(scores, np.float64),
        np.array(membranes, np.int64),
        np.array(in_plane, bool) if points and None not in in_plane else None,
    )
