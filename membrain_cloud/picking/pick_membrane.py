"""Picks of one membrane: score its vertices with a network, then cluster the low scores of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.picking.clustering import Shift, mean_shift
from membrain_cloud.picking.particles import cluster_picks, slab_thickness
from membrain_cloud.picking.vertex_scores import PickerModel, membrane_scores

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks
    from membrain_cloud.mesh.density_sampling import Read
    from membrain_cloud.mesh.spectral.operators import Operators
    from membrain_cloud.picking.clustering_options import ClusteringOptions


def pick_membrane(  # noqa: PLR0913 - one choice of the caller each; what belongs together is in `clustering`
    mesh: Mesh,
    read: Read,
    grid: Grid,
    picker: PickerModel,
    *,
    outside: float,
    partition_vertices: int | None,
    clustering: ClusteringOptions,
    membrane_id: int,
    cache: MutableMapping[str, Operators] | None = None,
    shift: Shift = mean_shift,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Picks], NDArray[np.float32]]:
    """Pick the particles of one membrane.

    Where picks of several classes lie nearer to each other than `clustering.min_distance_angstrom` (in space), the one
    with the best score stays.

    Parameters
    ----------
    mesh : Mesh
        The membrane, a closed shell around its slab; vertices in Å.
    read : callable
        Returns the density in a box of the tomogram; only what lies near the mesh is read.
    grid : Grid
        The tomogram's grid.
    picker : PickerModel
        The network.
    outside : float
        Density of samples beyond the tomogram, in its units (its mean).
    partition_vertices : int or None
        Vertices of a patch that the network sees at once; None for the picker's own number.
    clustering : ClusteringOptions
        How scores are clustered.
    membrane_id : int
        Number of the membrane, kept with its picks.
    cache : mutable mapping of str to Operators, or None
        Keeps the patches' operators by content.
    shift : Shift
        The mean shift, `clustering.mean_shift` or one on another device.
    progress : callable or None
        Called with the number of vertices done after each patch.

    Returns
    -------
    picks : list of Picks
        Picks of each class of the picker, best first.
    scores : (V,) or (V, K) float32
        Scores of the vertices, for one class or K.
    """
    scores = membrane_scores(
        mesh,
        read,
        grid,
        picker,
        outside=outside,
        partition_vertices=partition_vertices,
        cache=cache,
        progress=progress,
    )
    classes = scores.T if scores.ndim == 2 else scores[None]
    shared = len(classes) > 1 and clustering.center_offset_angstrom is None
    thickness = slab_thickness(mesh) if shared else None
    picks = [
        cluster_picks(mesh, of_class, clustering, membrane_id=membrane_id, shift=shift, thickness=thickness)
        for of_class in classes
    ]
    if clustering.min_distance_angstrom is not None:
        picks = best_of_classes(picks, within_angstrom=clustering.min_distance_angstrom)
    return picks, scores


def best_of_classes(picks_of_classes: Sequence[Picks], *, within_angstrom: float) -> list[Picks]:
    """Remove picks that have a better one of another class close by, on the same side of the membrane.

    Parameters
    ----------
    picks_of_classes : sequence of Picks
        Picks of each of K classes.
    within_angstrom : float
        Distance in space, Å.

    Returns
    -------
    list of Picks
        The remaining picks of each class, in their order.
    """
    owner = np.concatenate([np.full(len(picks), k) for k, picks in enumerate(picks_of_classes)])
    positions = np.concatenate([picks.positions for picks in picks_of_classes])
    facing = np.concatenate([picks.frames()[:, :, 2] for picks in picks_of_classes])
    scores = np.concatenate([picks.scores for picks in picks_of_classes])
    kept = np.ones(len(owner), bool)
    near = cKDTree(positions).query_ball_point(positions, within_angstrom, return_sorted=True) if len(owner) else []
    for index in np.argsort(-scores, kind="stable"):
        if kept[index]:
            rivals = np.asarray(near[index], np.int64)
            rivals = rivals[(owner[rivals] != owner[index]) & (facing[rivals] @ facing[index] > 0)]
            kept[rivals] = False
    return [picks.select(kept[owner == k]) for k, picks in enumerate(picks_of_classes)]
