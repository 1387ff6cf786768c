"""The class behind `membrain_cloud.tables`: it reads tables, groups their rows and hands out frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from membrain_cloud.errors import UsageError
from membrain_cloud.tables import against, membranes
from membrain_cloud.tables.grouping import (
    PAIR,
    By,
    Group,
    groups,
    joined,
    known_columns,
    names_of,
    ratio,
    sums,
    with_group,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from membrain_cloud.store.tables.parquet_tables import Tables
    from membrain_cloud.tables.curves import Curve, RandomCurves

KEYS = ["dataset", "dataset_id", "run_name", "tomogram_id", "voxel_spacing_angstrom", "segmentation", "digest"]
MEMBRANE = [*KEYS, "membrane_id"]


def open(url: str, where: pd.DataFrame | None = None) -> Analysis:
    """The tables of a project (its config.json or manifest) or below a folder or URL.

    where : rows to keep, by any of the key columns it has; its other columns can be grouped by. None: all.
    """
    from membrain_cloud.store.projects.open import is_config, open_project
    from membrain_cloud.store.tables.open import open_tables
    from membrain_cloud.store.tables.parquet_tables import Tables

    tables = open_tables(open_project(url)) if is_config(url) else Tables(url)
    return Analysis(tables, where)


class Analysis:
    """Derived curves of tables; every method reads what it needs anew. Raises UsageError for a column there is not."""

    def __init__(self, tables: Tables, where: pd.DataFrame | None = None) -> None:
        self._tables, self._where = tables, where

    def names(self) -> list[str]:
        """The tables there are."""
        return list(self._tables.known())

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

    def dataset(self, table: str) -> Any:
        """A table as a `pyarrow.dataset.Dataset`, read where it is scanned; `where` is not applied to it."""
        return self._tables.dataset(table)

    def sql(self, query: str) -> pd.DataFrame:
        """The answer of DuckDB (which has to be installed) to a query that names tables as they are named here.

        Raises UsageError where DuckDB is absent, and DuckDB's own errors for a query it cannot answer.
        """
        try:
            import duckdb
        except ImportError:
            raise UsageError("DuckDB is not installed", "pip install duckdb, or use frame() and dataset()") from None
        with duckdb.connect() as connection:
            for name in self.names():
                if name in query:
                    table = self.dataset(name) if self._where is None else self.frame(name)
                    connection.register(name, table)
            return connection.sql(query).df()

    def concentration(self, by: By = ()) -> pd.DataFrame:
        """Particles and area summed: area_um2 (one-sided), n_particles, per_um2, standard error, and without edges.

        The error is that of a count, √n / area: what a repeat would vary by if particles lay at random.
        """
        names = names_of(by)
        table = known_columns(self.frame("membranes"), names, "membranes")
        table = table[table["n_particles"].notna() & table["one_sided_area_nm2"].notna()]
        columns = ["n_particles", "one_sided_area_nm2", "n_particles_without_edges", "area_without_edges_nm2"]
        found = sums(table, names, columns)
        out = found[names].copy()
        out["n_membranes"] = sums(table.assign(n_membranes=1), names, ["n_membranes"])["n_membranes"]
        for count, area, tail in ((columns[0], columns[1], ""), (columns[2], columns[3], "_without_edges")):
            out[f"n_particles{tail}"] = found[count].astype(int)
            out[f"area{tail}_um2"] = found[area] / 1e6
            out[f"per_um2{tail}"] = ratio(found[count], found[area] / 1e6)
            out[f"per_um2{tail}_error"] = ratio(np.sqrt(found[count]), found[area] / 1e6)
        return out

    def ripley(self, by: By = (), level: float = 0.95) -> pd.DataFrame:
        """Curves over distance for each group and pair of kinds; envelopes hold `level` of what is random, r by r.

        Columns: r_min_nm, r_max_nm, n_pairs, expected_pairs, g (pair correlation, 1 at random), o_per_um2 (particles
        per µm² at that distance), and at r_max_nm: k_nm2, random_k_nm2 (its mean over the surfaces, π r² on an endless
        plane), l_minus_r_nm (√(K/π) less the same of random_k_nm2). Each of g, k_nm2, l_minus_r_nm also with _low and
        _high; NaN without simulations.
        """
        names = names_of(by, *PAIR)
        parts = [
            with_group(curve.frame().assign(**random.envelopes(level)), names, group)
            for group, curve, random in self._curves(names)
        ]
        return joined(parts, names)

    def significance(self, by: By = (), r_min_nm: float = 0.0, r_max_nm: float = np.inf) -> pd.DataFrame:
        """p-values of each group and pair of kinds against complete spatial randomness on the very surfaces.

        p : of the largest |L - mean of the others' L| between r_min_nm and r_max_nm, among observed and simulated
        (Loosmore and Ford, Ecology 87(8), 2006): one for all distances, so r is not chosen after seeing it.
        direction : "clustered" or "spaced", by the sign there, at r_nm.  NaN without simulations.
        """
        from membrain_cloud.tables.curves import significance

        names = names_of(by, *PAIR)
        rows = [
            dict(zip(names, group, strict=True)) | significance(curve, random, r_min_nm, r_max_nm)
            for group, curve, random in self._curves(names)
        ]
        return pd.DataFrame(rows, columns=[*names, "n_simulations", "p", "direction", "r_nm"])

    def peaks(self, by: By = (), half_width_nm: float | None = None, least_significance: float = 3.0) -> pd.DataFrame:
        """Peaks of the pair correlation: preferred spacings, each with the error that the counts leave.

        half_width_nm : of the parabola that is fitted to g about each peak; of peaks nearer to each other the higher
        one stays. None: a bin and a half; more is steadier on few counts, and blunter.  r_nm, r_error_nm : its top.
        g, g_error : there.  significance : of g above 1, in standard errors of chance; peaks below
        `least_significance` are left out.
        """
        from membrain_cloud.statistics.spatial.correlation_peaks import pair_correlation_peaks

        names = names_of(by, *PAIR)
        rows = [
            dict(zip(names, group, strict=True)) | vars(peak)
            for group, curve, _ in self._curves(names)
            for peak in pair_correlation_peaks(
                curve.r_min,
                curve.r,
                curve.counted,
                curve.expected,
                half_width_nm=1.5 * float((curve.r - curve.r_min).max()) if half_width_nm is None else half_width_nm,
                least_significance=least_significance,
            )
        ]
        return pd.DataFrame(rows, columns=[*names, "r_nm", "r_error_nm", "g", "g_error", "significance"])

    def nearest_neighbors(self, by: By = (), rank: int = 1, bin_width_nm: float = 1.0) -> pd.DataFrame:
        """Histogram of the distance to the neighbour of a rank, for each group and pair of kinds.

        r_min_nm, r_max_nm, n, share (of all particles of the group, those without such a neighbour within the cut-off
        included), and for the whole group n_particles, n_found, mean_nm, median_nm (of those found), mean_euclidean_nm.
        """
        names = names_of(by, *PAIR)
        kept = [name for name in names if name != PAIR[1]]
        table = known_columns(self.frame("neighbors"), names, "neighbors")
        sizes = {group: len(rows) for group, rows in groups(self.frame("particles"), kept)}
        parts = []
        for group, rows in groups(table[table["rank"] == rank], names):
            distances = rows["geodesic_nm"].to_numpy(float)
            edges = bin_width_nm * np.arange(int(distances.max() / bin_width_nm) + 2)
            counts, _ = np.histogram(distances, edges)
            total = sizes[tuple(value for name, value in zip(names, group, strict=True) if name in kept)]
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

    def in_plane_angles(self, by: By = (), rank: int = 1, bin_width_degrees: float = 10.0) -> pd.DataFrame:
        """Histogram of the in-plane angle to the neighbour of a rank, for each group and pair of kinds.

        angle_min_degrees, angle_max_degrees, n, share (of the angles that are known), and n_known, mean_degrees. Turned
        at random, angles are even from 0 to 180 / symmetry.
        """
        names = names_of(by, *PAIR)
        table = known_columns(self.frame("neighbors"), names, "neighbors")
        table = table[(table["rank"] == rank) & table["in_plane_angle_degrees"].notna()]
        parts = []
        for group, rows in groups(table, names):
            angles = rows["in_plane_angle_degrees"].to_numpy(float)
            edges = np.arange(0.0, 180.0 + bin_width_degrees, bin_width_degrees)
            counts, _ = np.histogram(angles, edges)
            part = pd.DataFrame({"angle_min_degrees": edges[:-1], "angle_max_degrees": edges[1:], "n": counts})
            part = part.assign(share=counts / len(angles), n_known=len(angles), mean_degrees=angles.mean())
            parts.append(with_group(part, names, group))
        return joined(parts, names)

    def histogram(self, name: str, by: By = ()) -> pd.DataFrame:
        """Area of membrane in bins of a property: bin_min, bin_max, area_um2 (one-sided), share, share_per_unit, and
        holds_beyond for the outer bins, which also take what lies beyond them.

        name : a property of the table membrane_histograms.
        """
        from membrain_cloud.statistics.membrane.surface_properties import scale_of

        names = names_of(by)
        table = self._of_property("membrane_histograms", "property", name, names)
        return membranes.area_histogram(table, names, scale_of(name))

    def density_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Particles per µm² of one-sided area in bins of a property, of each kind.

        name : a property of the table membrane_histograms: distance_to_edge_nm, mean_curvature_per_nm, verticality, ...
        or distance_to_<class>_nm. Columns: object_name, bin_min, bin_max, area_um2, n_particles, per_um2,
        per_um2_error, relative (to the group's mean, 1 at random). Grouped by leaflet, area is that leaflet's;
        otherwise half of both.
        """
        names = names_of(by)
        areas = self._of_property("membrane_histograms", "property", name, names)
        counts = self.frame("particle_histograms")
        return against.density(areas, counts[counts["property"] == name], names)

    def neighbors_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Distance to the nearest neighbour in bins of a property at the particle, for each pair of kinds.

        Columns: bin_min, bin_max, n_particles, n_found (such as have a neighbour within the cut-off), mean_nm,
        mean_error_nm, deviation_nm (of single particles). Properties as in `density_against`.
        """
        names = names_of(by, *PAIR)
        return against.neighbors(self._of_property("binned_neighbors", "property", name, names), names)

    def ripley_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """g, O, K and L, as in `ripley`, of the particles in each bin of a property; without envelopes.

        Columns before those of the curves: property_min, property_max. Properties: those of `measure.against`, and
        distance_to_<class>_nm.
        """
        names = names_of(by, *PAIR)
        return against.pair_curves(self._of_property("binned_pair_counts", "property", name, names), names)

    def membrane_pairs(self, by: By = (), *, to_itself: bool = False) -> pd.DataFrame:
        """How membranes lie to each other: n_pairs (ordered: each of two counts), n_in_contact, facing_area_um2 and
        contact_area_um2 (one surface's), mean_gap_nm (weighted by facing area), min_distance_nm.

        to_itself : of membranes whose outward normals meet themselves, in place of those that meet others.
        """
        names = names_of(by)
        table = known_columns(self.frame("membrane_pairs"), names, "membrane_pairs")
        return membranes.pair_summary(table, names, to_itself=to_itself)

    def chains(self, by: By = ()) -> pd.DataFrame:
        """Chains of particles of each kind, and what chance makes of the same places with orientations at random.

        n_particles, n_chains, n_in_chains, share_in_chains, mean_members, longest, random_share_in_chains,
        n_simulations, p (that chance puts as many particles in chains).
        """
        names = names_of(by, PAIR[0])
        found = known_columns(self.frame("chains"), names, "chains")
        random = self.frame("random_chains") if "random_chains" in self.names() else None
        return membranes.chain_summary(found, self.frame("particles"), random, names)

    def density_profile(self, by: By = ()) -> pd.DataFrame:
        """Mean density across the membrane: offset_min_nm, offset_max_nm from midway between the leaflets (above 0 on
        the larger leaflet's side), area_um2, density_sigma (standard deviations above the tomogram's mean).
        """
        names = names_of(by)
        return membranes.profile(known_columns(self.frame("density_profiles"), names, "density_profiles"), names)

    # ------------------------------------------------------------ inside

    def _of_property(self, table: str, column: str, name: str, names: Sequence[str]) -> pd.DataFrame:
        """The rows of a table of one property."""
        found = known_columns(self.frame(table), names, table)
        if name not in set(found[column]):
            there = ", ".join(sorted(set(found[column]))) or "none"
            raise UsageError(f"no property {name!r} in {table}", f"there are: {there}")
        return found[found[column] == name]

    def _curves(self, names: list[str]) -> Iterator[tuple[Group, Curve, RandomCurves]]:
        from membrain_cloud.tables.curves import Curve, RandomCurves

        observed = known_columns(self.frame("pair_counts"), names, "pair_counts")
        random = self.frame("random_pair_counts") if "random_pair_counts" in self.names() else None
        drawn = {} if random is None else dict(groups(random, names))
        for group, rows in groups(observed, names):
            curve = Curve(rows)
            yield group, curve, RandomCurves(curve, drawn.get(group))
