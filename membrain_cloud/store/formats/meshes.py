"""Meshes as files of other programs: MemBrain-pick's HDF5, Wavefront OBJ, and GLB.

MemBrain-pick winds faces into the slab, this package out of it: they are reversed on reading and writing, and the first
vertex of each face stays the first. MemBrain-pick's `convert` counts points in voxels without saying so; its `predict`
gives them in Å.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from pyarrow import compute, csv

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.mesh.repair import merge_vertices
from membrain_cloud.picking.vertex_scores import FAR_SCORE
from membrain_cloud.store.formats.copick_files import meshes_from_glb, meshes_to_glb
from membrain_cloud.store.formats.local_input import check_regular_file, read_file
from membrain_cloud.store.formats.local_output import write_local_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

KINDS = (".h5", ".obj", ".glb")
"""Endings of mesh files that can be read and written."""

# Data sets of a file that announce more than this were not written: compressed zeros are no mesh.
_LARGEST_RATIO, _SMALL_BYTES = 200, 1 << 26


@dataclass(frozen=True, eq=False)
class StoredMesh:
    """A mesh of MemBrain-pick's kind and what it carries; what the file lacks is None.

    Attributes
    ----------
    mesh : Mesh
        Vertices in Å, faces wound outwards.
    normals : (V, 3) array of float64 or None
        Outward normals of the vertices.
    profiles : (V, C) array of float32 or None
        Density along the inward normals, as `convert` samples it.
    scores : (V,) or (V, K) array of float64 or None
        Distances to the nearest particle that a network predicted, in units of 15 Å.
    picks : Picks or None
        The particles on the mesh.
    tomogram : str
        The path of the tomogram's file, as written.
    """

    mesh: Mesh
    normals: NDArray[np.float64] | None = None
    profiles: NDArray[np.float32] | None = None
    scores: NDArray[np.float64] | None = None
    picks: Picks | None = None
    tomogram: str = ""


def read_h5(path: str, *, voxel_spacing_angstrom: float | None = None) -> StoredMesh:
    """Read a mesh of MemBrain-pick's `convert` or `predict`.

    Parameters
    ----------
    path : str
        The HDF5 file.
    voxel_spacing_angstrom : float, optional
        Å, of the voxels that the points count; needed for files of `convert`.

    Returns
    -------
    StoredMesh

    Raises
    ------
    ProjectError
        If the file is no such mesh, or damaged.
    VoxelSpacingError
        If the points are in voxels and `voxel_spacing_angstrom` is None.
    """
    values = _datasets(path)
    if not {"points", "faces"} <= set(values):
        raise ProjectError(f"{path} has no points and faces", "give a file of membrain_pick convert or predict")
    # only `predict` writes scores, and only its points are in Å
    unit = 1.0 if "scores" in values else voxel_spacing_angstrom
    if unit is None:
        raise VoxelSpacingError(f"{path}: points in voxels of unknown size", "give voxel_spacing_angstrom, e.g. 10")
    points = _floats(values, "points", path, finite=False)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ProjectError(f"{path}: points of shape {points.shape}, not (V, 3)", "write the file again")
    mesh = _checked(points * unit, _triangles(values["faces"], path)[:, [0, 2, 1]], path)
    tomogram = values.get("tomo_file", b"")
    return StoredMesh(
        mesh,
        normals=_normals(values, path),
        profiles=_floats(values, "normal_values", path).astype(np.float32) if "normal_values" in values else None,
        scores=_floats(values, "scores", path) if "scores" in values else None,
        picks=_picks(values, path) if "cluster_centers" in values else None,
        tomogram=tomogram.decode() if isinstance(tomogram, bytes) else str(tomogram),
    )


def write_h5(path: str, stored: StoredMesh, *, voxel_spacing_angstrom: float) -> None:
    """Write a mesh as MemBrain-pick's `predict` does, in Å, atomically: Surforama and membrain-stats open it.

    Normals, profiles and the particles' scores and orientations are kept in data sets beside. Vertices without scores
    are written as far from every particle.

    Parameters
    ----------
    path : str
        The file to make or replace.
    stored : StoredMesh
        The mesh and what it carries.
    voxel_spacing_angstrom : float
        Å, written as `pixel_size`.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    import h5py

    count, picks = len(stored.mesh.vertices), stored.picks or Picks(np.zeros((0, 3)))
    values: dict[str, Any] = {
        "points": np.asarray(stored.mesh.vertices, np.float64),
        "faces": np.asarray(stored.mesh.faces, np.int64).reshape(-1, 3)[:, [0, 2, 1]],
        "scores": np.full(count, FAR_SCORE) if stored.scores is None else np.asarray(stored.scores, np.float64),
        "labels": np.zeros(count),
        "cluster_centers": np.asarray(picks.positions, np.float64).reshape(-1, 3),
        "cluster_scores": np.asarray(picks.scores, np.float64),
        "cluster_membranes": np.asarray(picks.membrane_ids, np.int64),
        "pixel_size": float(voxel_spacing_angstrom),
    }
    if stored.normals is not None:
        values["normals"] = -np.asarray(stored.normals, np.float64)
    if stored.profiles is not None:
        values["normal_values"] = np.asarray(stored.profiles, np.float32)
    if picks.orientations is not None:
        values["cluster_orientations"] = picks.orientations
    if picks.in_plane is not None:
        values["cluster_in_plane"] = picks.in_plane.astype(np.int8)

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            for name, value in values.items():
                file.create_dataset(name, data=value)
            file.create_dataset("tomo_file", data=stored.tomogram, dtype=h5py.string_dtype(encoding="utf-8"))

    write_local_file(path, write)


