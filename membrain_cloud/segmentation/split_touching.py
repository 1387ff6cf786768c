"""Split membranes that touch or cross: cut where two sheets meet, never where one sheet is merely thin.

    mask -> mid-surface voxels with normals -> patches -> parts -> every voxel to its part

A *patch* is a smooth connected part of the mid-surface: neighbours with similar normals, in flat surroundings, where
the mask is no thicker than usual. Where membranes touch, the mask is thicker than a membrane or its mid-surface
branches, so patches end there. The sheets that meet at such a place are then compared:

      =========== A            A ===###=== B             A |             the same membrane if one continues the
            #                                              ##== B        other (middle); separate if one continues
      =========== B                                        |             past the place and the other lies beside or
      beside: separate         continues: the same         across        across it; else left together.

So only the orientation decides on a cut. Thin spots, holes, bulges, buds with solid necks and sharp rims stay with
their membrane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
import scipy.sparse
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.segmentation import watershed

from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.image.skeleton import skeletonize
from membrain_cloud.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# All lengths in voxels, all angles as cosines. A membrane is 4 to 7 voxels thick at 10 Å.
_NORMAL_REACH = 3.5  # of the surroundings that give a normal: less than half the distance of two sheets that touch
_WIDE_REACH = (3.5, 7.0)  # of the surroundings that show a junction: as far as the membrane is thick, within these
# Of the surroundings' variances, the smallest over the middle one: lines and junctions have more, in the near or in
# the wide surroundings. A tube of radius 9 has 0.05.
_FLAT_NEAR, _FLAT_WIDE = 0.35, 0.1
_TOO_THICK = (1.3, 0.7)  # times the membrane's usual half thickness, plus: thicker is two membranes, or a lump
_LIKE_NORMALS = 0.82  # 35 degrees, from one mid-surface voxel to the next
_STEP = 1.3  # along the normal, from one mid-surface voxel to the next
_LEAST_PATCH, _LEAST_INNER = 4.0, 1.0  # voxels of a patch, and of its inner part, over the thickness squared
_INNER = 0.7  # part of a full disc that a patch's inner voxels have around them
_GAP = 3  # voxels of the mask across which patches still meet
_GOES_ON_NORMALS, _ACROSS_NORMALS = 0.8, 0.6
_PAST = 0.15  # share of a meeting at which a sheet goes on past it: more is two sheets, less a sheet's own rim
_OFFSET = 0.5  # of two sheets along their normals, over their distance: 0 side by side, 1 one above the other
_SURROUNDS = 0.55  # length of the mean direction: 0 where a sheet lies all around, 0.64 where it ends
_BLOCK, _HALO = 320, 32  # larger volumes are worked on in blocks; the halo is several membranes thick
_SAMPLES = 400  # voxels of a place that are looked at


@dataclass(frozen=True, eq=False)
class Midsurface:
    """The mid-surface voxels of a mask.

    Attributes
    ----------
    voxels : ndarray, shape (N, 3), int64
        Voxels, zyx.
    normals : ndarray, shape (N, 3), float64
        Unit normals, zyx, up to sign.
    patches : ndarray, shape (N,), int64
        1 for the largest patch, then by falling size; 0 for thick places, junctions and rims.
    thickness : float
        Usual thickness of the mask in voxels.
    """

    voxels: NDArray[np.int64]
    normals: NDArray[np.float64]
    patches: NDArray[np.int64]
    thickness: float


def split_touching(mask: NDArray[np.bool_], *, min_voxels: int) -> NDArray[np.int32]:
    """Cut one connected component into membranes.

    Parameters
    ----------
    mask : ndarray, shape (Z, Y, X), bool
        The component; at the border of the array membranes are taken to continue.
    min_voxels : int
        No part is made smaller.

    Returns
    -------
    ndarray, shape (Z, Y, X), int32
        0 in the background, 1..N in the parts. The same mask gives the same parts.
    """
    whole = np.asarray(mask, np.int32)
    surface = midsurface(mask, min_voxels=min_voxels)
    if surface.patches.max(initial=0) < 2:
        return whole
    grown = _grow(mask, surface.voxels, surface.patches)
    for surely in (True, False):
        joined = _joined(grown, surface, surely=surely)
        grown = joined.astype(np.int32)[grown]
        surface = replace(surface, patches=joined[surface.patches])
        if surface.patches.max() < 2:
            return whole
    return _without_crumbs(grown, min_voxels)


def midsurface(mask: NDArray[np.bool_], *, min_voxels: int) -> Midsurface:
    """Compute the mid-surface of a mask with its normals and patches.

    Parameters
    ----------
    mask : ndarray, shape (Z, Y, X), bool
        The mask.
    min_voxels : int
        Patches that cover fewer voxels of the mask, about, become 0.

    Returns
    -------
    Midsurface
        Voxels, normals and patches.
    """
    thin = skeletonize(mask)
    voxels = np.argwhere(thin).astype(np.int64)
    if not len(voxels):
        return Midsurface(voxels, np.zeros((0, 3)), np.zeros(0, np.int64), 0.0)
    depth = _depths(mask, voxels)
    thickness = 2.0 * float(np.median(depth))
    reach = float(np.clip(thickness, *_WIDE_REACH))
    normals, near = _normals(thin, voxels, _NORMAL_REACH)
    _, wide = _normals(thin, voxels, reach)
    smooth = (near < _FLAT_NEAR) & (wide < _FLAT_WIDE) & (depth <= _TOO_THICK[0] * thickness / 2 + _TOO_THICK[1])
    patches = np.zeros(len(voxels), np.int64)
    patches[smooth] = _patches(voxels[smooth], normals[smooth], mask.shape)
    # half of what a piece needs (its rim, and where it touches others, are in no patch), and no mere bulge or strip
    least = max(0.5 * min_voxels / thickness, _LEAST_PATCH * thickness**2)
    thin[tuple(voxels[~smooth].T)] = False
    inner = _moments_around(thin, voxels, reach)[:, 0] >= _INNER * np.pi * reach**2
    sizes, inner_sizes = np.bincount(patches), np.bincount(patches, weights=inner)
    sizes[0] = 0
    kept = np.flatnonzero((sizes >= least) & (inner_sizes >= _LEAST_INNER * thickness**2))
    rank = np.zeros(len(sizes), np.int64)
    rank[kept[np.argsort(-sizes[kept], kind="stable")]] = np.arange(1, len(kept) + 1)
    return Midsurface(voxels, normals, rank[patches], thickness)


def _normals(
    thin: NDArray[np.bool_], voxels: NDArray[np.int64], reach: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit normals (N, 3) around each voxel, and the unevenness (N,) of the mid-surface, 0 where flat."""
    sums = _moments_around(thin, voxels, reach)
    mean = sums[:, 1:4] / sums[:, :1]
    second = sums[:, 4:][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3) / sums[:, :1, None]
    values, vectors = np.linalg.eigh(second - mean[:, :, None] * mean[:, None, :])
    flatness = values[:, 0] / np.maximum(values[:, 1], 1e-9)
    flatness[sums[:, 0] < 5] = np.inf
    return vectors[:, :, 0].astype(np.float64), flatness


