"""Which organelle a membrane belongs to, by labels of organelles on or around its surface.

A face belongs to the organelles whose label lies nearest to it along its normal, within reach: so masks that are
filled, that hold the membrane alone, or that end at the lumen are read alike, on any voxel size. The share of one is
the area of its faces over the membrane's. A membrane belongs to the organelle with the largest share if that is large
enough and clearly above the second (`overlap`); else to the organelle that encloses it (`enclosure`): the smallest one
that, with its holes filled, holds nearly all faces. Else the organelle is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid
    from membrain_cloud.statistics.model.prepare import Membrane
    from membrain_cloud.statistics.schema.column import Row

OVERLAP, ENCLOSURE = "overlap", "enclosure"
# Holes are filled on voxels of about this size, which is enough to tell inside from outside, nm.
FILL_NM = 2.0


@dataclass(frozen=True)
class OrganelleRules:
    """When a membrane belongs to an organelle.

    Parameters
    ----------
    reach_nm : float
        Labels farther than this from a face along its normal do not count, nm.
    least_share : float
        Least share of the membrane's area on the organelle's labels, for `overlap`.
    least_margin : float
        Least difference to the second largest share, for `overlap`.
    least_enclosed : float
        Least share of the membrane's area inside the organelle with its holes filled, for `enclosure`.
    """

    reach_nm: float
    least_share: float
    least_margin: float
    least_enclosed: float


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A volume of labels of organelles.

    Parameters
    ----------
    values : (Z, Y, X) array of an unsigned integer dtype
        Labels; 0 and labels without a name are no organelle.
    grid : Grid
        Its voxel grid.
    names : mapping of int to str
        Label -> organelle.
    objects_apart : bool
        Whether each label is an object of its own, such as one of several mitochondria of one name.
    """

    values: NDArray[np.unsignedinteger]
    grid: Grid
    names: Mapping[int, str]
    objects_apart: bool = False

    def at(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the labels at points.

        Parameters
        ----------
        points : (N, 3) float64 array
            xyz in Å.

        Returns
        -------
        (N,) int64 array
            Label of the voxel whose centre is nearest; 0 outside of the volume.
        """
        voxels = np.rint(self.grid.to_voxels(points)).astype(np.int64)
        inside = ((voxels >= 0) & (voxels < self.values.shape)).all(axis=1)
        labels = np.zeros(len(points), np.int64)
        labels[inside] = self.values[tuple(voxels[inside].T)]
        return labels


@dataclass(frozen=True, eq=False)
class _Faces:
    """The F faces of a membrane without border caps: middles (F, 3) Å, unit normals (F, 3), areas (F,) Å²."""

    middles: NDArray[np.float64]
    normals: NDArray[np.float64]
    areas: NDArray[np.float64]

    @classmethod
    def of(cls, membrane: Membrane) -> _Faces:
        mesh = membrane.mesh
        caps = np.asarray(membrane.border_vertices, bool)[mesh.faces].all(axis=1)
        corners = mesh.vertices[mesh.faces[~caps]]
        corners = corners[np.isfinite(corners).all(axis=(1, 2))]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1)
        some = lengths > 0.0
        return cls(corners[some].mean(axis=1), normals[some] / lengths[some, None], lengths[some] / 2.0)


def assign_organelles(
    membranes: Mapping[int, Membrane], volumes: Sequence[LabelVolume], rules: OrganelleRules
) -> tuple[list[Row], list[Row]]:
    """Assign membranes to organelles.

    Parameters
    ----------
    membranes : mapping of int to Membrane
        Number of each membrane -> its mesh and border vertices; particles are not used.
    volumes : sequence of LabelVolume
        The organelles of the tomogram, on any voxel grids. Where volumes contradict each other, both count.
    rules : OrganelleRules
        When a membrane belongs to an organelle.

    Returns
    -------
    membrane_organelles : list of Row
        One row a membrane, by number.
    organelle_shares : list of Row
        One row a membrane and organelle that has a share of it.
    """
    filled = [_Filled(volume) for volume in volumes]
    organelles, shares = [], []
    for number, membrane in sorted(membranes.items()):
        row, of_row = _assign(_Faces.of(membrane), volumes, filled, rules)
        organelles.append({"membrane_id": number} | row)
        shares += [{"membrane_id": number} | share for share in of_row]
    return organelles, shares


def _assign(
    faces: _Faces, volumes: Sequence[LabelVolume], filled: Sequence[_Filled], rules: OrganelleRules
) -> tuple[Row, list[Row]]:
    """Return the row of a membrane, and those of its shares."""
    total = float(faces.areas.sum())
    overlap, objects = _overlap_areas(faces, volumes, rules.reach_nm * ANGSTROM_PER_NM)
    ranked = sorted(overlap.items(), key=lambda item: (-item[1], item[0])) if total else []
    first, second = [*ranked, ("", 0.0), ("", 0.0)][:2]
    share, second_share = (area / total if total else 0.0 for area in (first[1], second[1]))
    organelle, rule = None, None
    if ranked and share >= rules.least_share and share - second_share >= rules.least_margin:
        organelle, rule = first[0], OVERLAP
    enclosed: dict[str, float] = {}
    if organelle is None and total:
        enclosed = {name: area / total for name, area in _enclosed_areas(faces, filled).items()}
        sizes = {name: sum(one.size_of(name) for one in filled) for name in enclosed}
        holding = [name for name, part in enclosed.items() if part >= rules.least_enclosed]
        if holding:
            organelle, rule = min(holding, key=lambda name: (sizes[name], name)), ENCLOSURE
    row: Row = {
        "organelle": organelle,
        "organelle_number": objects.get(organelle) if organelle is not None else None,
        "rule": rule,
        "share": share if total else None,
        "second_organelle": second[0] or None,
        "second_share": second_share if total else None,
        "enclosed_share": enclosed.get(organelle) if organelle is not None and rule == ENCLOSURE else None,
        "is_ambiguous": bool(organelle is None and share >= rules.least_margin),
        "area_nm2": total / ANGSTROM_PER_NM**2,
    }
    shares: list[Row] = [
        {
            "organelle": name,
            "share": overlap.get(name, 0.0) / total,
            "area_nm2": overlap.get(name, 0.0) / ANGSTROM_PER_NM**2,
            "enclosed_share": enclosed.get(name),
        }
        for name in sorted({*overlap, *enclosed})
    ]
    return row, shares


def _overlap_areas(
    faces: _Faces, volumes: Sequence[LabelVolume], reach: float
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the area of each organelle, Å², and of those with objects apart the object with most of it."""
    areas: dict[str, float] = {}
    objects: dict[tuple[str, int], float] = {}
    left = np.arange(len(faces.areas))
    step = min((volume.grid.voxel_spacing_angstrom for volume in volumes), default=1.0) / 2.0
    for offset in np.arange(0.0, reach + 1e-9, step):
        if not len(left):
            break
        labelled = np.zeros(len(left), bool)
        for volume in volumes:
            sides = np.stack([volume.at(faces.middles[left] + s * offset * faces.normals[left]) for s in (1.0, -1.0)])
            values = [value for value in np.unique(sides).tolist() if value in volume.names]
            for name in sorted({volume.names[value] for value in values}):
                here = np.isin(sides, [value for value in values if volume.names[value] == name]).any(axis=0)
                areas[name] = areas.get(name, 0.0) + float(faces.areas[left[here]].sum())
                labelled |= here
            for value in values if volume.objects_apart else ():
                area = float(faces.areas[left[(sides == value).any(axis=0)]].sum())
                objects[volume.names[value], value] = objects.get((volume.names[value], value), 0.0) + area
        left = left[~labelled]
    largest: dict[str, int] = {}
    for (name, value), _ in sorted(objects.items(), key=lambda item: (item[1], -item[0][1])):
        largest[name] = value
    return areas, largest


def _enclosed_areas(faces: _Faces, filled: Sequence[_Filled]) -> dict[str, float]:
    """Return the area inside each organelle with its holes filled, Å²."""
    areas: dict[str, float] = {}
    for volume in filled:
        for name in volume.names:
            inside = volume.holds(name, faces.middles)
            if inside.any():
                areas[name] = areas.get(name, 0.0) + float(faces.areas[inside].sum())
    return areas


class _Filled:
    """The organelles of one volume with their holes filled, computed when they are first needed."""

    def __init__(self, volume: LabelVolume) -> None:
        self._volume = volume
        self._stride = max(1, round(FILL_NM * ANGSTROM_PER_NM / volume.grid.voxel_spacing_angstrom))
        self._masks: dict[str, NDArray[np.bool_]] = {}
        self.names = tuple(sorted(set(volume.names.values())))

    def _mask(self, name: str) -> NDArray[np.bool_]:
        if name not in self._masks:
            values = [value for value, of in self._volume.names.items() if of == name]
            strided = self._volume.values[(slice(None, None, self._stride),) * 3]
            filled = np.zeros(strided.shape, bool)
            for group in [[value] for value in values] if self._volume.objects_apart else [values]:
                filled |= ndimage.binary_fill_holes(np.isin(strided, group))
            self._masks[name] = filled
        return self._masks[name]

    def size_of(self, name: str) -> float:
        """Return the volume of an organelle with its holes filled, Å³."""
        if name not in self.names:
            return 0.0
        return float(self._mask(name).sum()) * (self._stride * self._volume.grid.voxel_spacing_angstrom) ** 3

    def holds(self, name: str, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (N, 3) lie inside an organelle with its holes filled."""
        mask = self._mask(name)
        voxels = np.rint(self._volume.grid.to_voxels(points) / self._stride).astype(np.int64)
        inside = np.asarray(((voxels >= 0) & (voxels < mask.shape)).all(axis=1))
        inside[inside] = mask[tuple(voxels[inside].T)]
        return inside
