"""The tiling of windows: covers every volume, mirrors as a flipped volume does, and blocks see all they need."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.tiling import ALL_FLIPS, MAX_MIRRORS, Tiling, window_starts, window_stride


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (160, 64, 48, [0, 48, 96]),
        (161, 64, 48, [0, 48, 96, 97]),
        (64, 64, 32, [0]),
        (40, 64, 32, [0]),
        (65, 64, 32, [0, 1]),
    ],
)
def test_window_starts_cover_the_axis_and_clamp_the_last(
    length: int, window: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("mirrors", ["no", "yes", "adaptive"])
def test_cores_tile_the_volume_and_halos_hold_every_touching_window(mirrors: str) -> None:
    shape, tiling = (100, 131, 20), Tiling(32, 20, mirrors)  # type: ignore[arg-type]
    covered = np.zeros(shape, int)
    for block in tiling.blocks(shape, (40, 64, 20)):
        covered[block.core.slices] += 1
        mine = tiling.windows(shape, block.core)
        assert mine == [w for w in tiling.windows(shape) if w.box.intersection(block.core)]
        for window in mine:
            inside = window.box.intersection(block.halo)
            assert inside == window.box.intersection(type(block.halo)((0, 0, 0), shape))
    assert (covered == 1).all()


@pytest.mark.parametrize("length", [100, 101, 64, 41, 40])
def test_the_mirrored_axis_has_the_windows_of_the_flipped_volume(length: int) -> None:
    tiling = Tiling(64, 32, "yes")
    forth, back = tiling.starts(length, False), tiling.starts(length, True)
    # A window from s covers s ... s + 63; flipped, it starts at length - 64 - s.
    assert sorted(length - 64 - s for s in forth) == back
    assert min(back) <= 0
    assert max(back) + 64 >= length


def test_with_all_mirrors_each_voxel_is_seen_in_eight_times_the_windows() -> None:
    once, eight = Tiling(16, 8, "no"), Tiling(16, 8, "yes")
    windows = eight.windows((37, 20, 30))
    assert len(windows) == 8 * len(once.windows((37, 20, 30))) == eight.count((37, 20, 30))
    assert {w.flips for w in windows} == set(ALL_FLIPS)
    assert sum(w.weight for w in windows) == pytest.approx(len(windows) / 8)


def test_adaptive_windows_around_a_voxel_have_all_mirrors_and_opposites() -> None:
    windows = Tiling(16, 8, "adaptive").windows((48, 48, 48))
    here = [w for w in windows if all(s <= 20 < s + 16 for s in w.box.start)]
    assert {w.flips for w in here} == set(ALL_FLIPS)
    assert all(tuple(not f for f in w.flips) == w.further[0] for w in windows)
    assert all(len({w.flips, *w.further}) == MAX_MIRRORS for w in windows)


def test_windows_come_in_the_order_of_their_planes() -> None:
    starts = [w.box.start[0] for w in Tiling(16, 8, "yes").windows((53, 20, 20))]
    assert starts == sorted(starts)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0])
def test_overlaps_outside_of_0_to_1_are_refused(overlap: float) -> None:
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        window_stride(64, overlap)
