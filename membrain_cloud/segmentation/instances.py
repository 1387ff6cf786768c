"""Membrane instances: number the membranes of a segmentation in a reproducible order."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from membrain_cloud.geometry import Box, VoxelArray, Zyx
from membrain_cloud.image.connected_components import SLAB_VOXELS, find_components
from membrain_cloud.segmentation.split_touching import split_touching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Separation:
    """The result of `separate_volume`.

    Attributes
    ----------
    numbers : ndarray, shape (L + 1,), unsigned integer
        Number of the membrane, from 1 by falling size, of each label of the scratch volume; 0 for labels left out.
    count : int
        Number of membranes.
    unsplit : int
        Components too large to be searched for touching membranes.
    """

    numbers: NDArray[np.unsignedinteger]
    count: int
    unsplit: int


def separate(
    labels: NDArray[Any], *, min_voxels: int, split: bool, drop_border: bool, foreground: int | None = None
) -> NDArray[np.unsignedinteger]:
    """Separate the membranes of a segmentation in memory, and number them by falling size.

    Parameters
    ----------
    labels : ndarray, shape (Z, Y, X), bool or integer
        0 is background.
    min_voxels, split, drop_border
        As for `separate_volume`.
    foreground : int, optional
        The one value that is membrane, e.g. 1 where 2 is lumen. Default: every value but 0.

    Returns
    -------
    ndarray, shape (Z, Y, X), uint16
        0 in the background, 1..N in the membranes; uint32 beyond 65 535 membranes.
    """
    if not labels.size:
        return np.zeros(labels.shape, np.uint16)

    def read(box: Box) -> NDArray[Any]:
        part = labels[box.slices]
        result: NDArray[Any] = part != 0 if foreground is None else part == foreground
        return result

    scratch = _InMemory(np.zeros(labels.shape, np.uint32))
    found = separate_volume(
        read, labels.shape, scratch, min_voxels=min_voxels, split=split, drop_border=drop_border, split_voxels=None
    )
    return np.asarray(found.numbers[scratch.array])


def separate_volume(
    read: Callable[[Box], NDArray[Any]],
    shape: Zyx,
    scratch: VoxelArray,
    *,
    min_voxels: int,
    split: bool,
    drop_border: bool,
    split_voxels: int | None,
    slab_voxels: int = SLAB_VOXELS,
) -> Separation:
    """Separate and number the membranes of a segmentation of any size.

    1 is the largest membrane; equal sizes are ordered by their first voxel in zyx order. The result depends on the
    input and these settings only. Memory: one slab, the box of one component, and a few numbers a component.

    Parameters
    ----------
    read : callable
        Takes a box and returns its voxels, (Z, Y, X); nonzero is membrane. Every slab of whole planes is read twice.
    shape : tuple of int
        Voxels along (z, y, x).
    scratch : VoxelArray
        uint32 labels of the same shape to work in; afterwards `numbers[scratch]` are the membranes.
    min_voxels : int
        Smaller components are left out, and no membrane is split into smaller parts.
    split : bool
        Whether 26-connected components are cut where membranes touch or cross, see `split_touching`.
    drop_border : bool
        Whether membranes that reach the outermost voxels of the volume are left out, since they are cut there.
    split_voxels : int or None
        A component whose bounding box has more voxels stays whole, since splitting holds the box in memory, about 14
        bytes a voxel. None: no limit.
    slab_voxels : int
        Voxels of a slab; the result does not depend on it.

    Returns
    -------
    Separation
        Numbers of the scratch labels, and counts.
    """
    found = find_components(read, shape, min_voxels=max(1, min_voxels), slab_voxels=slab_voxels)
    for index, slab in enumerate(found.slabs):
        scratch.write(slab, found.labels(index, read(slab)).astype(np.uint32))
    boxes = boxes_of_labels(scratch.read, shape, found.slabs)
    sizes = dict(enumerate(found.sizes.tolist(), start=1))
    unsplit = 0
    for number in sorted(boxes) if split else ():
        # a voxel of margin within the volume: what ends at the box ends there, what ends at the volume may go on
        around = _grown(boxes[number].slices, 1, shape)
        if split_voxels is not None and math.prod(around.shape) > split_voxels:
            unsplit += 1
            continue
        for new, (box, size) in _split_component(scratch, number, around, len(sizes), min_voxels).items():
            boxes[new], sizes[new] = box, size
    kept = [i for i in boxes if not (drop_border and _on_border(boxes[i].slices, shape))]
    first = {i: _first_voxel(scratch, i, boxes[i], shape) for i in _tied(sizes, kept)}
    kept.sort(key=lambda i: (-sizes[i], first.get(i, 0)))
    kind = np.uint16 if len(kept) <= np.iinfo(np.uint16).max else np.uint32
    numbers: NDArray[np.unsignedinteger] = np.zeros(len(sizes) + 1, kind)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return Separation(numbers, len(kept), unsplit)


class _InMemory:
    """Labels in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def read(self, box: Box) -> NDArray[Any]:
        return self.array[box.slices].copy()

    def write(self, box: Box, array: NDArray[Any]) -> None:
        self.array[box.slices] = array


