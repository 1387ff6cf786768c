"""Two membranes that touch come apart; one membrane stays one, however thin, bent, bumpy or branched it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.segmentation import split_touching as splitting
from membrain_cloud.segmentation.instances import separate
from membrain_cloud.segmentation.split_touching import midsurface, split_touching

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF = 2.75  # voxels: a membrane of 55 Å at 10 Å
SIZE = 64
Z, Y, X = (c.astype(np.float32) for c in np.indices((SIZE, SIZE, SIZE)))
MIDDLE = (SIZE - 1) / 2


def slab(distance: NDArray) -> NDArray[np.bool_]:
    return np.abs(distance) <= HALF


def tilted(around_x: float, around_y: float) -> list[NDArray]:
    a, b = np.cos([around_x, around_y]), np.sin([around_x, around_y])
    turn = np.array([[a[0], -b[0], 0], [b[0], a[0], 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, a[1], -b[1]], [0, b[1], a[1]]]
    )
    return [row[0] * (Z - MIDDLE) + row[1] * (Y - MIDDLE) + row[2] * (X - MIDDLE) for row in turn]


def ball(z: float, y: float, x: float, radius: float) -> NDArray:
    return np.sqrt((Z - z) ** 2 + (Y - y) ** 2 + (X - x) ** 2) - radius


def pieces(mask: NDArray) -> list[int]:
    found = split_touching(mask, min_voxels=1000)
    np.testing.assert_array_equal(found > 0, mask)
    return np.bincount(found.ravel())[1:].tolist()


def overlap(found: NDArray, mask: NDArray) -> float:
    """Of the voxels of a true membrane, the share in the piece that has most of them."""
    return np.bincount(found[mask])[1:].max() / np.count_nonzero(mask)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.5, 0.3)])
@pytest.mark.parametrize("radius", [2, 5, 9])
def test_sheets_8_nm_apart_that_touch_in_places_are_two(tilt: tuple[float, float], radius: int) -> None:
    w, u, v = tilted(*tilt)
    lower, upper = slab(w + 4), slab(w - 4)
    bridges = np.zeros_like(lower)
    for place in np.random.default_rng(0).uniform(-18, 18, (4, 2)):
        bridges |= (np.hypot(u - place[0], v - place[1]) <= radius) & (np.abs(w) < 4)
    found = split_touching(lower | upper | bridges, min_voxels=1000)
    assert found.max() == 2
    assert overlap(found, lower) > 0.97
    assert overlap(found, upper) > 0.97


def test_wavy_sheets_that_meet_where_they_bend_are_two() -> None:
    w, u, _ = tilted(0.5, 0.3)
    lower, upper = slab(w + 4 + 1.9 * np.sin(u / 6)), slab(w - 4 - 1.9 * np.sin(u / 6))
    found = split_touching(lower | upper, min_voxels=1000)
    assert found.max() == 2
    assert overlap(found, lower) > 0.9


def test_a_stack_comes_apart() -> None:
    w, u, v = tilted(0.3, 0.2)
    mask = np.zeros(w.shape, bool)
    rng = np.random.default_rng(1)
    for k in range(-1, 2):
        mask |= slab(w - 8 * k)
        for place in rng.uniform(-18, 18, (3, 2)):
            mask |= (np.hypot(u - place[0], v - place[1]) <= rng.uniform(2, 6)) & (np.abs(w - 8 * k - 4) < 4) & (k < 1)
    assert len(pieces(mask)) == 3


@pytest.mark.parametrize("degrees", [90, 60, 45])
def test_sheets_that_cross_are_two(degrees: float) -> None:
    w, u, _ = tilted(0.3, 0.2)
    angle = np.radians(degrees)
    first, second = slab(w), slab(w * np.cos(angle) + u * np.sin(angle))
    found = split_touching(first | second, min_voxels=1000)
    assert found.max() == 2
    assert overlap(found, first) > 0.8
    assert overlap(found, second) > 0.8


@pytest.mark.parametrize(
    "mask",
    [
        slab(ball(32, 32, 17, 13)) | slab(ball(32, 32, 48, 13)),
        slab(ball(32, 32, 32, 26)) | slab(ball(32, 32, 40, 14)),
        slab(ball(26, 32, 32, 16)) | slab(Z - 47),
        slab(Z - 20) | (slab(Y - 32) & (Z > 20)),
    ],
    ids=["two vesicles", "a vesicle in another", "a vesicle on a sheet", "a sheet that ends on another"],
)
def test_pairs_that_touch_are_two(mask: NDArray) -> None:
    assert len(pieces(mask)) == 2


def single_membranes() -> dict[str, NDArray]:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(Z.shape), 3)
    noise /= noise.std()
    sphere = ball(32, 32, 32, 22)
    theta = np.arctan2(np.hypot(Y - 32, X - 32), Z - 32)
    bumps = 2.5 * np.sin(5 * np.arctan2(Y - 32, X - 32)) * np.sin(theta) ** 2 * np.sin(4 * theta)

    def rod(y: float, x: float) -> NDArray:
        along = np.clip(((Y - 32) * (y - 32) + (X - 32) * (x - 32)) / ((y - 32) ** 2 + (x - 32) ** 2), 0, 1)
        return np.sqrt((Z - 32) ** 2 + (Y - 32 - along * (y - 32)) ** 2 + (X - 32 - along * (x - 32)) ** 2)

    radius = np.hypot(Y - 32, X - 32)
    neck = np.where((X > 27) & (X < 43), np.hypot(Z - 32, Y - 32) - 6, 9)
    disc = np.where(radius < 20, np.abs(Z - 32) - 5, np.hypot(radius - 20, Z - 32) - 5)
    lumps = slab(Z - 32 + 3 * np.sin(X / 8))
    for y, x in rng.uniform(5, 59, (20, 2)):
        place = 32 - 3 * np.sin(x / 8) + rng.choice([-4, 4])
        lumps |= ball(place, y, x, rng.uniform(3, 6)) < 0
    return {
        "sphere": slab(sphere),
        "small vesicle": slab(ball(32, 32, 32, 9)),
        "sphere cut by the border": slab(ball(8, 32, 0, 22)),
        "bumpy vesicle": slab(sphere - bumps),
        "thin spots and holes": np.abs(sphere) <= 2.0 + 0.9 * noise,
        "thin all around": np.abs(sphere) <= np.where(np.abs(Z - 32) < 2, 0.9, HALF),
        "torus": slab(np.hypot(radius - 18, Z - 32) - 9),
        "branching tube": slab(np.minimum.reduce([rod(2, 10), rod(2, 54), rod(62, 32)]) - 8),
        "flat cisterna": slab(disc),
        "flat cisterna, filled in a place": slab(disc) | ((np.hypot(Y - 30, X - 35) < 4) & (np.abs(Z - 32) < 5)),
        "bud with a neck": slab(np.minimum(np.minimum(ball(32, 32, 17, 13), ball(32, 32, 49, 9)), neck)),
        "sheet with a slit": slab(Z - 32) & ~((np.abs(Y - 32) < 1.5) & (np.abs(X - 32) > 6)),
        "sheet, half of it thick": np.abs(Z - 32) <= np.where(X < 32, HALF, 4.9),
        "sheet with lumps": lumps,
        "corner": (slab(Z - 20) & (Y > 20 - HALF)) | (slab(Y - 20) & (Z > 20 - HALF)),
        "ball": ball(32, 32, 32, 14) < 0,
        "the whole volume": np.ones((24, 24, 24), bool),
        "a voxel": np.pad(np.ones((1, 1, 1), bool), 4),
    }


SINGLE = single_membranes()


@pytest.mark.parametrize("name", SINGLE)
def test_one_membrane_stays_one(name: str) -> None:
    mask = SINGLE[name]
    assert pieces(mask) == [np.count_nonzero(mask)]


def test_no_piece_is_smaller_than_asked() -> None:
    mask = slab(ball(32, 32, 17, 13)) | slab(ball(32, 32, 48, 13))
    whole = int(np.count_nonzero(mask))
    assert len(split_touching(mask, min_voxels=whole // 3).nonzero()[0]) == whole
    assert split_touching(mask, min_voxels=whole // 3).max() == 2
    assert split_touching(mask, min_voxels=whole).max() == 1


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    w, u, v = tilted(0.5, 0.3)
    mask = slab(w + 4) | slab(w - 4) | ((np.hypot(u, v) <= 4) & (np.abs(w) < 4))
    whole = split_touching(mask, min_voxels=1000)
    monkeypatch.setattr(splitting, "_BLOCK", 30)
    cut = split_touching(mask, min_voxels=1000)
    assert cut.max() == 2
    assert (whole != cut).mean() < 1e-3


def test_normals_of_the_midsurface() -> None:
    found = midsurface(slab(ball(32, 32, 32, 20)), min_voxels=1000)
    outward = (found.voxels - 32) / np.linalg.norm(found.voxels - 32, axis=1, keepdims=True)
    assert np.median(np.abs((found.normals * outward).sum(axis=1))) > 0.99
    assert abs(found.thickness - 6) < 1
    assert (found.patches == 1).mean() > 0.99


def test_pieces_are_numbered_with_the_other_membranes() -> None:
    volume = np.zeros((SIZE, SIZE, 2 * SIZE), np.uint8)
    volume[:, :, :SIZE] = slab(ball(32, 32, 17, 13)) | slab(ball(32, 32, 48, 13))
    volume[10:54, 10:54, SIZE + 20 : SIZE + 25] = 1
    whole = separate(volume, min_voxels=1000, split=False, drop_border=False)
    found = separate(volume, min_voxels=1000, split=True, drop_border=False)
    assert (whole.max(), found.max()) == (2, 3)
    sizes = np.bincount(found.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()
    np.testing.assert_array_equal(found > 0, volume > 0)
