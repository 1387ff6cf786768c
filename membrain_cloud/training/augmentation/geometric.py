"""Cut patches out of a volume, rotated and magnified by any amount, and rotate patches by quarter turns.

Cutting and rotating are one step: the corners of a rotated patch are looked up in the volume, and are real data
wherever the volume reaches. Labels are those of the nearest voxel, and IGNORE outside of the volume.
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


def random_rotation(rng: np.random.Generator, largest_degrees: float) -> Matrix:
    """Draw a rotation: about the axes z, y and x in turn, each by a uniformly distributed angle.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    largest_degrees : float
        Largest angle in either direction, in degrees.

    Returns
    -------
    matrix : ndarray of shape (3, 3), float64
        Rotation matrix for (z, y, x).
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.uniform(-largest_degrees, largest_degrees, 3))):
        first, second = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def cut_patch(
    image: NDArray[np.floating[Any]],
    label: UInt8,
    center: NDArray[np.floating[Any]],
    window: int,
    matrix: Matrix | None,
) -> tuple[Float32, UInt8]:
    """Cut a patch out of a volume.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float
        The volume, in memory or mapped from a file; only the part that is needed is read.
    label : ndarray of shape (Z, Y, X), uint8
        Its labels.
    center : ndarray of shape (3,), float
        Centre of the patch (z, y, x), in voxels; the centre of voxel i is at i.
    window : int
        Edge length of the patch, in voxels.
    matrix : ndarray of shape (3, 3), float64, or None
        Offsets in the patch to offsets in the volume. None: the identity, rounded to whole voxels.

    Returns
    -------
    patch : ndarray of shape (window, window, window), float32
        The image, interpolated linearly. Outside of the volume it repeats the border voxels if there is a matrix, and
        is 0 otherwise, as in MemBrain-seg.
    truth : ndarray of shape (window, window, window), uint8
        The labels of the nearest voxels; IGNORE outside of the volume.
    """
    corner = np.asarray(center) - (window - 1) / 2
    if matrix is None:
        return _cut_straight(image, label, np.floor(corner + 0.5).astype(int), window)
    half = (np.abs(matrix).sum(axis=1)) * (window - 1) / 2
    shape = np.array(image.shape)
    first = np.clip(np.floor(center - half).astype(int), 0, shape - 1)
    last = np.clip(np.ceil(center + half).astype(int) + 1, 1, shape)
    box = tuple(slice(int(a), int(max(b, a + 1))) for a, b in zip(first, last, strict=True))
    out = np.empty((window,) * 3, np.float32)
    truth = np.empty((window,) * 3, np.uint8)
    _sample(
        (np.ascontiguousarray(image[box], np.float32), np.ascontiguousarray(label[box])),
        np.asarray(center, np.float64) - first,
        np.asarray(matrix, np.float64),
        (out, truth),
        np.uint8(IGNORE),
    )
    return out, truth


def quarter_turns(
    image: Float32, label: UInt8, rng: np.random.Generator, *, turn: float, swap: float, flip: float
) -> tuple[Float32, UInt8]:
    """Rotate a patch by quarter turns, swap its axes and mirror it, at random.

    Parameters
    ----------
    image : ndarray of shape (w, w, w), float32
        The patch.
    label : ndarray of shape (w, w, w), uint8
        Its labels.
    rng : numpy.random.Generator
        Source of random numbers.
    turn : float
        Probability of a rotation by 90, 180 or 270 degrees, for each of the three planes.
    swap : float
        Probability that two axes are exchanged, for each of three times.
    flip : float
        Probability that one axis is mirrored.

    Returns
    -------
    image : ndarray of shape (w, w, w), float32
        The new patch, contiguous.
    label : ndarray of shape (w, w, w), uint8
        Its labels, contiguous.
    """
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


def _cut_straight(
    image: NDArray[np.floating[Any]], label: UInt8, corner: NDArray[np.integer[Any]], window: int
) -> tuple[Float32, UInt8]:
    """Copy the patch whose first voxel is `corner`, filled up with 0 and IGNORE outside of the volume."""
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
def _sample(volume: Any, center: Any, matrix: Any, patch: Any, outside: Any) -> None:  # pragma: no cover - compiled
    """Fill `patch`, a pair of image and label: the image interpolated linearly, the label of the nearest voxel.

    `volume` is the pair to sample from, and `center` the position of the patch's centre in it.
    """
    image, label = volume
    out, truth = patch
    window = out.shape[0]
    depth, rows, length = image.shape
    half = (window - 1) / 2
    for i in range(window):
        for j in range(window):
            # The coordinates of the row's first voxel; each further voxel is a constant step away.
            z = center[0] + matrix[0, 0] * (i - half) + matrix[0, 1] * (j - half) - matrix[0, 2] * half
            y = center[1] + matrix[1, 0] * (i - half) + matrix[1, 1] * (j - half) - matrix[1, 2] * half
            x = center[2] + matrix[2, 0] * (i - half) + matrix[2, 1] * (j - half) - matrix[2, 2] * half
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
