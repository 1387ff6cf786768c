"""Frames about membranes, their mutual distances and chains of particles, made of summed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.tables.curves import share_at_least
from membrain_cloud.tables.grouping import groups, joined, ratio, sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.statistics.membrane.surface_properties import Scale


def area_histogram(table: pd.DataFrame, names: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Rows of membrane_histograms of one property -> area and share of it in each bin."""
    out = sums(table, [*names, "bin", "bin_min", "bin_max"], ["area_nm2"])
    out["area_um2"] = out.pop("area_nm2") / 1e6 / sides(names)
    whole = out.groupby(list(names), dropna=False, observed=True)["area_um2"].transform("sum") if names else None
    total = out["area_um2"].sum() if whole is None else whole
    out["share"] = out["area_um2"] / total
    out["share_per_unit"] = out["share"] / (out["bin_max"] - out["bin_min"])
    # Below 0 there is nothing of what begins there.
    out["holds_beyond"] = (out["bin"] == scale.n_bins - 1) | ((out["bin"] == 0) & (scale.low != 0.0))
    return out.sort_values([*names, "bin"], ignore_index=True).drop(columns="bin")


def sides(names: Sequence[str]) -> float:
    """How many surfaces a membrane's area is summed over: both leaflets, or the one that is grouped by."""
    return 1.0 if "leaflet" in names else 2.0


def pair_summary(table: pd.DataFrame, names: Sequence[str], *, to_itself: bool) -> pd.DataFrame:
    """Rows of membrane_pairs -> numbers of neighbours, areas that face and touch, and gaps weighted by area."""
    own = table["other_membrane_id"] == table["membrane_id"]
    table = table[own if to_itself else ~own]
    table = table.assign(
        n_pairs=1,
        n_in_contact=(table["contact_area_nm2"] > 0).astype(int),
        gap_sum=table["median_gap_nm"] * table["facing_area_nm2"],
        facing_known=table["facing_area_nm2"].where(table["median_gap_nm"].notna(), 0.0),
    )
    columns = ["n_pairs", "n_in_contact", "facing_area_nm2", "contact_area_nm2", "gap_sum", "facing_known"]
    found = sums(table, names, columns)
    out = found[list(names)].copy()
    for name in ("n_pairs", "n_in_contact"):
        out[name] = found[name].astype(int)
    out["facing_area_um2"] = found["facing_area_nm2"] / 1e6
    out["contact_area_um2"] = found["contact_area_nm2"] / 1e6
    out["mean_gap_nm"] = ratio(found["gap_sum"], found["facing_known"])
    least = table.groupby(list(names), dropna=False)["min_distance_nm"].min() if names else None
    out["min_distance_nm"] = table["min_distance_nm"].min() if least is None else least.to_numpy()
    return out


def chain_summary(
    chains: pd.DataFrame, particles: pd.DataFrame, random: pd.DataFrame | None, names: Sequence[str]
) -> pd.DataFrame:
    """Rows of chains, particles and random_chains -> how many particles stand in chains, and how many by chance.

    names : end with object_name.
    """
    found = dict(groups(chains, names))
    drawn = {} if random is None else dict(groups(random, names))
    parts = []
    for group, rows in groups(particles, names):
        own = found.get(group, chains.iloc[:0])
        members = int(own["n_members"].sum())
        simulated = drawn.get(group)
        by_chance = (
            np.zeros(0) if simulated is None else simulated.groupby("simulation")["n_members"].sum().to_numpy(float)
        )
        parts.append(
            dict(zip(names, group, strict=True))
            | {
                "n_particles": len(rows),
                "n_chains": len(own),
                "n_in_chains": members,
                "share_in_chains": members / len(rows),
                "mean_members": members / len(own) if len(own) else np.nan,
                "longest": int(own["n_members"].max()) if len(own) else 0,
                "random_share_in_chains": by_chance.mean() / len(rows) if len(by_chance) else np.nan,
                "n_simulations": len(by_chance),
                "p": share_at_least(members, by_chance),
            }
        )
    columns = [
        "n_particles", "n_chains", "n_in_chains", "share_in_chains", "mean_members", "longest",
        "random_share_in_chains", "n_simulations", "p",
    ]  # fmt: skip
    return joined([pd.DataFrame(parts)] if parts else [], names, columns)


def profile(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Rows of density_profiles -> mean density over offsets along the normal."""
    found = sums(table, [*names, "bin", "offset_min_nm", "offset_max_nm"], ["area_nm2", "density_area_sum"])
    found["density_sigma"] = ratio(found["density_area_sum"], found["area_nm2"])
    found["area_um2"] = found["area_nm2"] / 1e6
    found = found.sort_values([*names, "bin"], ignore_index=True)
    return found[[*names, "offset_min_nm", "offset_max_nm", "area_um2", "density_sigma"]]
