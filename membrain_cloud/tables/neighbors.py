"""Histograms of neighbours: distances and in-plane angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.tables.grouping import PAIR, groups, joined, with_group

if TYPE_CHECKING:
    from collections.abc import Sequence


def distance_histogram(
    table: pd.DataFrame, particles: pd.DataFrame, names: Sequence[str], *, bin_width_nm: float
) -> pd.DataFrame:
    """Count the distances to neighbours of one rank.

    Parameters
    ----------
    table : DataFrame
        Rows of `neighbors` of one rank.
    particles : DataFrame
        Rows of `particles`: those without such a neighbour count in the shares.
    names : sequence of str
        Columns to group by; the last ones are `object_name`, `target_object_name`.
    bin_width_nm : float
        Width of a bin, nm.

    Returns
    -------
    DataFrame
        The columns of `Analysis.nearest_neighbors`.
    """
    own_names = [name for name in names if name != PAIR[1]]
    sizes = {group: len(rows) for group, rows in groups(particles, own_names)}
    parts = []
    for group, rows in groups(table, names):
        distances = rows["geodesic_nm"].to_numpy(float)
        edges = bin_width_nm * np.arange(int(distances.max() / bin_width_nm) + 2)
        counts, _ = np.histogram(distances, edges)
        total = sizes[tuple(value for name, value in zip(names, group, strict=True) if name in own_names)]
        part = pd.DataFrame({"r_min_nm": edges[:-1], "r_max_nm": edges[1:], "n": counts, "share": counts / total})
        part = part.assign(
            n_particles=total,
            n_found=len(rows),
            mean_nm=distances.mean(),
            median_nm=np.median(distances),
            mean_euclidean_nm=rows["euclidean_nm"].mean(),
        )
        parts.append(with_group(part, names, group))
    return joined(parts, names)


def angle_histogram(table: pd.DataFrame, names: Sequence[str], *, bin_width_degrees: float) -> pd.DataFrame:
    """Count the in-plane angles to neighbours of one rank.

    Parameters
    ----------
    table : DataFrame
        Rows of `neighbors` of one rank; those without an angle are left out.
    names : sequence of str
        Columns to group by.
    bin_width_degrees : float
        Width of a bin, degrees.

    Returns
    -------
    DataFrame
        The columns of `Analysis.in_plane_angles`.
    """
    parts = []
    for group, rows in groups(table[table["in_plane_angle_degrees"].notna()], names):
        angles = rows["in_plane_angle_degrees"].to_numpy(float)
        edges = np.arange(0.0, 180.0 + bin_width_degrees, bin_width_degrees)
        counts, _ = np.histogram(angles, edges)
        part = pd.DataFrame({"angle_min_degrees": edges[:-1], "angle_max_degrees": edges[1:], "n": counts})
        part = part.assign(share=counts / len(angles), n_known=len(angles), mean_degrees=angles.mean())
        parts.append(with_group(part, names, group))
    return joined(parts, names)
