"""Connected components: what is one membrane, in which order, and their boxes."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.segmentation import instances
from membrain_cloud.segmentation.instances import boxes_of_labels, instance_boxes, masks_of_labels, separate_volume


def separate(labels: np.ndarray, *, min_voxels: int, foreground: int | None = None) -> np.ndarray:
    """Components as they are."""
    return instances.separate(labels, min_voxels=min_voxels, split=False, drop_border=False, foreground=foreground)


def _volume(*parts: tuple[tuple[slice, slice, slice], int]) -> np.ndarray:
    labels = np.zeros((12, 14, 16), np.uint8)
    for place, value in parts:
        labels[place] = value
    return labels


SMALL = np.s_[0:1, 0:2, 0:2]
LARGE = np.s_[4:8, 4:8, 4:8]
OTHER_SMALL = np.s_[10:11, 10:12, 10:12]


def test_numbers_by_size_then_position() -> None:
    found = separate(_volume((SMALL, 1), (LARGE, 1), (OTHER_SMALL, 1)), min_voxels=1)
    assert found.dtype == np.uint16
    assert (found[LARGE] == 1).all()
    assert (found[SMALL] == 2).all()
    assert (found[OTHER_SMALL] == 3).all()
    assert np.bincount(found.ravel()).tolist() == [12 * 14 * 16 - 72, 64, 4, 4]


def test_equal_sizes_are_ordered_by_their_first_voxel_not_by_their_box() -> None:
    labels = np.zeros((1, 6, 9), bool)
    labels[0, 0, 5:7] = True  # first voxel (0, 0, 5)
    labels[0, 1, 0:2] = True  # starts further left, but later
    found = separate(labels, min_voxels=1)
    assert found[0, 0, 5] == 1
    assert found[0, 1, 0] == 2


def test_order_does_not_depend_on_memory_layout() -> None:
    labels = np.random.default_rng(0).random((20, 21, 22)) > 0.93
    plain = separate(labels, min_voxels=2)
    assert plain.max() > 50
    np.testing.assert_array_equal(plain, separate(np.asfortranarray(labels), min_voxels=2))
    np.testing.assert_array_equal(plain, separate(labels[::-1][::-1], min_voxels=2))


def test_voxels_that_share_a_corner_are_one() -> None:
    labels = np.zeros((4, 4, 4), bool)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = True
    found = separate(labels, min_voxels=1)
    assert found[0, 0, 0] == found[1, 1, 1] == 1
    assert found[3, 3, 3] == 2


def test_small_components_are_dropped() -> None:
    found = separate(_volume((SMALL, 1), (LARGE, 1)), min_voxels=5)
    assert found.max() == 1
    assert not found[SMALL].any()
    assert separate(_volume((SMALL, 1)), min_voxels=4).max() == 1  # the least size itself is kept


def test_foreground_picks_one_value_or_all() -> None:
    labels = _volume((np.s_[2:4, :, :], 1), (np.s_[4:6, :, :], 2))
    assert set(np.unique(labels[separate(labels, min_voxels=1, foreground=1) == 1])) == {1}
    assert set(np.unique(labels[separate(labels, min_voxels=1, foreground=2) == 1])) == {2}
    assert (separate(labels, min_voxels=1) == 1).sum() == (labels > 0).sum()


def test_more_than_16_bits_of_components() -> None:
    labels = np.zeros((84, 84, 84), bool)
    labels[::2, ::2, ::2] = True
    found = separate(labels, min_voxels=1)
    assert found.dtype == np.uint32
    assert found.max() == 42**3


def test_nothing_there() -> None:
    assert not separate(np.zeros((3, 4, 5), np.int16), min_voxels=1).any()
    assert instance_boxes(np.zeros((3, 4, 5), np.uint16)) == {}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint64])
def test_boxes_with_gaps_in_the_ids(dtype: type) -> None:
    instances = _volume((SMALL, 2), (LARGE, 7)).astype(dtype)
    assert instance_boxes(instances) == {2: Box((0, 0, 0), (1, 2, 2)), 7: Box((4, 4, 4), (8, 8, 8))}


def test_boxes_grow_by_the_margin_within_the_volume() -> None:
    instances = _volume((SMALL, 1), (OTHER_SMALL, 2))
    assert instance_boxes(instances, margin=3) == {1: Box((0, 0, 0), (4, 5, 5)), 2: Box((7, 7, 7), (12, 14, 15))}


def test_boxes_of_huge_ids() -> None:
    instances = np.zeros((4, 4, 4), np.uint64)
    instances[1, 2, 3] = 10**12
    assert instance_boxes(instances) == {10**12: Box((1, 2, 3), (2, 3, 4))}


def test_boxes_refuse_what_cannot_be_ids() -> None:
    with pytest.raises(ValueError, match="integers"):
        instance_boxes(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="negative"):
        instance_boxes(np.full((2, 2, 2), -1))


def test_membranes_at_the_border_can_be_dropped() -> None:
    labels = _volume((SMALL, 1), (LARGE, 1), (OTHER_SMALL, 1))
    found = instances.separate(labels, min_voxels=1, split=False, drop_border=True)
    assert found.max() == 2
    assert not found[SMALL].any()
    np.testing.assert_array_equal(found[LARGE], 1)
    flat = instances.separate(labels[4:5], min_voxels=1, split=False, drop_border=True)
    assert flat.max() == 1  # one plane is not a border


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        (np.zeros((20, 20, 20), np.uint8), 0),
        (np.pad(np.ones((1, 1, 1), np.uint8), 9), 1),
        (np.ones((20, 20, 20), np.uint8), 1),
        (np.zeros((0, 4, 4), np.uint8), 0),
        (np.ones((1, 30, 30), np.uint8), 1),
    ],
    ids=["nothing", "a voxel", "all of the volume", "no volume", "one plane"],
)
def test_odd_segmentations_are_split_to_valid_ones(labels: np.ndarray, count: int) -> None:
    found = instances.separate(labels, min_voxels=1, split=True, drop_border=False)
    assert found.shape == labels.shape
    assert found.max(initial=0) == count
    np.testing.assert_array_equal(found > 0, labels > 0)


# -- volumes of any size -------------------------------------------------------------------------------------------


class Scratch:
    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.array = np.full(shape, 4_000_000_000, np.uint32)  # what was never written reads as anything
        self.largest = 0

    def read(self, box: Box) -> np.ndarray:
        self.largest = max(self.largest, int(np.prod(box.shape)))
        return self.array[box.slices].copy()

    def write(self, box: Box, array: np.ndarray) -> None:
        self.array[box.slices] = array


def crowd(shape: tuple[int, int, int] = (60, 50, 90)) -> np.ndarray:
    """Sheets that touch, blobs of equal sizes, specks, and voxels that hang together by edges and corners only."""
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    labels[10:14, 5:45, 5:60] = 1
    labels[18:22, 5:45, 5:60] = 1
    labels[14:18, 20:25, 20:25] = 1
    for z, y, x in ((30, 5, 5), (30, 20, 5), (40, 5, 70)):
        labels[z : z + 6, y : y + 6, x : x + 6] = 1
    steps = np.arange(12)
    labels[40 + steps, 30 + steps // 2, 30 + steps] = 1
    labels[rng.random(shape) > 0.9995] = 1
    return labels


@pytest.mark.parametrize("slab_voxels", [1, 20_000, 10**9])
@pytest.mark.parametrize(("split", "drop_border"), [(True, False), (False, True)])
def test_the_membranes_do_not_hang_on_the_slabs(slab_voxels: int, split: bool, drop_border: bool) -> None:
    labels = crowd()
    whole = instances.separate(labels, min_voxels=8, split=split, drop_border=drop_border)
    scratch = Scratch(labels.shape)
    found = separate_volume(
        lambda box: labels[box.slices],
        labels.shape,
        scratch,
        min_voxels=8,
        split=split,
        drop_border=drop_border,
        split_voxels=None,
        slab_voxels=slab_voxels,
    )
    np.testing.assert_array_equal(found.numbers[scratch.array], whole)
    assert found.count == whole.max()
    assert (found.count, found.unsplit) == ({True: 6, False: 5}[split], 0)


def test_components_too_large_for_the_memory_stay_whole_and_are_counted() -> None:
    labels = crowd()
    scratch = Scratch(labels.shape)
    found = separate_volume(
        lambda box: labels[box.slices],
        labels.shape,
        scratch,
        min_voxels=8,
        split=True,
        drop_border=False,
        split_voxels=4000,
        slab_voxels=5000,
    )
    assert (found.count, found.unsplit) == (5, 1)
    assert scratch.largest <= 50 * 90 * 2
    assert boxes_of_labels(scratch.read, labels.shape, [Box((0, 0, 0), labels.shape)]) == boxes_of_labels(
        scratch.read, labels.shape, [Box((z, 0, 0), (z + 1, 50, 90)) for z in range(60)]
    )


def test_masks_of_labels_read_every_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "SLAB_VOXELS", 100)  # parts are worked on in pieces
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 0, 0, 3, 7, 900], np.uint16), size=(9, 11, 13))
    labels[:, :5][labels[:, :5] == 7] = 0
    read: list[Box] = []

    def reader(box: Box) -> np.ndarray:
        read.append(box)
        return labels[box.slices]

    parts = list(iterate_chunks(labels.shape, (4, 6, 5)))
    found = {number: (box, mask) for number, box, mask in masks_of_labels(reader, labels.shape, parts)}
    assert read == parts
    assert list(found) == [3, 7, 900]
    for number, box in instance_boxes(labels).items():
        assert found[number][0] == box
        np.testing.assert_array_equal(found[number][1], labels[box.slices] == number)
    empty = np.zeros((3, 3, 3), np.uint8)
    assert not list(masks_of_labels(lambda box: empty[box.slices], empty.shape, [Box((0, 0, 0), empty.shape)]))
    with pytest.raises(ValueError, match="integers"):
        list(masks_of_labels(lambda box: np.ones(box.shape), (2, 2, 2), [Box((0, 0, 0), (2, 2, 2))]))
