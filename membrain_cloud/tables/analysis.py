"""Curves and densities derived from the tables of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.errors import UsageError
from membrain_cloud.statistics.membrane.surface_properties import scale_of
from membrain_cloud.statistics.spatial.correlation_peaks import pair_correlation_peaks
from membrain_cloud.tables import against, membranes, neighbors
from membrain_cloud.tables.curves import Curve, RandomCurves, significance, with_simulation_counts
from membrain_cloud.tables.datasets import curves_as_dataset
from membrain_cloud.tables.grouping import PAIR, By, Group, group_columns, groups, joined, require_columns, with_group
from membrain_cloud.tables.organelles import organelle_contacts, organelles_of_membranes, where_with_organelles
from membrain_cloud.tables.reader import TableReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import xarray as xr

    from membrain_cloud.store.projects.project import Project


def open(url: str | Path | Project, where: pd.DataFrame | None = None, *, organelles: bool = False) -> Analysis:
    """Open the tables of a project.

    Parameters
    ----------
    url : str, Path or Project
        A project, its config or manifest, or the folder or URL of its tables.
    where : DataFrame or None
        Rows to keep, by any of the key columns it has; its other columns can be grouped by. None keeps all rows.
    organelles : bool
        Add `organelle`, of the stage organelle, to the columns that membranes are grouped by. Default: False.

    Returns
    -------
    Analysis
        The tables, and the curves that can be derived from them.

    Examples
    --------
    >>> import tempfile
    >>> from membrain_cloud import tables
    >>> from membrain_cloud.store.tables.parquet_tables import Tables
    >>> rows = [
    ...     {"run_name": run, "membrane_id": 1, "n_particles": n, "one_sided_area_nm2": 20000.0}
    ...     for run, n in (("TS_1", 50), ("TS_2", 80))
    ... ]
    >>> folder = tempfile.mkdtemp()
    >>> Tables(folder).write_part("membranes", "my-dataset", "all", rows)
    >>> conditions = pd.DataFrame({"run_name": ["TS_1", "TS_2"], "condition": ["wild type", "mutant"]})
    >>> analysis = tables.open(folder, where=conditions)
    >>> analysis.concentration(by="condition")[["condition", "n_particles", "per_um2"]]
       condition  n_particles  per_um2
    0     mutant           80   4000.0
    1  wild type           50   2500.0
    """
    from membrain_cloud.store.projects.open import is_config, open_project
    from membrain_cloud.store.tables.open import open_tables
    from membrain_cloud.store.tables.parquet_tables import Tables

    url = str(getattr(url, "config", url))
    tables = open_tables(open_project(url)) if is_config(url) else Tables(url)
    return Analysis(tables, where_with_organelles(tables, where) if organelles else where)


class Analysis(TableReader):
    """Curves and densities derived from the tables, each over any grouping.

    Most methods take `by`, the columns to group by: one name, several, or none for all rows together. They are key
    columns, `component_id` where the table has one, or columns that `where` adds. All methods raise UsageError for a
    column that the table does not have.

    Parameters
    ----------
    tables : Tables
        The stored tables.
    where : DataFrame or None
        Rows to keep, see `open`.
    """

    def concentration(self, by: By = ()) -> pd.DataFrame:
        """Compute particles per µm² of membrane.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by.

        Returns
        -------
        DataFrame
            One row a group: `n_membranes`, `n_particles`, `area_um2` (one-sided), `per_um2`, and `per_um2_error`, which
            is √n / area: the spread between repeats if particles lay at random. The last four columns again with
            `_without_edges` in their names.
        """
        names = group_columns(by)
        return membranes.concentration(require_columns(self.frame("membranes"), names, "membranes"), names)

    def nearest_neighbors(self, by: By = (), rank: int = 1, bin_width_nm: float = 1.0) -> pd.DataFrame:
        """Count distances along the membrane to the neighbour of a rank, for each group and pair of kinds.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.
        rank : int
            1 for the nearest neighbour.
        bin_width_nm : float
            Width of a bin, nm.

        Returns
        -------
        DataFrame
            One row a bin: `r_min_nm`, `r_max_nm`, `n`, `share` (of all particles of the group, also those without a
            neighbour within the cut-off). For the whole group: `n_particles`, `n_found` (those with a neighbour), and
            of the latter `mean_nm`, `median_nm` and `mean_euclidean_nm`.
        """
        names = group_columns(by, *PAIR)
        table = require_columns(self.frame("neighbors"), names, "neighbors")
        of_rank = table[table["rank"] == rank]
        return neighbors.distance_histogram(of_rank, self.frame("particles"), names, bin_width_nm=bin_width_nm)

    def in_plane_angles(self, by: By = (), rank: int = 1, bin_width_degrees: float = 10.0) -> pd.DataFrame:
        """Count in-plane angles to the neighbour of a rank, for each group and pair of kinds.

        At random, angles are uniform from 0 to 180° / symmetry.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.
        rank : int
            1 for the nearest neighbour.
        bin_width_degrees : float
            Width of a bin, degrees.

        Returns
        -------
        DataFrame
            One row a bin: `angle_min_degrees`, `angle_max_degrees`, `n`, `share` (of the known angles). For the whole
            group: `n_known`, `mean_degrees`.
        """
        names = group_columns(by, *PAIR)
        table = require_columns(self.frame("neighbors"), names, "neighbors")
        return neighbors.angle_histogram(table[table["rank"] == rank], names, bin_width_degrees=bin_width_degrees)

    def ripley(self, by: By = (), level: float = 0.95) -> pd.DataFrame:
        """Compute the pair correlation and Ripley's functions, for each group and pair of kinds.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.
        level : float
            Share of random patterns inside the envelopes at each distance.

        Returns
        -------
        DataFrame
            One row a bin of distance: `r_min_nm`, `r_max_nm`, `n_pairs`, `expected_pairs`, `g` (pair correlation, 1 at
            random), `o_per_um2` (particles per µm² at that distance). At `r_max_nm`: `k_nm2`, `random_k_nm2` (its mean
            at random on the same surfaces, πr² on an infinite plane), `l_minus_r_nm` (√(K/π) less that at random).
            `g`, `k_nm2` and `l_minus_r_nm` again with `_low` and `_high`: the envelopes, NaN without simulations.
        """
        names = group_columns(by, *PAIR)
        parts = [
            with_group(curve.frame().assign(**random.envelopes(level)), names, group)
            for group, curve, random in self._curves(names)
        ]
        return joined(parts, names)

    def ripley_dataset(self, by: By = (), level: float = 0.95) -> xr.Dataset:
        """Compute the curves of `ripley` as a data set of xarray.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds, such as `["run_name", "membrane_id"]`.
        level : float
            Share of random patterns inside the envelopes at each distance.

        Returns
        -------
        Dataset
            The variables `g`, `k_nm2`, `l_minus_r_nm` with `_low` and `_high`, and the other columns of `ripley`,
            float64. Dimensions: the columns of `by`, `object_name`, `target_object_name`, and `r_nm`, the upper ends of
            the bins. NaN where a combination of groups has no curve.

        Raises
        ------
        UsageError
            If two groups have different bins of distance.
        """
        names = group_columns(by, *PAIR)
        return curves_as_dataset(self.ripley(by, level), names, level)

    def significance(self, by: By = (), r_min_nm: float = 0.0, r_max_nm: float = np.inf) -> pd.DataFrame:
        """Test each group and pair of kinds against complete spatial randomness on the same surfaces.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.
        r_min_nm, r_max_nm : float
            Range of distances that the test covers, nm.

        Returns
        -------
        DataFrame
            One row a group: `n_simulations`; `p` of the largest |L - mean L| over all distances in the range, ties
            broken at random; `p_conservative` with ties counted against the observation; `direction`, "clustered" or
            "spaced", and `r_nm`, where the difference is largest. NaN without simulations.

        References
        ----------
        Loosmore and Ford, Ecology 87(8), 2006.
        """
        names = group_columns(by, *PAIR)
        rows = [
            dict(zip(names, group, strict=True)) | significance(curve, random, r_min_nm, r_max_nm)
            for group, curve, random in self._curves(names)
        ]
        return pd.DataFrame(rows, columns=[*names, "n_simulations", "p", "p_conservative", "direction", "r_nm"])

    def peaks(self, by: By = (), half_width_nm: float | None = None, least_significance: float = 3.0) -> pd.DataFrame:
        """Find peaks of the pair correlation: preferred spacings, each with its error.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.
        half_width_nm : float or None
            Half the width of the parabola that is fitted to g, nm. Of peaks nearer than this, the highest one stays. A
            wider one is steadier with few counts, and less sharp. None takes one and a half bins.
        least_significance : float
            Peaks below this significance are left out.

        Returns
        -------
        DataFrame
            One row a peak: `r_nm`, `r_error_nm`, `g`, `g_error`, and `significance`, the height of g above 1 in
            standard errors of a random pattern.
        """
        names = group_columns(by, *PAIR)
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

    def histogram(self, name: str, by: By = ()) -> pd.DataFrame:
        """Compute the area of membrane in bins of a property.

        Parameters
        ----------
        name : str
            A property of the table `membrane_histograms`, e.g. "mean_curvature_per_nm".
        by : str or sequence of str
            Columns to group by.

        Returns
        -------
        DataFrame
            One row a bin: `bin_min`, `bin_max`, `area_um2` (one-sided), `share`, `share_per_unit`, and `holds_beyond`,
            true for outer bins, which also hold the values beyond them.
        """
        names = group_columns(by)
        table = self._of_property("membrane_histograms", name, names)
        return membranes.area_histogram(table, names, scale_of(name))

    def density_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Compute particles per µm² of one-sided area in bins of a property, for each kind.

        Parameters
        ----------
        name : str
            A property of the table `membrane_histograms`: `distance_to_edge_nm`, `mean_curvature_per_nm`,
            `verticality`, ..., or `distance_to_<class>_nm`.
        by : str or sequence of str
            Columns to group by. With `leaflet`, area is that leaflet's; otherwise half of both.

        Returns
        -------
        DataFrame
            One row a kind and bin: `object_name`, `bin_min`, `bin_max`, `area_um2`, `n_particles`, `per_um2`,
            `per_um2_error`, and `relative`, the density over the group's mean.
        """
        names = group_columns(by)
        areas = self._of_property("membrane_histograms", name, names)
        counts = self.frame("particle_histograms")
        return against.density(areas, counts[counts["property"] == name], names)

    def neighbors_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Compute the distance to the nearest neighbour in bins of a property, for each pair of kinds.

        Parameters
        ----------
        name : str
            A property, as in `density_against`; its value is taken at the particle.
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.

        Returns
        -------
        DataFrame
            One row a bin: `bin_min`, `bin_max`, `n_particles`, `n_found` (those with a neighbour within the cut-off),
            `mean_nm`, `mean_error_nm`, and `deviation_nm`, the standard deviation of single particles.
        """
        names = group_columns(by, *PAIR)
        return against.neighbors(self._of_property("binned_neighbors", name, names), names)

    def ripley_against(self, name: str, by: By = ()) -> pd.DataFrame:
        """Compute g, O, K and L of the particles in each bin of a property.

        Parameters
        ----------
        name : str
            A property of the setting `measure.against`, or `distance_to_<class>_nm`.
        by : str or sequence of str
            Columns to group by, beside the pair of kinds.

        Returns
        -------
        DataFrame
            `property_min`, `property_max`, then the columns of `ripley` without envelopes.
        """
        names = group_columns(by, *PAIR)
        return against.pair_curves(self._of_property("binned_pair_counts", name, names), names)

    def membrane_pairs(self, by: By = (), *, to_itself: bool = False) -> pd.DataFrame:
        """Summarise the distances between membranes.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by.
        to_itself : bool
            Take membranes that face themselves (across a lumen or a fold), instead of those that face others.

        Returns
        -------
        DataFrame
            One row a group: `n_pairs` (ordered: two membranes that face each other count twice), `n_in_contact`,
            `facing_area_um2` and `contact_area_um2` (of one of the two surfaces), `mean_gap_nm` (weighted by facing
            area), `min_distance_nm`.
        """
        names = group_columns(by)
        table = require_columns(self.frame("membrane_pairs"), names, "membrane_pairs")
        return membranes.pair_summary(table, names, to_itself=to_itself)

    def organelle_contacts(self, by: By = ()) -> pd.DataFrame:
        """Summarise the distances between membranes by pairs of organelles.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the pair of organelles.

        Returns
        -------
        DataFrame
            One row a group and pair: `organelle`, `other_organelle` (None where it is unknown), then the columns of
            `membrane_pairs`. Pairs are ordered: areas are those of membranes of `organelle`.

        Raises
        ------
        UsageError
            If membranes have not been assigned to organelles.
        """
        names = group_columns(by)
        table = require_columns(self.frame("membrane_pairs"), names, "membrane_pairs")
        return organelle_contacts(table, organelles_of_membranes(self._tables), names)

    def chains(self, by: By = ()) -> pd.DataFrame:
        """Count the chains of each kind of particle, and compare them with those of random orientations.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by, beside the kind.

        Returns
        -------
        DataFrame
            One row a kind: `n_particles`, `n_chains`, `n_in_chains`, `share_in_chains`, `mean_members`, `longest`. From
            simulations: `random_share_in_chains`, `n_simulations`, and `p`, the probability of at least as many
            particles in chains.
        """
        names = group_columns(by, PAIR[0])
        chains = require_columns(self.frame("chains"), names, "chains")
        random = self.frame("random_chains") if "random_chains" in self.names() else None
        return membranes.chain_summary(chains, self.frame("particles"), random, names)

    def density_profile(self, by: By = ()) -> pd.DataFrame:
        """Average the density across the membrane.

        Parameters
        ----------
        by : str or sequence of str
            Columns to group by.

        Returns
        -------
        DataFrame
            One row a bin: `offset_min_nm` and `offset_max_nm` from midway between the leaflets (positive on the larger
            leaflet's side), `area_um2`, and `density_sigma` in standard deviations above the tomogram's mean.
        """
        names = group_columns(by)
        table = require_columns(self.frame("density_profiles"), names, "density_profiles")
        return membranes.profile(table, names)

    def _of_property(self, table: str, name: str, names: Sequence[str]) -> pd.DataFrame:
        """Return the rows of a table that are of one property; UsageError if there are none."""
        frame = require_columns(self.frame(table), names, table)
        properties = set(frame["property"])
        if name not in properties:
            raise UsageError(
                f"no property {name!r} in {table}", f"there are: {', '.join(sorted(properties)) or 'none'}"
            )
        return frame[frame["property"] == name]

    def _curves(self, names: list[str]) -> Iterator[tuple[Group, Curve, RandomCurves]]:
        """Yield each group with its observed and its random curves."""
        observed = require_columns(self.frame("pair_counts"), names, "pair_counts")
        random = self.frame("random_pair_counts") if "random_pair_counts" in self.names() else None
        random_of = {} if random is None else dict(groups(random, names))
        observed = observed if random is None else with_simulation_counts(observed, random)
        for group, rows in groups(observed, names):
            curve = Curve(rows)
            yield group, curve, RandomCurves(curve, random_of.get(group))
