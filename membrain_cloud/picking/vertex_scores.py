"""Scores of a membrane's vertices by a network: about 0 at a particle, 10 far from all."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
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
"""From the profiles (n, C) and operators of a patch to scores (n,), or (n, K) for K classes of particles."""


class ProfilePicker(Protocol):
    """A picker that sees density profiles of a patch of surface, as networks.picking.picker.Picker."""

    @property
    def offsets_angstrom(self) -> NDArray[np.float64]:
        """Return where profiles are sampled along the normal: (C,) float64, Å."""

    @property
    def spline_order(self) -> int:
        """Return the order of their interpolation, 1 or 3."""

    @property
    def eigenpairs(self) -> int:
        """Return the number of eigenpairs of a patch's Laplacian."""

    @property
    def partition_vertices(self) -> int:
        """Return the number of vertices of a patch."""

    @property
    def length_unit_angstrom(self) -> float:
        """Return the network's unit of length, Å."""

    @property
    def partitions(self) -> str:
        """Return how meshes are cut, "even" or "released": see `mesh_patches`."""

    def predict(self, profiles: NDArray[np.floating], operators: Operators) -> NDArray[np.float32]:
        """Return the scores (n,) or (n, K) of a patch from its profiles (n, C) and operators.

        Parameters
        ----------
        profiles : ndarray, shape (n, C), a floating dtype
            Densities along the normals of the patch's vertices.
        operators : Operators
            The operators of DiffusionNet for the patch.
        """


@runtime_checkable
class BoxPicker(Protocol):
    """A picker that sees one small box at a time, as networks.picking.subvolume_picker.SubvolumePicker."""

    @property
    def edge(self) -> int:
        """Return the number of voxels along each axis of a box."""

    @property
    def spacing_angstrom(self) -> float:
        """Return the size of these voxels, Å."""

    def predict_boxes(self, boxes: NDArray[np.floating], *, mean: float, deviation: float) -> NDArray[np.float32]:
        """Return the scores (n,) or (n, K) of boxes (n, edge, edge, edge) of one membrane's scale of density.

        Parameters
        ----------
        boxes : ndarray, shape (n, edge, edge, edge), a floating dtype
            Densities around vertices, with voxels of `spacing_angstrom`.
        mean, deviation : float
            Mean and standard deviation of the membrane's densities, which scale the boxes.
        """


PickerModel = ProfilePicker | BoxPicker


@dataclass(frozen=True)
class PatchOptions:
    """How a mesh is cut into patches for a network, and the operators it gets.

    Attributes
    ----------
    partition_vertices : int
        Vertices of a patch.
    eigenpairs : int
        Number of eigenpairs of a patch's Laplacian.
    length_unit_angstrom : float
        The network's unit of length, Å.
    partitions : str
        "even" for our patches, "released" for those of MemBrain-pick, see `mesh_patches`.
    """

    partition_vertices: int
    eigenpairs: int
    length_unit_angstrom: float
    partitions: str = "even"

    @classmethod
    def of_picker(cls, picker: ProfilePicker, partition_vertices: int | None = None) -> PatchOptions:
        """Return what a picker needs.

        Parameters
        ----------
        picker : ProfilePicker
            The picker.
        partition_vertices : int or None
            Vertices of a patch; None for the picker's own number.

        Returns
        -------
        PatchOptions
            Options for `vertex_scores`.
        """
        return cls(
            partition_vertices=partition_vertices or picker.partition_vertices,
            eigenpairs=picker.eigenpairs,
            length_unit_angstrom=picker.length_unit_angstrom,
            partitions=picker.partitions,
        )


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
    """Score the vertices of a membrane; of the tomogram, only what lies near them is read.

    Parameters
    ----------
    mesh : Mesh
        The membrane; vertices in Å.
    read : callable
        Returns the density in a box of the tomogram.
    grid : Grid
        The tomogram's grid.
    picker : PickerModel
        The network.
    outside : float
        Density of samples beyond the tomogram, in its units (its mean).
    partition_vertices : int or None
        Vertices of a patch that a ProfilePicker sees; None for its own number.
    cache : mutable mapping of str to Operators, or None
        Keeps the patches' operators by content.
    progress : callable or None
        Called with the number of vertices done after each patch.

    Returns
    -------
    (V,) or (V, K) float32
        Scores of the vertices, for one class of particles or K.
    """
    if isinstance(picker, BoxPicker):
        return _scores_of_boxes(mesh, read, grid, picker, outside=outside)
    profiles = profiles_from_volume(
        read,
        grid,
        mesh.vertices,
        mesh.vertex_normals(),
        picker.offsets_angstrom,
        outside=outside,
        spline_order=picker.spline_order,
    )
    patches = PatchOptions.of_picker(picker, partition_vertices)
    return vertex_scores(mesh, profiles, picker.predict, patches, cache=cache, progress=progress)


