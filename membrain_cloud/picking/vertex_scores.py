"""Scores of a membrane's vertices: about 0 at a particle, 10 far from all. As networks give them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.mesh.density_sampling import Read, profiles_from_volume, subvolumes_from_volume
from membrain_cloud.mesh.spectral.operators import Operators, cached_operators
from membrain_cloud.picking.mesh_patches import cut_into_patches, released_patches

if TYPE_CHECKING:
    from membrain_cloud.geometry import Grid, Mesh

FAR_SCORE = 10.0
"""The score of a vertex far from every particle: scores are clipped here in training."""

_BOXES_AT_ONCE, _BOXES_FOR_SCALE, _PORTION_VOXELS = 4096, 2048, 64

Predict = Callable[[NDArray[np.float32], Operators], NDArray[np.floating]]


class ProfilePicker(Protocol):
    """What is read of a picker that sees profiles of a patch of surface (networks.picker.Picker has it)."""

    @property
    def offsets_angstrom(self) -> NDArray[np.float64]: ...
    @property
    def spline_order(self) -> int: ...
    @property
    def eigenpairs(self) -> int: ...
    @property
    def partition_vertices(self) -> int: ...
    @property
    def length_unit_angstrom(self) -> float: ...
    @property
    def partitions(self) -> str: ...
    def predict(self, profiles: NDArray[np.floating], operators: Operators) -> NDArray[np.float32]: ...


@runtime_checkable
class BoxPicker(Protocol):
    """What is read of a picker that sees a small box at a time (networks.subvolume_picker.SubvolumePicker has it)."""

    @property
    def edge(self) -> int: ...
    @property
    def spacing_angstrom(self) -> float: ...
    def predict_boxes(self, boxes: NDArray[np.floating], *, mean: float, deviation: float) -> NDArray[np.float32]: ...


PickerModel = ProfilePicker | BoxPicker


def membrane_scores(
    mesh: Mesh,
    read: Read,
    grid: Grid,
    picker: PickerModel,
    *,
    outside: float,
    partition_vertices: int | None,
    cache: MutableMapping[str, Operators] | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """(V,) scores of a membrane's vertices, or (V, K) for K classes of particles; of the volume only what lies near.

    read : box of the volume -> its density.  outside : taken for samples beyond the volume (its mean).
    partition_vertices : of the patches that a ProfilePicker sees; None takes its own. cache, progress: as
    `vertex_scores`.
    """
    if isinstance(picker, BoxPicker):
        return _scores_of_boxes(mesh, read, grid, picker, outside=outside)
    normals = mesh.vertex_normals()
    profiles = profiles_from_volume(
        read,
        grid,
        mesh.vertices,
        normals,
        picker.offsets_angstrom,
        outside=outside,
        spline_order=picker.spline_order,
    )
    return vertex_scores(
        mesh,
        profiles,
        picker.predict,
        partition_vertices=partition_vertices or picker.partition_vertices,
        eigenpairs=picker.eigenpairs,
        length_unit_angstrom=picker.length_unit_angstrom,
        partitions=picker.partitions,
        cache=cache,
        progress=progress,
    )


def _scores_of_boxes(mesh: Mesh, read: Read, grid: Grid, picker: BoxPicker, *, outside: float) -> NDArray[np.float32]:
    """In portions of neighbouring vertices: the boxes of a large membrane together would be gigabytes."""
    normals = mesh.vertex_normals()

    def boxes(members: NDArray[np.int64]) -> NDArray[np.float32]:
        return subvolumes_from_volume(
            read,
            grid,
            mesh.vertices[members],
            normals[members],
            edge=picker.edge,
            spacing_angstrom=picker.spacing_angstrom,
            outside=outside,
        )

    if not len(mesh.vertices):
        return np.zeros(0, np.float32)
    mean, deviation = scale_of_boxes(boxes(evenly_chosen(len(mesh.vertices))))
    voxels = np.floor(grid.to_voxels(mesh.vertices) / _PORTION_VOXELS)
    order = np.lexsort(voxels.T[::-1])
    portions = [order[start : start + _BOXES_AT_ONCE] for start in range(0, len(order), _BOXES_AT_ONCE)]
    scores = np.concatenate([picker.predict_boxes(boxes(p), mean=mean, deviation=deviation) for p in portions])
    found = np.empty_like(scores)
    found[order] = scores
    return found


def scale_of_boxes(boxes: NDArray[np.floating]) -> tuple[float, float]:
    """Mean and standard deviation of boxes of one membrane, all samples together; the latter never 0."""
    deviation = float(boxes.std(dtype=np.float64))
    return float(boxes.mean(dtype=np.float64)), deviation if deviation > 0 else 1.0


def evenly_chosen(count: int) -> NDArray[np.int64]:
    """Of `count` vertices those that a membrane's scale of density is taken from."""
    return np.arange(0, count, max(1, count // _BOXES_FOR_SCALE))


def vertex_scores(
    mesh: Mesh,
    profiles: NDArray[np.floating],
    predict: Predict,
    *,
    partition_vertices: int,
    eigenpairs: int,
    length_unit_angstrom: float,
    partitions: str = "even",
    normals: NDArray[np.floating] | None = None,
    cache: MutableMapping[str, Operators] | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Score every vertex of a mesh: about 0 at a particle, 10 far from all (a distance in units of 15 Å).

    profiles : (V, C) density along the vertex normals.
    predict : (patch's profiles, patch's Operators) -> (n,) scores, or (n, K) for K classes of particles.
    partitions : "even" for our patches, "released" for those of MemBrain-pick (see `partitions`).
    normals : (V, 3) outward, in place of the mesh's own.
    cache : the patches' operators by content, so that the same patch is worked out once.
    progress : called with the number of vertices done after each patch (vertices in overlaps count once a patch).

    Returns (V,) or (V, K): the patches' scores averaged by their weights. Vertices in no patch are far.
    """
    outward = np.asarray(mesh.vertex_normals() if normals is None else normals, np.float64)
    cut = {"even": cut_into_patches, "released": released_patches}[partitions]
    total: NDArray[np.float64] | None = None
    weight = np.zeros(len(mesh.vertices))
    for patch in cut(mesh, partition_vertices=partition_vertices):
        operators = cached_operators(
            cache,
            mesh.vertices[patch.vertices],
            patch.faces,
            outward[patch.vertices],
            eigenpairs=eigenpairs,
            length_unit_angstrom=length_unit_angstrom,
        )
        found = predict(profiles[patch.vertices], operators)
        if total is None:
            total = np.zeros((len(mesh.vertices), *found.shape[1:]))
        total[patch.vertices] += (patch.weights * found.T).T
        weight[patch.vertices] += patch.weights
        if progress is not None:
            progress(len(patch.vertices))
    if total is None:
        return np.full(len(mesh.vertices), FAR_SCORE, np.float32)
    scores = np.full(total.shape, FAR_SCORE)
    scored = weight > 0
    scores[scored] = (total[scored].T / weight[scored]).T
    return scores.astype(np.float32)
