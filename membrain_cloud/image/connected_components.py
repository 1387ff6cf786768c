"""Connected components of masks of any size: slabs of planes are labelled one by one and joined where they touch.

Each slab is labelled by cc3d. Components of two slabs that touch across the face between them (26-connected) are joined
in a graph, whose components are those of the volume. They are numbered by their first voxel in zyx order, so the
numbers do not depend on the slabs. Memory is that of one slab and of a few numbers a component; the mask is read twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from membrain_cloud.geometry import Box, Zyx

Ints = NDArray[np.int64]
Read = Callable[[Box], NDArray[Any]]

#: Labelling takes about 20 bytes a voxel of a slab.
SLAB_VOXELS = 2**25


@dataclass(frozen=True, eq=False)
class ComponentMap:
    """The connected components of a volume; `labels` gives their voxels slab by slab.

    Attributes
    ----------
    slabs : tuple of Box
        Boxes of whole planes that tile the volume, top to bottom.
    sizes : ndarray, shape (N,), int64
        Voxels of components 1..N.
    numbers : tuple of ndarray, unsigned integer
        For each slab, the component that each of the slab's own labels belongs to; 0 where it was dropped.
    """

    slabs: tuple[Box, ...]
    sizes: Ints
    numbers: tuple[NDArray[np.unsignedinteger], ...]

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.sizes)

    def labels(self, index: int, mask: NDArray[Any]) -> NDArray[np.unsignedinteger]:
        """Return the components of a slab.

        Parameters
        ----------
        index : int
            Index of the slab.
        mask : ndarray, shape (Z, Y, X)
            The mask of the slab, as `find_components` read it.

        Returns
        -------
        ndarray, shape (Z, Y, X), uint16
            Component of each voxel; uint32 beyond 65 535 components.
        """
        return np.asarray(self.numbers[index][_label(mask)[0]])


def find_components(read: Read, shape: Zyx, *, min_voxels: int, slab_voxels: int) -> ComponentMap:
    """Find the 26-connected components of a mask, numbered by their first voxel in zyx order.

    Parameters
    ----------
    read : callable
        Takes a box and returns its voxels, (Z, Y, X); nonzero is foreground.
    shape : tuple of int
        Voxels along (z, y, x).
    min_voxels : int
        Smaller components are left out.
    slab_voxels : int
        Voxels that are labelled at once, at least one plane; the result does not depend on it.

    Returns
    -------
    ComponentMap
        The components.
    """
    depth = max(1, min(shape[0], slab_voxels // max(1, math.prod(shape[1:]))))
    slabs = [Box((z, 0, 0), (min(z + depth, shape[0]), shape[1], shape[2])) for z in range(0, shape[0], depth)]
    counts, sizes, firsts, links = [0], [], [], [np.zeros((2, 0), np.int64)]
    above: NDArray[Any] | None = None
    for slab in slabs:
        labels, count = _label(read(slab))
        offset = sum(counts)
        size, first = _size_and_first(labels, count)
        sizes.append(size)
        firsts.append(first + slab.start[0] * math.prod(shape[1:]))
        if above is not None:
            links.append(_touching(above, labels[0]) + np.array([[offset - counts[-1] - 1], [offset - 1]]))
        counts.append(count)
        above = labels[-1].copy()
    group, size, order = _joined(np.concatenate(sizes), np.concatenate(firsts), np.concatenate(links, axis=1))
    kept = order[size[order] >= max(1, min_voxels)]
    number = np.zeros(len(size), np.uint16 if len(kept) <= np.iinfo(np.uint16).max else np.uint32)
    number[kept] = np.arange(1, len(kept) + 1)
    ends = list(itertools.accumulate(counts))
    numbers = [np.append(number.dtype.type(0), number[group[a:b]]) for a, b in itertools.pairwise(ends)]
    return ComponentMap(tuple(slabs), size[kept], tuple(numbers))


def _label(mask: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return the labels of a mask and their number."""
    solid = np.ascontiguousarray(mask != 0)
    if len(solid) == 1:  # for single planes cc3d (4.1) reckons with too few labels, and fails: one more, empty
        solid = np.pad(solid, ((0, 1), (0, 0), (0, 0)))
    labels, count = cc3d.connected_components(solid, connectivity=26, return_N=True)
    return labels[: len(mask)], int(count)


def _size_and_first(labels: NDArray[Any], count: int) -> tuple[Ints, Ints]:
    """Return the voxels of labels 1..count, and the flat index of the first voxel of each."""
    flat = labels.ravel()
    at = np.flatnonzero(flat)
    values = flat[at]
    first = np.zeros(count + 1, np.int64)
    first[values[::-1]] = at[::-1]  # of several values for one label, the last one given stays
    return np.bincount(values, minlength=count + 1)[1:], first[1:]


def _touching(above: NDArray[Any], below: NDArray[Any]) -> Ints:
    """Return the pairs of labels of two consecutive planes that have neighbouring voxels, (2, K)."""
    framed = np.pad(below, 1)
    height, width = above.shape
    found = [np.zeros((2, 0), np.int64)]
    for dy, dx in itertools.product(range(3), range(3)):
        other = framed[dy : dy + height, dx : dx + width]
        both = (above != 0) & (other != 0)
        found.append(np.unique(np.stack([above[both], other[both]]).astype(np.int64), axis=1))
    return np.unique(np.concatenate(found, axis=1), axis=1)


def _joined(sizes: Ints, firsts: Ints, links: Ints) -> tuple[NDArray[np.intp], Ints, NDArray[np.intp]]:
    """Return each component's group, the groups' sizes, and the groups in the order of their first voxels."""
    total = len(sizes)
    graph = coo_array((np.ones(links.shape[1], np.int8), (links[0], links[1])), shape=(total, total))
    groups, group = connected_components(graph, directed=False)
    size, first = np.zeros(groups, np.int64), np.full(groups, np.iinfo(np.int64).max)
    np.add.at(size, group, sizes)
    np.minimum.at(first, group, firsts)
    return group, size, np.argsort(first)
