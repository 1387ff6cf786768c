"""Meshes as files of other programs: MemBrain-pick's HDF5, Wavefront OBJ, and GLB.

MemBrain-pick winds its faces into the slab and ours out of it: they are turned round on the way, and the first vertex
of each face stays the first. Its `convert` counts points in voxels and says so nowhere; its `predict` gives them in Å.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from pyarrow import compute, csv

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError, storage_error
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.formats.copick_files import meshes_from_glb, meshes_to_glb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

KINDS = (".h5", ".obj", ".glb")


@dataclass(frozen=True, eq=False)
class StoredMesh:
    """A mesh of MemBrain-pick's kind and what it carries; what the file lacks is None.

    normals : (V, 3) outward.  profiles : (V, C) density along the inward normals, as `convert` samples it.
    scores : (V,) or (V, K) distances that a network predicted, in units of 15 Å.
    picks : the particles found on it.  tomogram : the path of the tomogram's file, as written.
    """

    mesh: Mesh
    normals: NDArray[np.float64] | None = None
    profiles: NDArray[np.float32] | None = None
    scores: NDArray[np.float64] | None = None
    picks: Picks | None = None
    tomogram: str = ""


def read_h5(path: str, *, voxel_spacing_angstrom: float | None = None) -> StoredMesh:
    """A mesh of MemBrain-pick, of `convert` or of `predict`.

    voxel_spacing_angstrom : of the voxels that the points count; needed for the files of `convert`.

    Raises ProjectError for a file that is none; VoxelSpacingError where the unit is not known.
    """
    values = _datasets(path)
    if not {"points", "faces"} <= set(values):
        raise ProjectError(f"{path} has no points and faces", "give a file of membrain_pick convert or predict")
    # only `predict` writes scores, and only its points are in Å
    unit = 1.0 if "scores" in values else voxel_spacing_angstrom
    if unit is None:
        raise VoxelSpacingError(f"{path}: points in voxels of unknown size", "give --voxel-spacing")
    mesh = Mesh(
        _floats(values, "points", path) * unit,
        np.asarray(values["faces"]).reshape(-1, 3)[:, [0, 2, 1]].astype(np.int32),
    )
    if len(mesh.faces) and not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise ProjectError(f"{path}: faces name vertices that are not there", "write the file again")
    tomogram = values.get("tomo_file", b"")
    return StoredMesh(
        mesh,
        normals=-_floats(values, "normals", path) if "normals" in values else None,
        profiles=_floats(values, "normal_values", path).astype(np.float32) if "normal_values" in values else None,
        scores=_floats(values, "scores", path) if "scores" in values else None,
        picks=_picks(values, path) if "cluster_centers" in values else None,
        tomogram=tomogram.decode() if isinstance(tomogram, bytes) else str(tomogram),
    )


def write_h5(path: str, stored: StoredMesh, *, voxel_spacing_angstrom: float) -> None:
    """Write a mesh as MemBrain-pick's `predict` does, in Å, atomically: Surforama and membrain-stats open it.

    Normals, profiles and the particles' scores and orientations are kept in data sets beside. Vertices without scores
    are written as far from every particle.
    """
    import h5py

    count, picks = len(stored.mesh.vertices), stored.picks or Picks(np.zeros((0, 3)))
    values: dict[str, Any] = {
        "points": np.asarray(stored.mesh.vertices, np.float64),
        "faces": np.asarray(stored.mesh.faces, np.int64).reshape(-1, 3)[:, [0, 2, 1]],
        "scores": np.full(count, 10.0) if stored.scores is None else np.asarray(stored.scores, np.float64),
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

    def write(temporary: str) -> None:
        with h5py.File(temporary, "w") as file:
            for name, value in values.items():
                file.create_dataset(name, data=value)
            file.create_dataset("tomo_file", data=stored.tomogram, dtype=h5py.string_dtype(encoding="utf-8"))

    _atomically(path, write)


def read_obj(path: str, *, unit_angstrom: float) -> Mesh:
    """The triangles of an OBJ file; polygons are cut into triangles. ProjectError for a file that has none."""
    try:
        content = Path(path).read_bytes()
        vertices, faces = _obj_triangles(content) or _obj_polygons(content.decode("utf-8", "replace"))
        mesh = Mesh(vertices * unit_angstrom, faces)
    except (ValueError, IndexError, OSError) as error:
        raise ProjectError(f"{path} cannot be read as OBJ ({error})", "write it again") from error
    if not len(mesh.faces) or not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise ProjectError(f"{path} has no faces, or faces of vertices that are not there", "give a triangle mesh")
    return mesh


def _obj_triangles(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.int32]] | None:
    """Vertices and faces of an OBJ file of nothing but `v x y z` and then `f a b c`, with remarks on top; else None."""
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
    numbers = np.stack([table[name].to_numpy() for name in columns[1:]], axis=1)
    vertices, faces = numbers[:count], numbers[count:]
    if not ((faces >= 1) & (faces < 2**31) & (faces % 1 == 0)).all():
        return None
    return np.ascontiguousarray(vertices), faces.astype(np.int32) - 1


def _obj_polygons(text: str) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The same of any; polygons are cut into triangles."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) for word in words[1:]]
            corners = [k - 1 if k > 0 else len(vertices) + k for k in corners]
            faces += [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int32).reshape(-1, 3)


def write_obj(path: str, mesh: Mesh, *, unit_angstrom: float) -> None:
    """Write an OBJ file atomically; coordinates count `unit_angstrom` (1 for Å, the spacing for voxels)."""
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in (mesh.vertices / unit_angstrom).tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    _atomically(path, lambda temporary: Path(temporary).write_text("\n".join([*lines, ""])))


def write_glb(path: str, meshes: Mapping[int, Mesh]) -> None:
    """All membranes in one GLB file, xyz in Å, named `membrane_{id}`."""
    content = meshes_to_glb(meshes)
    _atomically(path, lambda temporary: Path(temporary).write_bytes(content))


def read_meshes(path: str, *, voxel_spacing_angstrom: float | None) -> dict[int, Mesh]:
    """The membranes of a .glb (by their numbers), .h5 or .obj file (one, number 1).

    voxel_spacing_angstrom : where the file counts voxels; None for an OBJ or GLB in Å.
    """
    kind = os.path.splitext(path.lower())[1]
    if kind == ".h5":
        return {1: read_h5(path, voxel_spacing_angstrom=voxel_spacing_angstrom).mesh}
    if kind == ".obj":
        return {1: read_obj(path, unit_angstrom=voxel_spacing_angstrom or 1.0)}
    if kind == ".glb":
        unit = voxel_spacing_angstrom or 1.0
        found = meshes_from_glb(Path(path).read_bytes(), path)
        return {number: Mesh(mesh.vertices * unit, mesh.faces) for number, mesh in found.items()}
    raise UsageError(f"{path}: the kind of this file is not known", f"give one of {', '.join(KINDS)}")


def write_membranes(
    path: str, meshes: Mapping[int, Mesh], picks: Picks | None, *, voxel_spacing_angstrom: float, unit_angstrom: float
) -> list[str]:
    """Write membranes, as .glb into one file, as .obj or .h5 into one file each; returns the files.

    For several, `_{number}` goes before the ending. Picks go with the membrane they sit on, into .h5 files only.
    """
    stem, kind = os.path.splitext(path)
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
        on_it = None if picks is None else _on_membrane(picks, number)
        write_h5(
            files[-1],
            StoredMesh(mesh, normals=mesh.vertex_normals(), picks=on_it),
            voxel_spacing_angstrom=voxel_spacing_angstrom,
        )
    return files


def _on_membrane(picks: Picks, number: int) -> Picks:
    chosen = picks.membrane_ids == number
    turned = None if picks.orientations is None else picks.orientations[chosen]
    in_plane = None if picks.in_plane is None else picks.in_plane[chosen]
    return Picks(picks.positions[chosen], turned, picks.scores[chosen], picks.membrane_ids[chosen], in_plane)


def _datasets(path: str) -> dict[str, Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return {name: file[name][()] for name in file}
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{path} cannot be read as HDF5 ({error})", "copy or write it again") from error


def _floats(values: Mapping[str, Any], name: str, path: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(values[name], np.float64)
    except (ValueError, TypeError) as error:
        raise ProjectError(f"{path}: {name} are not numbers ({error})", "write the file again") from error
    if not np.isfinite(found).all():
        raise ProjectError(f"{path}: {name} have gaps", "write the file again")
    return found


def _picks(values: Mapping[str, Any], path: str) -> Picks:
    centers = _floats(values, "cluster_centers", path).reshape(-1, 3)
    turned = _floats(values, "cluster_orientations", path) if "cluster_orientations" in values else None
    scores = _floats(values, "cluster_scores", path) if "cluster_scores" in values else np.ones(len(centers))
    numbers = np.asarray(values.get("cluster_membranes", np.zeros(len(centers))), np.int64)
    in_plane = np.asarray(values["cluster_in_plane"]) != 0 if "cluster_in_plane" in values else None
    return Picks(centers, turned, scores, numbers, in_plane)


def _atomically(path: str, write: Callable[[str], object]) -> None:
    temporary = f"{os.path.dirname(os.path.abspath(path))}/.{os.path.basename(path)}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
