"""Rows of `membrane_pairs`: distances and facing areas between one membrane and the others around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.statistics.membrane.gaps import Gaps, min_distance_angstrom
from membrain_cloud.statistics.membrane.weighted import weighted_quantile
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.geometry import Mesh
    from membrain_cloud.statistics.schema.column import Row


def membrane_pair_rows(number: int, gaps: Gaps, meshes: Mapping[int, Mesh], *, contact_angstrom: float) -> list[Row]:
    """Return one row for each membrane that a membrane faces, itself included.

    Unlike the other row functions it needs all membranes of the tomogram, so `measure_tomogram` calls it by itself.

    Parameters
    ----------
    number : int
        Number of the membrane.
    gaps : Gaps
        Gaps of its F faces.
    meshes : mapping of int to Mesh
        All membranes of the tomogram, as they were given to `find_gaps`.
    contact_angstrom : float
        Faces whose gap is at most this wide (Å) are in contact.

    Returns
    -------
    list of Row
        Rows by number of the other membrane; none for membranes beyond reach.
    """
    areas = meshes[number].face_areas_angstrom2()
    rows: list[Row] = []
    for other in sorted({number, *np.unique(gaps.next_id[gaps.next_id >= 0]).tolist()}):
        distances = gaps.to_itself if other == number else np.where(gaps.next_id == other, gaps.to_next, np.inf)
        facing = np.isfinite(distances)
        if not facing.any():
            continue
        median = weighted_quantile(np.where(facing, distances, np.nan), areas, 0.5)
        nearest = None if other == number else min_distance_angstrom(meshes[number], meshes[other])
        rows.append(
            {
                "other_membrane_id": other,
                "min_distance_nm": None if nearest is None else nearest / ANGSTROM_PER_NM,
                "median_gap_nm": None if median is None else median / ANGSTROM_PER_NM,
                "facing_area_nm2": float(areas[facing].sum()) / ANGSTROM_PER_NM**2,
                "contact_area_nm2": float(areas[distances <= contact_angstrom].sum()) / ANGSTROM_PER_NM**2,
            }
        )
    return rows