def _scores_of_boxes(mesh: Mesh, read: Read, grid: Grid, picker: BoxPicker, *, outside: float) -> NDArray[np.float32]:
    """Score boxes in portions of neighbouring vertices: those of a large membrane together would be gigabytes."""
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
    mean, deviation = scale_of_boxes(boxes(vertices_for_scale(len(mesh.vertices))))
    voxels = np.floor(grid.to_voxels(mesh.vertices) / _PORTION_VOXELS)
    order = np.lexsort(voxels.T[::-1])
    portions = [order[start : start + _BOXES_AT_ONCE] for start in range(0, len(order), _BOXES_AT_ONCE)]
    sorted_scores = np.concatenate([picker.predict_boxes(boxes(p), mean=mean, deviation=deviation) for p in portions])
    scores = np.empty_like(sorted_scores)
    scores[order] = sorted_scores
    return scores


def scale_of_boxes(boxes: NDArray[np.floating]) -> tuple[float, float]:
    """Return the scale of density of a membrane's boxes.

    Parameters
    ----------
    boxes : (n, edge, edge, edge) floating
        Boxes of one membrane.

    Returns
    -------
    mean, deviation : float
        Mean and standard deviation of all samples together; the latter never 0.
    """
    deviation = float(boxes.std(dtype=np.float64))
    return float(boxes.mean(dtype=np.float64)), deviation if deviation > 0 else 1.0


def vertices_for_scale(count: int) -> NDArray[np.int64]:
    """Return the vertices whose boxes give a membrane's scale of density: evenly spaced ones.

    Parameters
    ----------
    count : int
        Number of vertices of the membrane.

    Returns
    -------
    (n,) int64
        Rising numbers of vertices.
    """
    return np.arange(0, count, max(1, count // _BOXES_FOR_SCALE))


def vertex_scores(
    mesh: Mesh,
    profiles: NDArray[np.floating],
    predict: Predict,
    patches: PatchOptions,
    *,
    normals: NDArray[np.floating] | None = None,
    cache: MutableMapping[str, Operators] | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Score every vertex of a mesh patch by patch; where patches overlap, scores are averaged by their weights.

    Parameters
    ----------
    mesh : Mesh
        The membrane; vertices in Å.
    profiles : (V, C) floating
        Density along the vertex normals.
    predict : callable
        The network, see `Predict`.
    patches : PatchOptions
        How the mesh is cut.
    normals : (V, 3) floating or None
        Outward unit normals in place of the mesh's own.
    cache : mutable mapping of str to Operators, or None
        Keeps the patches' operators by content, so that the same patch is computed once.
    progress : callable or None
        Called with the number of vertices done after each patch; vertices in overlaps count once a patch.

    Returns
    -------
    (V,) or (V, K) float32
        Scores; FAR_SCORE for vertices in no patch.
    """
    outward = np.asarray(mesh.vertex_normals() if normals is None else normals, np.float64)
    cut = {"even": cut_into_patches, "released": released_patches}[patches.partitions]
    total: NDArray[np.float64] | None = None
    weight = np.zeros(len(mesh.vertices))
    for patch in cut(mesh, partition_vertices=patches.partition_vertices):
        operators = cached_operators(
            cache,
            mesh.vertices[patch.vertices],
            patch.faces,
            outward[patch.vertices],
            eigenpairs=patches.eigenpairs,
            length_unit_angstrom=patches.length_unit_angstrom,
        )
        predicted = predict(profiles[patch.vertices], operators)
        if total is None:
            total = np.zeros((len(mesh.vertices), *predicted.shape[1:]))
        total[patch.vertices] += (patch.weights * predicted.T).T
        weight[patch.vertices] += patch.weights
        if progress is not None:
            progress(len(patch.vertices))
    if total is None:
        return np.full(len(mesh.vertices), FAR_SCORE, np.float32)
    scores = np.full(total.shape, FAR_SCORE)
    scored = weight > 0
    scores[scored] = (total[scored].T / weight[scored]).T
    return scores.astype(np.float32)
