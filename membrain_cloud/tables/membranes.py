"""Frames about membranes, their mutual distances, chains of particles and density profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.tables.curves import share_at_least
from membrain_cloud.tables.grouping import groups, joined, ratio, sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.statistics.membrane.surface_properties import Scale


def concentration(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Compute particles per µm² of membrane, with and without edges.

    Parameters
    ----------
    table : DataFrame
        Rows of `membranes`; those without particles or area are left out.
    names : sequence of str
        Columns to group by.

    Returns
    -------
    DataFrame
        The columns of `Analysis.concentration`.
    """
    table = table[table["n_particles"].notna() & table["one_sided_area_nm2"].notna()]
    columns = ["n_particles", "one_sided_area_nm2", "n_particles_without_edges", "area_without_edges_nm2"]
    totals = sums(table, names, columns)
    out = totals[list(names)].copy()
    out["n_membranes"] = sums(table.assign(n_membranes=1), names, ["n_membranes"])["n_membranes"]
    for count, area, tail in ((columns[0], columns[1], ""), (columns[2], columns[3], "_without_edges")):
        out[f"n_particles{tail}"] = totals[count].astype(int)
        out[f"area{tail}_um2"] = totals[area] / 1e6
        out[f"per_um2{tail}"] = ratio(totals[count], totals[area] / 1e6)
        out[f"per_um2{tail}_error"] = ratio(np.sqrt(totals[count]), totals[area] / 1e6)
    return out


