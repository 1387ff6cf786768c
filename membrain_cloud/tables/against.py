"""Frames of densities, neighbours and pair counts in bins of a property of the surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.tables.curves import Curve
from membrain_cloud.tables.grouping import groups, joined, ratio, sums, with_group
from membrain_cloud.tables.membranes import membrane_areas

if TYPE_CHECKING:
    from collections.abc import Sequence

_BIN = ["bin", "bin_min", "bin_max"]


def density(areas: pd.DataFrame, counts: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Compute particles per µm² in the bins of a property.

    A kind of particle has a row for every bin with area; without particles there its density is 0.

    Parameters
    ----------
    areas : DataFrame
        Rows of `membrane_histograms` of one property.
    counts : DataFrame
        Rows of `particle_histograms` of the same property.
    names : sequence of str
        Columns to group by.

    Returns
    -------
    DataFrame
        The columns of `Analysis.density_against`.
    """
    area = sums(membrane_areas(areas, names), [*names, *_BIN], ["area_um2"])
    kinds = pd.DataFrame({"object_name": sorted(set(counts["object_name"]))})
    counted = sums(counts, [*names, "object_name", "bin"], ["n_particles"])
    out = area.merge(kinds, how="cross").merge(counted, on=[*names, "object_name", "bin"], how="left")
    out["n_particles"] = out["n_particles"].fillna(0).astype(int)
    out["per_um2"] = ratio(out["n_particles"], out["area_um2"])
    out["per_um2_error"] = ratio(np.sqrt(out["n_particles"]), out["area_um2"])
    whole = out.groupby([*names, "object_name"], dropna=False, observed=True)[["n_particles", "area_um2"]]
    total = whole.transform("sum")
    out["relative"] = ratio(out["per_um2"], ratio(total["n_particles"], total["area_um2"]))
    order = [*names, "object_name", "bin_min", "bin_max", "area_um2", "n_particles", "per_um2", "per_um2_error"]
    return out.sort_values([*names, "object_name", "bin"], ignore_index=True)[[*order, "relative"]]


def neighbors(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Compute the mean distance to the nearest neighbour in the bins of a property.

    Parameters
    ----------
    table : DataFrame
        Rows of `binned_neighbors` of one property.
    names : sequence of str
        Columns to group by; the last ones are `object_name`, `target_object_name`.

    Returns
    -------
    DataFrame
        The columns of `Analysis.neighbors_against`.
    """
    columns = ["n_particles", "n_found", "distance_sum_nm", "distance_square_sum_nm2"]
    out = sums(table, [*names, *_BIN], columns).sort_values([*names, "bin"], ignore_index=True)
    out["mean_nm"] = ratio(out["distance_sum_nm"], out["n_found"])
    variance = ratio(out["distance_square_sum_nm2"], out["n_found"]) - out["mean_nm"] ** 2
    out["deviation_nm"] = np.sqrt(variance.clip(lower=0.0))
    out["mean_error_nm"] = out["deviation_nm"] / np.sqrt(out["n_found"].where(out["n_found"] > 0))
    kept = ["bin_min", "bin_max", "n_particles", "n_found", "mean_nm", "mean_error_nm", "deviation_nm"]
    return out[[*names, *kept]]


def pair_curves(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Compute g, O, K, L of the particles in each bin of a property.

    Parameters
    ----------
    table : DataFrame
        Rows of `binned_pair_counts` of one property.
    names : sequence of str
        Columns to group by; the last ones are `object_name`, `target_object_name`.

    Returns
    -------
    DataFrame
        The columns of `Analysis.ripley_against`.
    """
    full = [*names, "property_bin", "property_min", "property_max"]
    parts = [with_group(Curve(rows).frame(), full, group) for group, rows in groups(table, full)]
    return joined(parts, full).drop(columns="property_bin")
