"""Membrane instances: the connected components of a segmentation, in an order that never changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from membrain_cloud.geometry import Box, Zyx


def separate(labels: NDArray, *, min_voxels: int, foreground: int | None = None) -> NDArray[np.unsignedinteger]:
    """Number the 26-connected components of a segmentation by size.

    Parameters
    ----------
    labels : (Z, Y, X) bool or integers; 0 is background.
    min_voxels : smaller components are dropped.
    foreground : the one value that is membrane (e.g. 1 where 2 is lumen); None takes every value but 0 as membrane.

    Returns
    -------
    (Z, Y, X) uint16, or uint32 beyond 65 535 components: 0 background, 1..N the components. 1 is the largest; equal
    sizes are ordered by their first voxel in zyx order. The result depends on nothing but the input.

    Membranes that touch are one component here. They are not cut apart: a cut by shape alone (watershed, opening)
    also severs single membranes at thin spots, which does more harm to areas and counts than a merged pair does.
    """
    mask = labels != 0 if foreground is None else labels == foreground
    components, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    statistics = cc3d.statistics(components)
    sizes = np.asarray(statistics["voxel_counts"], np.int64)
    kept = [i for i in range(1, count + 1) if sizes[i] >= max(1, min_voxels)]
    first = {i: _first_voxel(components, i, statistics["bounding_boxes"][i]) for i in _tied(sizes, kept)}
    kept.sort(key=lambda i: (-sizes[i], first.get(i, 0)))
    renumber = np.zeros(count + 1, np.uint16 if len(kept) <= np.iinfo(np.uint16).max else np.uint32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    return renumber[components]


def instance_boxes(instances: NDArray, *, margin: int = 0) -> dict[int, Box]:
    """The box around each instance, grown by `margin` voxels on every side and clipped to the volume; ids ascending.

    Ids may have gaps (somebody's edited instances); ids that do not occur are left out. Raises ValueError for
    negative or non-integer ids.
    """
    if instances.dtype.kind == "b":
        instances = instances.view(np.uint8)
    if instances.dtype.kind not in "ui":
        raise ValueError(f"instances must be integers, not {instances.dtype}")
    if instances.size == 0:
        return {}
    if instances.dtype.kind == "i" and instances.min() < 0:
        raise ValueError("instances must not be negative")
    # find_objects makes a list as long as the highest id: ids above the number of voxels are made compact first
    ids: NDArray | None = None
    if instances.max() >= instances.size:
        ids, instances = _compact(instances)
    found: dict[int, Box] = {}
    for number, slices in enumerate(ndimage.find_objects(instances), start=1):
        if slices is not None:
            found[int(ids[number]) if ids is not None else number] = _grown(slices, margin, instances.shape)
    return found


def _compact(instances: NDArray) -> tuple[NDArray, NDArray]:
    """The ids in ascending order, and each voxel's index into them; 0 has index 0 whether it occurs or not."""
    ids, inverse = np.unique(np.append(instances.ravel(), 0), return_inverse=True)
    return ids, inverse[:-1].reshape(instances.shape)


def _grown(slices: Sequence[slice], margin: int, shape: tuple[int, ...]) -> Box:
    start = tuple(max(0, int(s.start) - margin) for s in slices)
    stop = tuple(min(n, int(s.stop) + margin) for s, n in zip(slices, shape, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def _tied(sizes: NDArray[np.int64], kept: list[int]) -> list[int]:
    """Those of `kept` that share their size with another."""
    _, inverse, counts = np.unique(sizes[kept], return_inverse=True, return_counts=True)
    return [i for i, n in zip(kept, counts[inverse], strict=True) if n > 1]


def _first_voxel(components: NDArray, number: int, box: Sequence[slice]) -> int:
    """Flat index, in the volume, of the component's first voxel: it lies in the first slice of its box."""
    plane: NDArray = components[box[0].start, box[1], box[2]] == number
    y, x = divmod(int(plane.argmax()), plane.shape[1])
    shape: Zyx = components.shape
    return int(box[0].start) * math.prod(shape[1:]) + (int(box[1].start) + y) * shape[2] + int(box[2].start) + x