def _split_component(
    scratch: VoxelArray, number: int, around: Box, count: int, min_voxels: int
) -> dict[int, tuple[Box, int]]:
    """Cut one component apart in the scratch volume.

    Returns the boxes and sizes of its parts by label: one keeps the number, the others continue from `count`. Empty
    where it stays whole.
    """
    part = scratch.read(around)
    pieces = split_touching(part == number, min_voxels=min_voxels)
    if pieces.max() < 2:
        return {}
    found: dict[int, tuple[Box, int]] = {}
    for piece, slices in enumerate(ndimage.find_objects(pieces), start=1):
        new = number if piece == 1 else (count := count + 1)
        inside = pieces[slices] == piece
        part[slices][inside] = new
        start = tuple(a + s.start for a, s in zip(around.start, slices, strict=True))
        stop = tuple(a + s.stop for a, s in zip(around.start, slices, strict=True))
        found[new] = Box(start, stop), int(np.count_nonzero(inside))
    scratch.write(around, part)
    return found


def boxes_of_labels(read: Callable[[Box], NDArray[Any]], shape: Zyx, parts: Iterable[Box]) -> dict[int, Box]:
    """Find the box around each label of a volume.

    Parameters
    ----------
    read : callable
        Takes a box and returns its labels, (Z, Y, X), integer.
    shape : tuple of int
        Voxels along (z, y, x).
    parts : iterable of Box
        Boxes that tile the volume.

    Returns
    -------
    dict of int to Box
        Label to box, ascending.
    """
    found: dict[int, Box] = {}
    for part in parts:
        for number, box in instance_boxes(read(part)).items():
            start = [a + o for a, o in zip(box.start, part.start, strict=True)]
            stop = [b + o for b, o in zip(box.stop, part.start, strict=True)]
            if number in found:
                start = [min(pair) for pair in zip(start, found[number].start, strict=True)]
                stop = [max(pair) for pair in zip(stop, found[number].stop, strict=True)]
            found[number] = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return dict(sorted(found.items()))