def area_histogram(table: pd.DataFrame, names: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Compute the area, and the share of area, in the bins of a property.

    Parameters
    ----------
    table : DataFrame
        Rows of `membrane_histograms` of one property.
    names : sequence of str
        Columns to group by.
    scale : Scale
        The bins of the property.

    Returns
    -------
    DataFrame
        The columns of `Analysis.histogram`.
    """
    out = sums(membrane_areas(table, names), [*names, "bin", "bin_min", "bin_max"], ["area_um2"])
    whole = out.groupby(list(names), dropna=False, observed=True)["area_um2"].transform("sum") if names else None
    total = out["area_um2"].sum() if whole is None else whole
    out["share"] = out["area_um2"] / total
    out["share_per_unit"] = out["share"] / (out["bin_max"] - out["bin_min"])
    # A property that begins at 0 has no values below its first bin.
    out["holds_beyond"] = (out["bin"] == scale.n_bins - 1) | ((out["bin"] == 0) & (scale.low != 0.0))
    return out.sort_values([*names, "bin"], ignore_index=True).drop(columns="bin")


def membrane_areas(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Add the area that rows of a histogram stand for.

    Parameters
    ----------
    table : DataFrame
        Rows of `membrane_histograms`.
    names : sequence of str
        Columns to group by.

    Returns
    -------
    DataFrame
        The rows with `area_um2`: the leaflet's own area if leaflets are grouped by, else the one-sided area. Rows of an
        older version have no one-sided area: it is half of their area.
    """
    if "leaflet" in names:
        return table.assign(area_um2=table["area_nm2"] / 1e6)
    half = table["area_nm2"] / 2.0
    one_sided = table["one_sided_area_nm2"].fillna(half) if "one_sided_area_nm2" in table else half
    return table.assign(area_um2=one_sided / 1e6)


def pair_summary(table: pd.DataFrame, names: Sequence[str], *, to_itself: bool) -> pd.DataFrame:
    """Sum the numbers of facing membranes, their facing and contact areas, and average their gaps.

    Parameters
    ----------
    table : DataFrame
        Rows of `membrane_pairs`.
    names : sequence of str
        Columns to group by.
    to_itself : bool
        Take membranes that face themselves, instead of those that face others.

    Returns
    -------
    DataFrame
        The columns of `Analysis.membrane_pairs`.
    """
    own = table["other_membrane_id"] == table["membrane_id"]
    table = table[own if to_itself else ~own]
    table = table.assign(
        n_pairs=1,
        n_in_contact=(table["contact_area_nm2"] > 0).astype(int),
        gap_sum=table["median_gap_nm"] * table["facing_area_nm2"],
        facing_with_gap=table["facing_area_nm2"].where(table["median_gap_nm"].notna(), 0.0),
    )
    columns = ["n_pairs", "n_in_contact", "facing_area_nm2", "contact_area_nm2", "gap_sum", "facing_with_gap"]
    totals = sums(table, names, columns)
    out = totals[list(names)].copy()
    for name in ("n_pairs", "n_in_contact"):
        out[name] = totals[name].astype(int)
    out["facing_area_um2"] = totals["facing_area_nm2"] / 1e6
    out["contact_area_um2"] = totals["contact_area_nm2"] / 1e6
    out["mean_gap_nm"] = ratio(totals["gap_sum"], totals["facing_with_gap"])
    least = table.groupby(list(names), dropna=False)["min_distance_nm"].min() if names else None
    out["min_distance_nm"] = table["min_distance_nm"].min() if least is None else least.to_numpy()
    return out


def chain_summary(
    chains: pd.DataFrame, particles: pd.DataFrame, random: pd.DataFrame | None, names: Sequence[str]
) -> pd.DataFrame:
    """Count the particles in chains, and compare with chains of particles with random orientations.

    Parameters
    ----------
    chains : DataFrame
        Rows of `chains`.
    particles : DataFrame
        Rows of `particles`.
    random : DataFrame or None
        Rows of `random_chains`; None if there are none.
    names : sequence of str
        Columns to group by; the last one is `object_name`.

    Returns
    -------
    DataFrame
        The columns of `Analysis.chains`.
    """
    chains_of = dict(groups(chains, names))
    random_of = {} if random is None else dict(groups(random, names))
    parts = []
    for group, rows in groups(particles, names):
        own = chains_of.get(group, chains.iloc[:0])
        members = int(own["n_members"].sum())
        simulated = random_of.get(group)
        random_members = np.zeros(0) if simulated is None else _members_of_experiments(simulated)
        parts.append(
            dict(zip(names, group, strict=True))
            | {
                "n_particles": len(rows),
                "n_chains": len(own),
                "n_in_chains": members,
                "share_in_chains": members / len(rows),
                "mean_members": members / len(own) if len(own) else np.nan,
                "longest": int(own["n_members"].max()) if len(own) else 0,
                "random_share_in_chains": random_members.mean() / len(rows) if len(random_members) else np.nan,
                "n_simulations": len(random_members),
                "p": share_at_least(members, random_members),
            }
        )
    columns = [
        "n_particles", "n_chains", "n_in_chains", "share_in_chains", "mean_members", "longest",
        "random_share_in_chains", "n_simulations", "p",
    ]  # fmt: skip
    return joined([pd.DataFrame(parts)] if parts else [], names, columns)


def _members_of_experiments(simulated: pd.DataFrame) -> NDArray[np.float64]:
    """Sum the particles in chains over membranes, (S,), for the S simulations that all membranes have."""
    by_simulation = simulated.groupby("simulation")["n_members"].agg(["sum", "size"])
    in_all = by_simulation["size"] == by_simulation["size"].max()
    return np.asarray(by_simulation["sum"][in_all], np.float64)


def profile(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Average the density over offsets along the normal.

    Parameters
    ----------
    table : DataFrame
        Rows of `density_profiles`.
    names : sequence of str
        Columns to group by.

    Returns
    -------
    DataFrame
        The columns of `Analysis.density_profile`.
    """
    out = sums(table, [*names, "bin", "offset_min_nm", "offset_max_nm"], ["area_nm2", "density_area_sum"])
    out["density_sigma"] = ratio(out["density_area_sum"], out["area_nm2"])
    out["area_um2"] = out["area_nm2"] / 1e6
    out = out.sort_values([*names, "bin"], ignore_index=True)
    return out[[*names, "offset_min_nm", "offset_max_nm", "area_um2", "density_sigma"]]