def _moments_around(thin: NDArray[np.bool_], voxels: NDArray[np.int64], reach: float) -> NDArray[np.float64]:
    """Return the moments of the mid-surface within `reach` of each voxel, (N, 10)."""
    margin = int(reach)
    ball = np.array([o for o in product(range(-margin, margin + 1), repeat=3) if np.dot(o, o) <= reach**2])
    return np.asarray(_moments(np.pad(thin, margin), voxels + margin, ball))


@compiled
def _moments(
    thin: NDArray[Any], voxels: NDArray[Any], ball: NDArray[Any]
) -> NDArray[Any]:  # pragma: no cover - compiled
    """Return count, sums and sums of products (zz, zy, zx, yy, yx, xx) of the offsets around each voxel, (N, 10)."""
    sums = np.zeros((len(voxels), 10))
    for n in range(len(voxels)):
        for o in range(len(ball)):
            z, y, x = ball[o, 0], ball[o, 1], ball[o, 2]
            if thin[voxels[n, 0] + z, voxels[n, 1] + y, voxels[n, 2] + x]:
                sums[n, 0] += 1.0
                sums[n, 1] += z
                sums[n, 2] += y
                sums[n, 3] += x
                sums[n, 4] += z * z
                sums[n, 5] += z * y
                sums[n, 6] += z * x
                sums[n, 7] += y * y
                sums[n, 8] += y * x
                sums[n, 9] += x * x
    return sums


