"""Cutting a patch out of a volume, turned and magnified by any amount, and turned about by quarters.

Patch and turn are one step: what a turned patch's corners show is looked up in the volume, so they are real for as
long as the volume has them. Labels are taken from the nearest voxel and are IGNORE outside of the volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled
from membrain_cloud.training.labels import IGNORE

if TYPE_CHECKING:
    from membrain_cloud.training.augmentation.intensity import Float32

UInt8 = NDArray[np.uint8]
Matrix = NDArray[np.float64]


def rotation(rng: np.random.Generator, largest_degrees: float) -> Matrix:
    """(3, 3) about the axes z, y and x one after the other, each by an angle up to `largest_degrees` either way."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.uniform(-largest_degrees, largest_degrees, 3))):
        first, second = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def cut(
    image: Float32, label: UInt8, middle: NDArray[np.floating], window: int, matrix: Matrix | None
) -> tuple[Float32, UInt8]:
    """The patch of `window`^3 voxels around `middle`.

    image, label : (Z, Y, X), arrays or mapped from files: only what is looked at is read.
    middle : zyx, in voxels (voxel i has its centre at i).
    matrix : offsets in the patch -> offsets in the volume; None: the identity, at whole voxels.
    Outside of the volume the image repeats its border under a turn, and is 0 without one, as MemBrain-seg pads it.
    """
    corner = np.asarray(middle) - (window - 1) / 2
    if matrix is None:
        return _straight(image, label, np.floor(corner + 0.5).astype(int), window)
    half = (np.abs(matrix).sum(axis=1)) * (window - 1) / 2
    shape = np.array(image.shape)
    first = np.clip(np.floor(middle - half).astype(int), 0, shape - 1)
    last = np.clip(np.ceil(middle + half).astype(int) + 1, 1, shape)
    box = tuple(slice(int(a), int(max(b, a + 1))) for a, b in zip(first, last, strict=True))
    out = np.empty((window,) * 3, np.float32)
    truth = np.empty((window,) * 3, np.uint8)
    _sample(
        np.ascontiguousarray(image[box], np.float32),
        np.ascontiguousarray(label[box]),
        np.asarray(middle, np.float64) - first,
        np.asarray(matrix, np.float64),
        out,
        truth,
        np.uint8(IGNORE),
    )
    return out, truth


def quarter_turns(
    image: Float32, label: UInt8, rng: np.random.Generator, *, turn: float, swap: float, flip: float
) -> tuple[Float32, UInt8]:
    """Turn in each of the three planes by 90, 180 or 270 degrees, swap axes three times, flip one, by their chances."""
    for plane in ((0, 1), (0, 2), (1, 2)):
        if turn and rng.random() < turn:
            quarters = int(rng.integers(1, 4))
            image, label = np.rot90(image, quarters, plane), np.rot90(label, quarters, plane)
    for _ in range(3):
        if swap and rng.random() < swap:
            first, second = ((0, 1), (1, 2), (0, 2))[int(rng.integers(3))]
            image, label = image.swapaxes(first, second), label.swapaxes(first, second)
    if flip and rng.random() < flip:
        axis = int(rng.integers(3))
        image, label = np.flip(image, axis), np.flip(label, axis)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _straight(image: Float32, label: UInt8, corner: NDArray[np.integer], window: int) -> tuple[Float32, UInt8]:
    out = np.zeros((window,) * 3, np.float32)
    truth = np.full((window,) * 3, IGNORE, np.uint8)
    source, target = [], []
    for start, length in zip(corner.tolist(), image.shape, strict=True):
        source.append(slice(max(start, 0), max(min(start + window, length), 0)))
        target.append(slice(source[-1].start - start, source[-1].stop - start))
    if all(part.stop > part.start for part in source):
        out[tuple(target)] = image[tuple(source)]
        truth[tuple(target)] = label[tuple(source)]
    return out, truth


@compiled
def _sample(
    image: Any, label: Any, middle: Any, matrix: Any, out: Any, truth: Any, outside: Any
) -> None:  # pragma: no cover - compiled
    """Linear for the image, the nearest voxel for the label; both axes of the patch are centred on `middle`."""
    window = out.shape[0]
    depth, rows, length = image.shape
    half = (window - 1) / 2
    for i in range(window):
        for j in range(window):
            # The coordinates of the row's first voxel; each further one is a constant step away.
            z = middle[0] + matrix[0, 0] * (i - half) + matrix[0, 1] * (j - half) - matrix[0, 2] * half
            y = middle[1] + matrix[1, 0] * (i - half) + matrix[1, 1] * (j - half) - matrix[1, 2] * half
            x = middle[2] + matrix[2, 0] * (i - half) + matrix[2, 1] * (j - half) - matrix[2, 2] * half
            for k in range(window):
                u, v, w = z + matrix[0, 2] * k, y + matrix[1, 2] * k, x + matrix[2, 2] * k
                a, b, c = int(np.floor(u + 0.5)), int(np.floor(v + 0.5)), int(np.floor(w + 0.5))
                if 0 <= a < depth and 0 <= b < rows and 0 <= c < length:
                    truth[i, j, k] = label[a, b, c]
                else:
                    truth[i, j, k] = outside
                u, v, w = min(max(u, 0.0), depth - 1.0), min(max(v, 0.0), rows - 1.0), min(max(w, 0.0), length - 1.0)
                a, b, c = int(u), int(v), int(w)
                a1, b1, c1 = min(a + 1, depth - 1), min(b + 1, rows - 1), min(c + 1, length - 1)
                fu, fv, fw = np.float32(u - a), np.float32(v - b), np.float32(w - c)
                near = image[a, b, c] + fw * (image[a, b, c1] - image[a, b, c])
                below = image[a, b1, c] + fw * (image[a, b1, c1] - image[a, b1, c])
                far = image[a1, b, c] + fw * (image[a1, b, c1] - image[a1, b, c])
                corner = image[a1, b1, c] + fw * (image[a1, b1, c1] - image[a1, b1, c])
                near += fv * (below - near)
                far += fv * (corner - far)
                out[i, j, k] = near + fu * (far - near)