def read_obj(path: str, *, unit_angstrom: float) -> Mesh:
    """Read the triangles of an OBJ file; polygons are cut into triangles.

    Parameters
    ----------
    path : str
        The OBJ file.
    unit_angstrom : float
        Å in a unit of the file's coordinates: 1 for Å, the voxel spacing for voxels.

    Returns
    -------
    Mesh
        Vertices in Å.

    Raises
    ------
    ProjectError
        If the file cannot be read, has no faces, or faces of vertices that are missing.
    """
    try:
        content = read_file(path)
        vertices, faces = _obj_triangles(content) or _obj_polygons(content.decode("utf-8", "replace"))
        mesh = Mesh(vertices * unit_angstrom, faces)
    except (ValueError, IndexError, OverflowError) as error:
        raise ProjectError(f"{path} cannot be read as OBJ ({error})", "write it again") from error
    if not len(mesh.faces):
        raise ProjectError(f"{path} has no faces", "give a triangle mesh")
    return _checked(mesh.vertices, mesh.faces, path)


def _obj_triangles(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.int32]] | None:
    """Return vertices and faces of an OBJ file of `v x y z`, then `f a b c`, with comments on top; else None."""
    while content.startswith(b"#"):
        content = content.partition(b"\n")[2]
    columns = ["kind", "0", "1", "2"]
    kinds = {name: pyarrow.float64() if name != "kind" else pyarrow.string() for name in columns}
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(content),
            csv.ReadOptions(use_threads=False, column_names=columns),
            csv.ParseOptions(delimiter=" ", quote_char=False),
            csv.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False),
        )
    except pyarrow.ArrowInvalid:  # a/b/c, polygons, other lines or other blanks
        return None
    count = int(compute.sum(compute.equal(table["kind"], "v")).as_py() or 0)
    if not compute.all(compute.equal(table["kind"][count:], "f")).as_py():
        return None
    values = np.stack([table[name].to_numpy() for name in columns[1:]], axis=1)
    vertices, faces = values[:count], values[count:]
    if not ((faces >= 1) & (faces < 2**31) & (faces % 1 == 0)).all():
        return None
    return np.ascontiguousarray(vertices), faces.astype(np.int32) - 1


def _obj_polygons(text: str) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return vertices and faces of any OBJ file; polygons are cut into triangles."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in text.splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values[:3]])
        elif kind == "f":
            corners = [int(value.partition("/")[0]) for value in values]
            corners = [k - 1 if k > 0 else len(vertices) + k for k in corners]
            faces += [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int32).reshape(-1, 3)