def _patches(voxels: NDArray[np.int64], normals: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the number of the patch of each voxel, (N,): neighbours with similar normals, neither above the other."""
    count = len(voxels)
    size = np.array(shape) + 4
    codes = np.ravel_multi_index(tuple((voxels + 2).T), tuple(size))  # ascending, as argwhere gives them
    strides = np.array([size[1] * size[2], size[2], 1])
    ends: list[NDArray[np.int64]] = []
    for offset in product(range(-2, 3), repeat=3):
        step = int(np.dot(offset, strides))
        if step <= 0 or np.dot(offset, offset) > 6:
            continue
        place = np.minimum(np.searchsorted(codes, codes + step), max(count - 1, 0))
        i = np.flatnonzero(codes[place] == codes + step)
        j = place[i]
        along = np.abs(normals[[i, j]] @ np.array(offset, np.float64)).max(axis=0)
        like = np.abs((normals[i] * normals[j]).sum(axis=1)) >= _LIKE_NORMALS
        ends.append(np.stack([i, j])[:, like & (along <= _STEP)])
    i, j = np.concatenate(ends, axis=1)
    graph = scipy.sparse.coo_matrix((np.ones(len(i), bool), (i, j)), shape=(count, count))
    result: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64) + 1
    return result


def _depths(mask: NDArray[np.bool_], voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance of each voxel from the background, (N,), exact up to the reach of a block's surroundings."""
    depths = np.empty(len(voxels))
    for core, halo in _blocks(mask.shape):
        members = _inside(voxels, core)
        if len(members):
            distance = ndimage.distance_transform_edt(mask[halo.slices])
            depths[members] = distance[tuple((voxels[members] - halo.start).T)]
    return depths


def _grow(mask: NDArray[np.bool_], voxels: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int32]:
    """Assign every voxel of the mask to the label that is nearest through the mask; 0 in `labels` (N,) is none."""
    grown = np.zeros(mask.shape, np.int32)
    voxels, labels = voxels[labels > 0], labels[labels > 0]
    tree = cKDTree(voxels)
    for core, halo in _blocks(mask.shape):
        part = mask[halo.slices]
        if not part.any():
            continue
        seeds = np.zeros(part.shape, np.int32)
        members = _inside(voxels, halo)
        seeds[tuple((voxels[members] - halo.start).T)] = labels[members]
        distance = ndimage.distance_transform_edt(seeds == 0).astype(np.float32)
        flooded = watershed(distance, seeds, connectivity=np.ones((3, 3, 3), bool), mask=part)
        grown[core.slices] = flooded[core.within(halo)]
    left = np.argwhere(mask & (grown == 0))  # out of a block's reach
    if len(left):
        grown[tuple(left.T)] = labels[tree.query(left)[1]]
    return grown


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[Box, Box]]:
    """Yield cores that tile a volume with their surroundings, small enough to hold several arrays of them."""
    for core in iterate_chunks(shape, (_BLOCK,) * 3):  # type: ignore[arg-type]
        low = [max(0, a - _HALO) for a in core.start]
        high = [min(n, b + _HALO) for b, n in zip(core.stop, shape, strict=True)]
        yield core, Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _inside(voxels: NDArray[np.int64], box: Box) -> NDArray[np.int64]:
    return np.flatnonzero(((voxels >= box.start) & (voxels < box.stop)).all(axis=1))


@dataclass(frozen=True, eq=False)
class _Meeting:
    """The place where two sheets meet: its length in voxels, and at how many of them the sheets lie in which way.

    Attributes
    ----------
    goes_on : float
        One sheet lies in the plane of the other.
    beside : float
        One sheet lies above the other, or across it.
    past : float
        Beside, and at least one sheet continues past the other.
    """

    voxels: float
    goes_on: float
    beside: float
    past: float

    @property
    def apart(self) -> bool:
        """Whether the sheets are separate membranes."""
        return self.beside > max(0.5 * self.voxels, self.goes_on) and self.past > _PAST * self.voxels


def _joined(grown: NDArray[np.int32], surface: Midsurface, *, surely: bool) -> NDArray[np.int64]:
    """Return the number, from 1 without gaps, of the membrane of each patch; index 0 stays 0.

    surely : join only what goes on in each other, the most certain first, and nothing that would put sheets that lie
    beside each other together; otherwise join all that is not apart.
    """
    membrane = np.arange(int(surface.patches.max()) + 1)
    meetings = _meetings(grown, surface)
    if surely:
        links = {pair: m.goes_on for pair, m in meetings.items() if m.goes_on > max(m.beside, 0.2 * m.voxels)}
        bars = {pair: m.beside for pair, m in meetings.items() if m.beside > m.goes_on}
    else:
        links = {pair: m.voxels for pair, m in meetings.items() if not m.apart}
        bars = {pair: np.inf for pair, m in meetings.items() if m.apart}
    for (a, b), strength in sorted(links.items(), key=lambda link: (-link[1], link[0])):
        pair = {membrane[a], membrane[b]}
        against = sum(bar for (i, j), bar in bars.items() if {membrane[i], membrane[j]} == pair and i != j)
        if len(pair) == 2 and against <= strength:
            membrane[membrane == max(pair)] = min(pair)
    return np.unique(membrane, return_inverse=True)[1].astype(np.int64)


def _meetings(grown: NDArray[np.int32], surface: Midsurface) -> dict[tuple[int, int], _Meeting]:
    """Compare the sheets of every two patches that meet."""
    sheets = {k: np.flatnonzero(surface.patches == k) for k in range(1, int(surface.patches.max()) + 1)}
    trees = {k: cKDTree(surface.voxels[members]) for k, members in sheets.items()}
    return {pair: _compare_sheets(points, pair, surface, sheets, trees) for pair, points in _contacts(grown).items()}


