"""Fans of faces about the vertices of a mesh. Apart from `topology`, which must not import numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.jit import compiled_bare

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fans_about_vertices(
    faces: NDArray[np.int32], twins: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Group the corners at each vertex in fans: faces that follow each other about the vertex, edge by edge.

    Parameters
    ----------
    faces : (F, 3) int32
        Vertices of each face.
    twins : (3F,) int32
        Opposite of each halfedge, negative at a boundary (`topology.twin_halfedges`).

    Returns
    -------
    fans : (F, 3) int32
        Fan of each corner. A vertex has one fan, unless several sheets touch in it; no path leads from one sheet to
        another there.
    vertex_of : (N,) int64
        Vertex of each fan, rising.
    """
    label = np.full(len(twins), -1, np.int32)
    _label_fans(twins, label)
    first = np.flatnonzero(np.diff(np.maximum.accumulate(label), prepend=np.int32(-1)))
    used = faces.reshape(-1)[first].astype(np.int64)
    order = np.argsort(used, kind="stable")
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    return number[label].reshape(-1, 3), used[order]


@compiled_bare
def _label_fans(twins: NDArray[np.int32], label: NDArray[np.int32]) -> None:
    """Label the fans in the order of their first corners, by walking about each; `label` (3F,) holds -1."""
    count = 0
    for corner in range(len(twins)):
        if label[corner] >= 0:
            continue
        at = corner
        while at >= 0 and label[at] < 0:  # over each face's last edge
            label[at] = count
            at = twins[at - 1 if at % 3 else at + 2]
        at = twins[corner]
        while at >= 0:  # from a boundary back: over the first edges
            at = at + 1 if at % 3 < 2 else at - 2
            if label[at] >= 0:
                break
            label[at] = count
            at = twins[at]
        count += 1
