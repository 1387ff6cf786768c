"""The analyst's way into the tables: each derived curve in one call, as a pandas frame, pooled over any grouping.

    from membrain_cloud import tables

    found = tables.open("project/config.json")        # or the folder of the tables
    found.frame("membranes")                          # a table as it is
    found.concentration(by="dataset")                 # particles per µm²
    found.ripley(by=["run_name"])                     # g, K, L with envelopes
    found.significance()                              # p-values against randomness
    found.peaks()                                     # spacings, each with its error
    found.nearest_neighbors(by="object_name")         # histogram and mean of distances
    found.density_against("mean_curvature_per_nm")    # particles per µm² in bins of a property

`by` is a column or several: the key columns (dataset, run_name, tomogram_id, membrane_id, ...), component_id where the
table has one, or columns that `where` (a frame with key columns) adds. Sums are taken before ratios, so a large
membrane counts as much as its area. Unknown is NaN in floats, as everywhere in pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.store.tables import Tables

KEYS = ["dataset", "dataset_id", "run_name", "tomogram_id", "voxel_spacing_angstrom", "segmentation", "digest"]
MEMBRANE = [*KEYS, "membrane_id"]
PAIR = ["object_name", "target_object_name"]
By = str | Sequence[str]


def open(url: str, where: pd.DataFrame | None = None) -> Analysis:
    """The tables of a project (its config.json) or below a folder or URL.

    where : rows to keep, by any of the key columns it has; its other columns can be grouped by. None: all.
    """
    from membrain_cloud.pipeline.plan import open_tables
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.opening import is_config, open_project
    from membrain_cloud.store.tables import Tables

    tables = open_tables(open_project(url), Settings()) if is_config(url) else Tables(url)
    return Analysis(tables, where)


class Analysis:
    """Derived curves of tables; every method reads what it needs anew. Raises UsageError for a column there is not."""

    def __init__(self, tables: Tables, where: pd.DataFrame | None = None) -> None:
        self._tables, self._where = tables, where

    def names(self) -> list[str]:
        """The tables there are."""
        return self._tables.names()

    def describe(self, table: str) -> pd.DataFrame:
        """column, type, unit and description of each column."""
        return pd.DataFrame(self._tables.describe(table), columns=["column", "type", "unit", "description"])

    def frame(self, table: str) -> pd.DataFrame:
        """A table as it is stored; units by column in `.attrs["units"]`."""
        found: pd.DataFrame = self._tables.read(table).to_pandas()
        if self._where is not None:
            shared = [name for name in self._where.columns if name in found.columns]
            if not shared:
                raise UsageError("`where` has no column of the tables", f"give one of {', '.join(MEMBRANE)}")
            found = found.merge(self._where.drop_duplicates(), on=shared, how="inner")
        found.attrs["units"] = {row[0]: row[2] for row in self._tables.describe(table)}
        return found

    def concentration(self, by: By = ()) -> pd.DataFrame:
        """Particles and area summed: area_um2 (one-sided), n_particles, per_um2, standard error, and without edges.

        The error is that of a count, √n / area: what a repeat would vary by if particles lay at random.
        """
        names = _names(by)
        table = self._known(self.frame("membranes"), names, "membranes")
        table = table[table["n_particles"].notna() & table["one_sided_area_nm2"].notna()]
        columns = ["n_particles", "one_sided_area_nm2", "n_particles_without_edges", "area_without_edges_nm2"]
        sums = _sum(table, names, columns)
        out = sums[names].copy()
        out["n_membranes"] = _sum(table.assign(n_membranes=1), names, ["n_membranes"])["n_membranes"]
        for count, area, tail in ((columns[0], columns[1], ""), (columns[2], columns[3], "_without_edges")):
            out[f"n_particles{tail}"] = sums[count].astype(int)
            out[f"area{tail}_um2"] = sums[area] / 1e6
            out[f"per_um2{tail}"] = _ratio(sums[count], sums[area] / 1e6)
            out[f"per_um2{tail}_error"] = _ratio(np.sqrt(sums[count]), sums[area] / 1e6)
        return out

    def ripley(self, by: By = (), level: float = 0.95) -> pd.DataFrame:
        """Curves over distance for each group and pair of kinds; envelopes hold `level` of what is random, r by r.

        Columns: r_min_nm, r_max_nm, n_pairs, expected_pairs, g (pair correlation: Ripley's O over the density), and at
        r_max_nm: k_nm2, random_k_nm2 (its mean over the surfaces, π r² on an endless plane), l_minus_r_nm (√(K/π) less
        the same of random_k_nm2). Each of g, k_nm2, l_minus_r_nm also with _low and _high; NaN without simulations.
        """
        names = [*_names(by), *PAIR]
        out = []
        for group, curve, random in self._curves(names):
            part = curve.frame()
            low, high = (1.0 - level) / 2.0, (1.0 + level) / 2.0
            for name, values in (("g", random.g), ("k_nm2", random.k), ("l_minus_r_nm", random.l)):
                known = len(values) > 0
                for tail, share in (("_low", low), ("_high", high)):
                    part[name + tail] = _quantile(values, share) if known else np.nan
            out.append(_with_group(part, names, group))
        return pd.concat(out, ignore_index=True) if out else pd.DataFrame(columns=names)

    def significance(self, by: By = (), r_min_nm: float = 0.0, r_max_nm: float = np.inf) -> pd.DataFrame:
        """p-values of each group and pair of kinds against complete spatial randomness on the very surfaces.

        p : of the largest |L - mean of the others' L| between r_min_nm and r_max_nm, among observed and simulated
        (Loosmore and Ford, Ecology 87(8), 2006): one for all distances, so r is not chosen after seeing it.
        direction : "clustered" or "spaced", by the sign there, at r_nm.  NaN without simulations.
        """
        names = [*_names(by), *PAIR]
        rows = []
        for group, curve, random in self._curves(names):
            row = dict(zip(names, group, strict=True)) | {"n_simulations": len(random.l)}
            chosen = (curve.r > r_min_nm) & (curve.r <= r_max_nm)
            if not len(random.l) or not chosen.any():
                rows.append(row | {"p": np.nan, "direction": None, "r_nm": np.nan})
                continue
            every = np.nan_to_num(np.vstack([curve.l_minus_r, random.l])[:, chosen])
            others = (every.sum(axis=0) - every) / (len(every) - 1)
            apart = every - others
            worst = np.abs(apart).max(axis=1)
            at = int(np.abs(apart[0]).argmax())
            rows.append(
                row
                | {
                    "p": float((worst >= worst[0] * (1.0 - 1e-12)).mean()),
                    "direction": "clustered" if apart[0, at] > 0.0 else "spaced",
                    "r_nm": float(curve.r[chosen][at]),
                }
            )
        return pd.DataFrame(rows, columns=[*names, "n_simulations", "p", "direction", "r_nm"])

    def peaks(self, by: By = (), least_significance: float = 3.0) -> pd.DataFrame:
        """Peaks of the pair correlation: preferred spacings, each with the error that the counts leave.

        r_nm, r_error_nm : top of the parabola through the highest bin and its neighbours.  g, g_error : of that bin.
        significance : (g - 1) / g_error at random (1 / √expected); those below `least_significance` are left out.
        """
        names = [*_names(by), *PAIR]
        out = []
        for group, curve, _ in self._curves(names):
            for row in _peaks(curve, least_significance):
                out.append(dict(zip(names, group, strict=True)) | row)
        return pd.DataFrame(out, columns=[*names, "r_nm", "r_error_nm", "g", "g_error", "significance"])

    def nearest_neighbors(self, by: By = (), rank: int = 1, bin_width_nm: float = 1.0) -> pd.DataFrame:
        """Histogram of the distance to the neighbour of a rank, for each group and pair of kinds.

        r_min_nm, r_max_nm, n, share (of all particles of the group, those without such a neighbour within the cut-off
        included), and for the whole group n_particles, n_found, mean_nm, median_nm (of those found), mean_euclidean_nm.
        """
        names = [*_names(by), *PAIR]
        table = self._known(self.frame("neighbors"), names, "neighbors")
        particles = self.frame("particles").groupby(names[:-1], dropna=False, observed=True).size()
        out = []
        for group, rows in _groups(table[table["rank"] == rank], names):
            distances = rows["geodesic_nm"].to_numpy(float)
            n_bins = int(distances.max() / bin_width_nm) + 1
            edges = bin_width_nm * np.arange(n_bins + 1)
            counts, _ = np.histogram(distances, edges)
            of = group[:-1] if len(names) > 2 else group[0]
            total = int(particles[of])
            part = pd.DataFrame({"r_min_nm": edges[:-1], "r_max_nm": edges[1:], "n": counts, "share": counts / total})
            part = part.assign(
                n_particles=total,
                n_found=len(rows),
                mean_nm=distances.mean(),
                median_nm=np.median(distances),
                mean_euclidean_nm=rows["euclidean_nm"].mean(),
            )
            out.append(_with_group(part, names, group))
        return pd.concat(out, ignore_index=True) if out else pd.DataFrame(columns=names)

    def density_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Particles per µm² of one-sided area in bins of a property, of each kind.

        name : a property of the table membrane_histograms: distance_to_edge_nm, mean_curvature_per_nm, verticality, ...
        Columns: object_name, bin_min, bin_max, area_um2, n_particles, per_um2, per_um2_error, relative (to the group's
        mean, 1 at random). Grouped by leaflet, area is that leaflet's; otherwise half of both.
        """
        names = _names(by)
        areas = self._known(self.frame("membrane_histograms"), names, "membrane_histograms")
        if name not in set(areas["property"]):
            there = sorted(set(areas["property"]))
            raise UsageError(f"no property {name!r} in the tables", f"there are: {', '.join(there) or 'none'}")
        area = _sum(areas[areas["property"] == name], [*names, "bin", "bin_min", "bin_max"], ["area_nm2"])
        counts = self.frame("particle_histograms")
        counts = counts[counts["property"] == name]
        kinds = pd.DataFrame({"object_name": sorted(set(counts["object_name"]))})
        found = _sum(counts, [*names, "object_name", "bin"], ["n_particles"])
        out = area.merge(kinds, how="cross").merge(found, on=[*names, "object_name", "bin"], how="left")
        out["n_particles"] = out["n_particles"].fillna(0).astype(int)
        out["area_um2"] = out.pop("area_nm2") / 1e6 / (1.0 if "leaflet" in names else 2.0)
        out["per_um2"] = _ratio(out["n_particles"], out["area_um2"])
        out["per_um2_error"] = _ratio(np.sqrt(out["n_particles"]), out["area_um2"])
        whole = out.groupby([*names, "object_name"], dropna=False, observed=True)[["n_particles", "area_um2"]]
        sums = whole.transform("sum")
        out["relative"] = _ratio(out["per_um2"], _ratio(sums["n_particles"], sums["area_um2"]))
        order = [*names, "object_name", "bin_min", "bin_max", "area_um2", "n_particles"]
        return out.sort_values([*names, "object_name", "bin"], ignore_index=True)[
            [*order, "per_um2", "per_um2_error", "relative"]
        ]

    # ------------------------------------------------------------ inside

    def _known(self, table: pd.DataFrame, names: list[str], what: str) -> pd.DataFrame:
        for name in names:
            if name not in table.columns:
                raise UsageError(f"{what} has no column {name!r} to group by", f"it has {', '.join(table.columns)}")
        return table

    def _curves(self, names: list[str]) -> Iterator[tuple[tuple[Any, ...], _Curve, _Random]]:
        observed = self._known(self.frame("pair_counts"), names, "pair_counts")
        random = self.frame("random_pair_counts") if "random_pair_counts" in self.names() else None
        drawn = {} if random is None else dict(_groups(random, names))
        for group, rows in _groups(observed, names):
            curve = _Curve(rows)
            yield group, curve, _Random(curve, drawn.get(group))


class _Curve:
    """The sums of pair counts over rows of one pair of kinds, and the curves they give."""

    def __init__(self, rows: pd.DataFrame) -> None:
        from membrain_cloud.membranes.ripley import ripley_from_pair_counts

        try:
            found = ripley_from_pair_counts({name: rows[name].to_numpy() for name in _PAIR_COLUMNS})
        except ValueError as error:
            raise UsageError(str(error), "group by digest, or choose the rows of one run with `where`") from error
        sums = rows.groupby("bin")[["n_pairs", "expected_pairs", "area_sum_nm2"]].sum()
        self.r_min = rows.groupby("bin")["r_min_nm"].first().to_numpy(float)
        self.r, self.g, self.k, self.random_k = found.r_nm, found.pair_correlation, found.k_nm2, found.random_k_nm2
        self.l_minus_r = found.l_minus_r_nm
        self.counted = sums["n_pairs"].to_numpy(float)
        self.expected = sums["expected_pairs"].to_numpy(float)
        self.bins = sums.index.to_numpy()

    @property
    def per_k(self) -> NDArray[np.float64]:
        """K of one expected pair, so that K = Σ counts x this."""
        total = np.cumsum(self.expected)
        return np.divide(self.random_k, total, out=np.zeros_like(total), where=total > 0)

    def frame(self) -> pd.DataFrame:
        columns = {"r_min_nm": self.r_min, "r_max_nm": self.r, "n_pairs": self.counted.astype(int)}
        columns |= {"expected_pairs": self.expected, "g": self.g, "k_nm2": self.k, "random_k_nm2": self.random_k}
        return pd.DataFrame(columns | {"l_minus_r_nm": self.l_minus_r})


_PAIR_COLUMNS = ("bin", "r_max_nm", "n_pairs", "area_sum_nm2", "expected_pairs", "n_start")


class _Random:
    """The same curves of each simulation, (S, B); empty where there are none."""

    def __init__(self, curve: _Curve, rows: pd.DataFrame | None) -> None:
        n_bins = len(curve.bins)
        counts = np.zeros((0, n_bins))
        if rows is not None and len(rows):
            simulation = rows["simulation"].to_numpy(int)
            counts = np.zeros((simulation.max() + 1, n_bins))
            np.add.at(counts, (simulation, rows["bin"].to_numpy(int)), rows["n_pairs"].to_numpy(float))
        expected = np.where(curve.expected > 0, curve.expected, np.nan)
        self.g = counts / expected
        self.k = np.cumsum(counts, axis=1) * curve.per_k
        self.l = np.sqrt(self.k / np.pi) - np.sqrt(curve.random_k / np.pi)


def _peaks(curve: _Curve, least: float) -> Iterator[dict[str, float]]:
    g = curve.g
    for i in range(1, len(g) - 1):
        low, top, high = g[i - 1 : i + 2]
        if not (top > low and top >= high) or curve.expected[i - 1 : i + 2].min() <= 0.0:
            continue
        significance = (top - 1.0) * np.sqrt(curve.expected[i])
        if significance < least:
            continue
        errors = np.sqrt(curve.counted[i - 1 : i + 2]) / curve.expected[i - 1 : i + 2]
        width, bend = curve.r[i] - curve.r_min[i], low - 2.0 * top + high
        # Top of the parabola through three bins, and what their counts' errors make of it.
        shift = 0.5 * (low - high) / bend
        slopes = np.array([0.5 / bend - shift / bend, 2.0 * shift / bend, -0.5 / bend - shift / bend])
        yield {
            "r_nm": float((curve.r[i] + curve.r_min[i]) / 2.0 + shift * width),
            "r_error_nm": float(np.sqrt(((slopes * errors) ** 2).sum()) * width),
            "g": float(top),
            "g_error": float(errors[1]),
            "significance": float(significance),
        }


def _quantile(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Of S simulations, so that a further one lies below with this probability: rank share x (S + 1)."""
    ordered = np.sort(values, axis=0)
    rank = np.clip(share * (len(values) + 1) - 1.0, 0.0, len(values) - 1.0)
    below = int(rank)
    above = min(below + 1, len(values) - 1)
    return np.asarray(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))


def _names(by: By) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _groups(table: pd.DataFrame, names: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    names = list(dict.fromkeys(names))
    if len(table):
        for group, rows in table.groupby(names, dropna=False, observed=True):
            yield (group if isinstance(group, tuple) else (group,)), rows


def _sum(table: pd.DataFrame, names: list[str], columns: list[str]) -> pd.DataFrame:
    if not names:
        return pd.DataFrame([table[columns].sum()])
    return table.groupby(names, dropna=False, observed=True)[columns].sum().reset_index()


def _with_group(part: pd.DataFrame, names: list[str], group: tuple[Any, ...]) -> pd.DataFrame:
    for place, (name, value) in enumerate(zip(names, group, strict=True)):
        part.insert(place, name, value)
    return part


def _ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    return (above / below).where(below > 0)