def _contacts(grown: NDArray[np.int32]) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Return the points, zyx, halfway between near voxels of two patches, by pair of patches."""
    rims = []
    for core, halo in _blocks(grown.shape):
        part = grown[halo.slices]
        highest = ndimage.maximum_filter(part, 3, mode="nearest")
        lowest = ndimage.minimum_filter(np.where(part > 0, part, np.iinfo(np.int32).max), 3, mode="nearest")
        rims.append(np.argwhere(((part > 0) & (highest != lowest))[core.within(halo)]) + core.start)
    rim = np.concatenate(rims) + _GAP
    padded = np.pad(grown, _GAP)
    here = padded[tuple(rim.T)]
    found: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for offset in product(range(-_GAP, _GAP + 1), repeat=3):
        if offset <= (0, 0, 0) or np.dot(offset, offset) > _GAP**2:
            continue
        there = padded[tuple((rim + offset).T)]
        meets = (there > 0) & (there != here)
        for third in (1, 2):  # all the way through the mask
            between = rim + np.round(np.array(offset) * third / 3.0).astype(np.int64)
            meets &= padded[tuple(between.T)] > 0
        low, high = np.minimum(here, there)[meets], np.maximum(here, there)[meets]
        points = rim[meets] + np.array(offset) / 2.0 - _GAP
        pairs, inverse = np.unique(np.stack([low, high], axis=1), axis=0, return_inverse=True)
        for k, (a, b) in enumerate(pairs.tolist()):
            found.setdefault((a, b), []).append(points[inverse.ravel() == k])
    return {pair: np.unique(np.concatenate(found[pair]), axis=0) for pair in sorted(found)}


def _compare_sheets(
    contact: NDArray[np.float64],
    pair: tuple[int, int],
    surface: Midsurface,
    sheets: dict[int, NDArray[np.int64]],
    trees: dict[int, cKDTree],
) -> _Meeting:
    """Compare two sheets at the voxels where they meet."""
    first, second = pair
    points = contact[:: max(1, len(contact) // _SAMPLES)]
    a = sheets[first][trees[first].query(points)[1]]
    b = sheets[second][trees[second].query(surface.voxels[a])[1]]
    a = sheets[first][trees[first].query(surface.voxels[b])[1]]
    between = (surface.voxels[b] - surface.voxels[a]).astype(np.float64)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-9)
    offsets = np.abs([(between * surface.normals[end]).sum(axis=1) for end in (a, b)])
    like = np.abs((surface.normals[a] * surface.normals[b]).sum(axis=1))
    goes_on = (like > _GOES_ON_NORMALS) & (offsets.max(axis=0) < _OFFSET)
    beside = (like < _ACROSS_NORMALS) | (offsets.min(axis=0) > _OFFSET)
    past = [_goes_past(points, end, sheets[k], trees[k], surface) for k, end in ((first, a), (second, b))]
    shares = (goes_on.mean(), beside.mean(), (beside & (past[0] | past[1])).mean())
    return _Meeting(len(contact), *(float(share) * len(contact) for share in shares))


def _goes_past(
    points: NDArray[np.float64],
    nearest: NDArray[np.int64],
    sheet: NDArray[np.int64],
    tree: cKDTree,
    surface: Midsurface,
) -> NDArray[np.bool_]:
    """Return whether the sheet lies all around each point, seen along the normal at the sheet's nearest voxel."""
    away = np.linalg.norm(surface.voxels[nearest] - points, axis=1)
    around = tree.query_ball_point(points, 1.2 * away + 1.5 * surface.thickness, return_sorted=True)
    found = np.zeros(len(points), bool)
    for k, (point, normal, members) in enumerate(zip(points, surface.normals[nearest], around, strict=True)):
        arms = surface.voxels[sheet[members]] - point
        arms = arms - (arms @ normal)[:, None] * normal
        lengths = np.linalg.norm(arms, axis=1)
        directions = arms[lengths > 1.0] / lengths[lengths > 1.0, None]
        found[k] = len(directions) > 0 and np.linalg.norm(directions.mean(axis=0)) < _SURROUNDS
    return found


def _without_crumbs(pieces: NDArray[np.int32], min_voxels: int) -> NDArray[np.int32]:
    """Assign small parts, and fragments apart from the largest one of their part, to the parts around them."""
    parts = cc3d.connected_components(pieces, connectivity=26)
    voxels = np.argwhere(pieces)
    part, piece = parts[tuple(voxels.T)].astype(np.int64), pieces[tuple(voxels.T)].astype(np.int64)
    large = np.bincount(part) >= min_voxels
    if not large.any():
        return (pieces > 0).astype(np.int32)
    kept = np.where(large[part], piece, 0)
    if (kept == 0).any():
        return _grow(pieces > 0, voxels, np.unique(np.append(kept, 0), return_inverse=True)[1][:-1])
    return pieces