def write_obj(path: str, mesh: Mesh, *, unit_angstrom: float) -> None:
    """Write an OBJ file atomically.

    Parameters
    ----------
    path : str
        The file to make or replace.
    mesh : Mesh
        Vertices in Å.
    unit_angstrom : float
        Å in a unit of the file's coordinates: 1 for Å, the voxel spacing for voxels.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in (mesh.vertices / unit_angstrom).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    write_local_file(path, lambda temporary: temporary.write_text("\n".join([*lines, ""])))


def write_glb(path: str, meshes: Mapping[int, Mesh]) -> None:
    """Write membranes into one GLB file atomically, xyz in Å, named `membrane_{id}`.

    Parameters
    ----------
    path : str
        The file to make or replace.
    meshes : mapping of int to Mesh
        The membranes by their ids.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    content = meshes_to_glb(meshes)
    write_local_file(path, lambda temporary: temporary.write_bytes(content))


def read_meshes(
    path: str, *, voxel_spacing_angstrom: float | None, report: Callable[[str], None] = lambda note: None
) -> dict[int, Mesh]:
    """Read the membranes of a mesh file. Vertices at one place are merged where a mesh is triangle soup.

    Parameters
    ----------
    path : str
        A .glb, .h5 or .obj file.
    voxel_spacing_angstrom : float or None
        Å, where the file counts voxels; None for an OBJ or GLB in Å.
    report : callable
        Called with one sentence on each mesh whose vertices were merged. Default: nothing is done with it.

    Returns
    -------
    dict of int to Mesh
        Of a GLB by the membranes' numbers; of the others one, number 1.

    Raises
    ------
    UsageError
        If the kind of the file is unknown.
    ProjectError
        If the file cannot be read.
    VoxelSpacingError
        If the unit of an .h5 is unknown.
    """
    kind = Path(path.lower()).suffix
    if kind not in KINDS:
        raise UsageError(f"{path}: the kind of this file is not known", f"give one of {', '.join(KINDS)}")
    meshes = {}
    for number, mesh in _meshes(path, kind, voxel_spacing_angstrom).items():
        meshes[number] = merge_vertices(mesh)
        if meshes[number] is not mesh:
            count = f"{len(mesh.vertices)} vertices at {len(meshes[number].vertices)} places"
            report(f"{path}: mesh {number} has {count}: they were merged")
    return meshes


def _meshes(path: str, kind: str, voxel_spacing_angstrom: float | None) -> dict[int, Mesh]:
    if kind == ".h5":
        return {1: read_h5(path, voxel_spacing_angstrom=voxel_spacing_angstrom).mesh}
    if kind == ".obj":
        return {1: read_obj(path, unit_angstrom=voxel_spacing_angstrom or 1.0)}
    unit = voxel_spacing_angstrom or 1.0
    meshes = meshes_from_glb(read_file(path), path)
    return {number: _checked(mesh.vertices * unit, mesh.faces, path) for number, mesh in meshes.items()}


def write_membranes(
    path: str, meshes: Mapping[int, Mesh], picks: Picks | None, *, voxel_spacing_angstrom: float, unit_angstrom: float
) -> list[str]:
    """Write membranes: as .glb into one file, as .obj or .h5 into one file each.

    Parameters
    ----------
    path : str
        The file to make; for several files, `_{number}` is inserted before the ending.
    meshes : mapping of int to Mesh
        The membranes by their numbers.
    picks : Picks or None
        Particles, written with the membrane they sit on, into .h5 files only.
    voxel_spacing_angstrom : float
        Å, written into .h5 files.
    unit_angstrom : float
        Å in a unit of the coordinates of .obj files.

    Returns
    -------
    list of str
        The files.

    Raises
    ------
    UsageError
        If the kind of the file is unknown.
    StorageError
        If a file cannot be written.
    """
    kind = Path(path).suffix
    stem = path.removesuffix(kind)
    if kind.lower() not in KINDS:
        raise UsageError(f"{path}: the kind of this file is not known", f"give one of {', '.join(KINDS)}")
    if kind.lower() == ".glb":
        write_glb(path, meshes)
        return [path]
    files = []
    for number, mesh in sorted(meshes.items()):
        files.append(path if len(meshes) == 1 else f"{stem}_{number}{kind}")
        if kind.lower() == ".obj":
            write_obj(files[-1], mesh, unit_angstrom=unit_angstrom)
            continue
        own_picks = None if picks is None else picks.select(picks.membrane_ids == number)
        stored = StoredMesh(mesh, normals=mesh.vertex_normals(), picks=own_picks)
        write_h5(files[-1], stored, voxel_spacing_angstrom=voxel_spacing_angstrom)
    return files


