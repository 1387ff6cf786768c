"""Membrane instances: the membranes of a segmentation one by one, in an order that never changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.membranes.components import SLAB_VOXELS, find_components
from membrain_cloud.membranes.splitting import split_touching

Slices = tuple[slice, slice, slice]


def separate(
    labels: NDArray, *, min_voxels: int, split: bool, drop_border: bool, foreground: int | None = None
) -> NDArray[np.unsignedinteger]:
    """Number the membranes of a segmentation by size.

    Parameters
    ----------
    labels : (Z, Y, X) bool or integers; 0 is background.
    min_voxels : smaller components are dropped, and no membrane is split into smaller pieces.
    split : cut 26-connected components where membranes touch or cross (see `splitting`); otherwise each is one.
    drop_border : leave out membranes that reach the volume's outermost voxels: they are cut there.
    foreground : the one value that is membrane (e.g. 1 where 2 is lumen); None takes every value but 0 as membrane.

    Returns
    -------
    (Z, Y, X) uint16, or uint32 beyond 65 535 membranes: 0 background, 1..N the membranes. 1 is the largest; equal
    sizes are ordered by their first voxel in zyx order. The result depends on nothing but the input.
    """
    if not labels.size:
        return np.zeros(labels.shape, np.uint16)

    def read(box: Box) -> NDArray:
        part = labels[box.slices]
        return part != 0 if foreground is None else part == foreground

    shape: Zyx = labels.shape
    found = find_components(read, shape, min_voxels=max(1, min_voxels), slab_voxels=SLAB_VOXELS)
    count = found.count
    components = np.zeros(shape, np.uint16 if 2 * count < np.iinfo(np.uint16).max else np.uint32)
    for index, slab in enumerate(found.slabs):
        components[slab.slices] = found.labels(index, read(slab))
    sizes = np.append(0, found.sizes)
    boxes = {i: box.slices for i, box in instance_boxes(components).items()}
    if split:
        pieces = _split_components(components, boxes, count, min_voxels)
        boxes |= pieces
        sizes = np.concatenate([sizes, np.zeros(max(pieces, default=0), np.int64)])
        sizes[list(pieces)] = [np.count_nonzero(components[box] == i) for i, box in pieces.items()]
    kept = [i for i in boxes if not (drop_border and _on_border(boxes[i], components.shape))]
    first = {i: _first_voxel(components, i, boxes[i]) for i in _tied(sizes, kept)}
    kept.sort(key=lambda i: (-sizes[i], first.get(i, 0)))
    renumber = np.zeros(len(sizes), np.uint16 if len(kept) <= np.iinfo(np.uint16).max else np.uint32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    return np.asarray(renumber[components])


def _split_components(
    components: NDArray, boxes: Mapping[int, Slices], count: int, min_voxels: int
) -> dict[int, Slices]:
    """Cut components apart, in place; returns the pieces' boxes. One keeps its number, others count on from `count`."""
    found: dict[int, Slices] = {}
    for number in sorted(boxes):
        # a voxel of margin within the volume: what ends at the box ends there, what ends at the volume may go on
        around = _grown(boxes[number], 1, components.shape).slices
        part = components[around]
        pieces = split_touching(part == number, min_voxels=min_voxels)
        if pieces.max() < 2:
            continue
        for piece, slices in enumerate(ndimage.find_objects(pieces), start=1):
            new = number if piece == 1 else (count := count + 1)
            part[pieces == piece] = new
            z, y, x = (slice(a.start + s.start, a.start + s.stop) for a, s in zip(around, slices, strict=True))
            found[new] = (z, y, x)
    return found


def _on_border(box: Slices, shape: tuple[int, ...]) -> bool:
    """Whether a box reaches the volume's outermost voxels; an axis of one voxel has none."""
    return any(n > 1 and (s.start == 0 or s.stop == n) for s, n in zip(box, shape, strict=True))


def within(labels: NDArray, region: NDArray | Box) -> NDArray:
    """The labels inside a region of interest, 0 elsewhere: a mask of the same shape, or a box of voxels."""
    if isinstance(region, Box):
        inside = region.intersection(Box((0, 0, 0), labels.shape))
        chosen = np.zeros_like(labels)
        if inside is not None:
            chosen[inside.slices] = labels[inside.slices]
        return chosen
    if region.shape != labels.shape:
        raise ValueError(f"a region of shape {region.shape} does not fit labels of shape {labels.shape}")
    return np.where(region != 0, labels, np.zeros((), labels.dtype))


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