def masks_of_labels(
    read: Callable[[Box], NDArray[Any]], shape: Zyx, parts: Iterable[Box]
) -> Iterator[tuple[int, Box, NDArray[np.bool_]]]:
    """Yield each label of a volume with its box and its mask, ascending.

    Every part is read once. The indices of the labelled voxels (4 bytes each, 8 beyond 4 G voxels), one part and one
    mask are held in memory.

    Parameters
    ----------
    read : callable
        Takes a box and returns its labels, (Z, Y, X), integer.
    shape : tuple of int
        Voxels along (z, y, x).
    parts : iterable of Box
        Boxes that tile the volume.

    Yields
    ------
    int, Box, ndarray of bool
        The label, the box around it, and its mask in that box.

    Raises
    ------
    ValueError
        If labels are negative or not integers.
    """
    index = np.uint32 if math.prod(shape) <= 2**32 else np.uint64
    pieces: dict[int, list[NDArray[Any]]] = {}
    for part in parts:
        labels = read(part)
        _check_labels(labels)
        step = max(1, SLAB_VOXELS // max(1, math.prod(labels.shape[1:])))
        for first in range(0, len(labels), step):
            start = (part.start[0] + first, *part.start[1:])
            for number, places in _places(labels[first : first + step], start, shape):
                pieces.setdefault(number, []).append(places.astype(index))
    for number in sorted(pieces):
        own = pieces.pop(number)
        box = _around(own, shape)
        mask = np.zeros(box.shape, bool)
        for places in own:
            z, y, x = np.unravel_index(places, shape)
            mask[z - box.start[0], y - box.start[1], x - box.start[2]] = True
        yield number, box, mask


def _places(labels: NDArray[Any], start: Sequence[int], shape: Zyx) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each label of a part that begins at `start`, and the flat indices of its voxels in the volume."""
    flat = np.flatnonzero(labels)
    if not len(flat):
        return
    numbers = labels.ravel()[flat]
    order = np.argsort(numbers, kind="stable")
    z, y, x = (i + a for i, a in zip(np.unravel_index(flat[order], labels.shape), start, strict=True))
    places = np.ravel_multi_index((z, y, x), shape)
    found, first = np.unique(numbers[order], return_index=True)
    for number, begin, end in zip(found.tolist(), first, [*first[1:], len(places)], strict=True):
        yield int(number), places[begin:end]


def _around(pieces: Sequence[NDArray[Any]], shape: Zyx) -> Box:
    """Return the box around flat indices."""
    low, high = np.array(shape), np.zeros(3, np.int64)
    for places in pieces:
        zyx = np.stack(np.unravel_index(places, shape))
        low, high = np.minimum(low, zyx.min(axis=1)), np.maximum(high, zyx.max(axis=1) + 1)
    start, stop = low.tolist(), high.tolist()
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _check_labels(instances: NDArray[Any]) -> None:
    """Raise ValueError for labels that are negative or not integers."""
    if instances.dtype.kind not in "bui":
        raise ValueError(f"instances must be integers, not {instances.dtype}")
    if instances.dtype.kind == "i" and instances.size and instances.min() < 0:
        raise ValueError("instances must not be negative")


def _on_border(box: Slices, shape: tuple[int, ...]) -> bool:
    """Return whether a box reaches the outermost voxels of the volume; an axis of one voxel has none."""
    return any(n > 1 and (s.start == 0 or s.stop == n) for s, n in zip(box, shape, strict=True))


def instance_boxes(instances: NDArray[Any], *, margin: int = 0) -> dict[int, Box]:
    """Find the box around each instance of a volume in memory.

    Parameters
    ----------
    instances : ndarray, shape (Z, Y, X), integer
        Instance numbers; they may have gaps.
    margin : int
        Voxels added on every side, clipped to the volume. Default: 0.

    Returns
    -------
    dict of int to Box
        Number to box, ascending.

    Raises
    ------
    ValueError
        If numbers are negative or not integers.
    """
    if instances.dtype.kind == "b":
        instances = instances.view(np.uint8)
    _check_labels(instances)
    if instances.size == 0:
        return {}
    # find_objects makes a list as long as the highest id: ids above the number of voxels are made compact first
    ids: NDArray[Any] | None = None
    if instances.max() >= instances.size:
        ids, instances = _compact(instances)
    found: dict[int, Box] = {}
    for number, slices in enumerate(ndimage.find_objects(instances), start=1):
        if slices is not None:
            found[int(ids[number]) if ids is not None else number] = _grown(slices, margin, instances.shape)
    return found


def _compact(instances: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labels in ascending order, and the index into them of each voxel; 0 always has index 0."""
    ids, inverse = np.unique(np.append(instances.ravel(), 0), return_inverse=True)
    return ids, inverse[:-1].reshape(instances.shape)


def _grown(slices: Sequence[slice], margin: int, shape: tuple[int, ...]) -> Box:
    """Return a box with a margin on every side, clipped to the volume."""
    start = tuple(max(0, int(s.start) - margin) for s in slices)
    stop = tuple(min(n, int(s.stop) + margin) for s, n in zip(slices, shape, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def _tied(sizes: Mapping[int, int], kept: list[int]) -> list[int]:
    """Return the labels of `kept` that share their size with another."""
    counts = Counter(sizes[i] for i in kept)
    return [i for i in kept if counts[sizes[i]] > 1]


def _first_voxel(scratch: VoxelArray, number: int, box: Box, shape: Zyx) -> int:
    """Return the flat index, in the volume, of the component's first voxel: it lies in the first slice of its box."""
    z = box.start[0]
    plane: NDArray[Any] = scratch.read(Box(box.start, (z + 1, box.stop[1], box.stop[2])))[0] == number
    y, x = divmod(int(plane.argmax()), plane.shape[1])
    result: int = z * math.prod(shape[1:]) + (box.start[1] + y) * shape[2] + box.start[2] + x
    return result