def _datasets(path: str) -> dict[str, Any]:
    import h5py

    size = check_regular_file(path)
    try:
        with h5py.File(path, "r") as file:
            announced = sum(file[name].nbytes for name in file)
            if announced > _LARGEST_RATIO * size + _SMALL_BYTES:
                raise ValueError(f"it announces {announced} bytes in a file of {size}")
            return {name: file[name][()] for name in file}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ProjectError(f"{path} cannot be read as HDF5 ({error})", "copy or write it again") from error


def _checked(vertices: NDArray[np.float64], faces: NDArray[np.integer], path: str) -> Mesh:
    """Return a mesh whose faces name vertices that are there and finite; other vertices are set to 0."""
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ProjectError(f"{path}: faces name vertices that are not there", "write the file again")
    finite = np.asarray(np.isfinite(vertices).all(axis=1))
    if not finite.all():
        used = np.unique(faces)
        bad = int((~finite[used]).sum())
        if bad:
            raise ProjectError(
                f"{path}: {bad} of {len(used)} vertices in use are NaN or infinite", "repair or write the mesh again"
            )
        vertices = np.where(finite[:, None], vertices, 0.0)
    return Mesh(np.asarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32))


def _triangles(stored: Any, path: str) -> NDArray[np.int64]:
    """Return faces (F, 3) from triples, or from VTK's lists of a count and as many vertices, flat or in rows."""
    try:
        faces = np.asarray(stored)
        if faces.dtype.kind not in "iu" and not (faces == np.floor(faces)).all():
            raise ValueError(f"of type {faces.dtype}")
        faces = faces.astype(np.int64)
        if faces.ndim == 2 and faces.shape[1] == 3:
            return faces
        flat = faces.ravel()
        if len(flat) % 4 == 0 and (flat[::4] == 3).all():
            return flat.reshape(-1, 4)[:, 1:]
        if faces.ndim == 1 and len(flat) % 3 == 0:
            return flat.reshape(-1, 3)
        raise ValueError(f"of shape {faces.shape}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ProjectError(f"{path}: faces are no triangles ({error})", "write triangles (F, 3)") from error


def _normals(values: Mapping[str, Any], path: str) -> NDArray[np.float64] | None:
    """Return the outward normals; None where the file has none, or some that are not finite: they follow from faces."""
    if "normals" not in values:
        return None
    normals = -_floats(values, "normals", path, finite=False)
    return normals if np.isfinite(normals).all() else None


def _floats(values: Mapping[str, Any], name: str, path: str, *, finite: bool = True) -> NDArray[np.float64]:
    try:
        array = np.asarray(values[name], np.float64)
    except (ValueError, TypeError) as error:
        raise ProjectError(f"{path}: {name} are not numbers ({error})", "write the file again") from error
    if finite and not np.isfinite(array).all():
        raise ProjectError(f"{path}: {name} have gaps", "write the file again")
    return array


def _picks(values: Mapping[str, Any], path: str) -> Picks:
    centers = _floats(values, "cluster_centers", path).reshape(-1, 3)
    orientations = _floats(values, "cluster_orientations", path) if "cluster_orientations" in values else None
    scores = _floats(values, "cluster_scores", path) if "cluster_scores" in values else np.ones(len(centers))
    membranes = np.asarray(values.get("cluster_membranes", np.zeros(len(centers))), np.int64)
    in_plane = np.asarray(values["cluster_in_plane"]) != 0 if "cluster_in_plane" in values else None
    lengths = {len(scores), len(membranes), *(len(a) for a in (orientations, in_plane) if a is not None)}
    if lengths != {len(centers)}:
        raise ProjectError(
            f"{path}: {len(centers)} cluster_centers, but {sorted(lengths)} scores", "write the file again"
        )
    return Picks(centers, orientations, scores, membranes, in_plane)
