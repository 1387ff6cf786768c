"""Statistics of the report: curves of each tomogram, and tables and frames of all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from membrain_cloud.report.data import Column, Curves, StatisticsReport, Table
from membrain_cloud.store.tables.open import open_tables
from membrain_cloud.tables import Analysis
from membrain_cloud.tables.curves import Curve, RandomCurves, significance
from membrain_cloud.tables.grouping import groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

# Simulations of more tomograms are not read for a page: they are by far the largest table.
MOST_WITH_ENVELOPES = 200
# Share of the random placements that lies within the envelopes.
LEVEL = 0.95
# Half the width, in bins, over which a peak of the pair correlation is fitted.
PEAK_BINS = 3.0
_PAIR = ["object_name", "target_object_name"]


def measured_runs(project: Project, settings: Settings, plan: Plan) -> Analysis | None:
    """Return the tables of the plan's runs that are measured with its settings.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of the run, which name the tables and the dataset.
    plan : Plan
        The plan; runs that it measures anew are left out.

    Returns
    -------
    Analysis or None
        Rows of these runs and datasets only; None without any.
    """
    stale = {task.run for task in plan.tasks if task.stage == "measure"}
    current = sorted(set(plan.runs) - stale)
    tables = open_tables(project, settings.output.tables)
    if not current or "membranes" not in tables.supported_names():
        return None
    datasets = [project.dataset_of(run) or settings.output.dataset for run in current]
    return Analysis(tables, pd.DataFrame({"run_name": current, "dataset_id": datasets}))


def curves_by_run(
    analysis: Analysis | None, truth_neighbors_nm: Mapping[str, NDArray[np.float64]]
) -> dict[str, Curves]:
    """Return the spatial statistics of particles of one kind in each run, with envelopes of random placements.

    Parameters
    ----------
    analysis : Analysis or None
        The measured runs; None without any.
    truth_neighbors_nm : mapping of str to (N,) float64 array
        Distance of each true particle to its nearest neighbour along the membrane, in nm, by run.

    Returns
    -------
    dict of str to Curves
        The curves by run; without envelopes for more than `MOST_WITH_ENVELOPES` runs.
    """
    if analysis is None:
        return {}
    neighbors = _within_kinds(analysis.frame("neighbors"))
    nearest = _by_run(neighbors[neighbors["rank"] == 1])
    counts = _by_run(_within_kinds(analysis.frame("pair_counts")))
    with_random = len(counts) <= MOST_WITH_ENVELOPES and "random_pair_counts" in analysis.names()
    random = _by_run(_within_kinds(analysis.frame("random_pair_counts"))) if with_random else {}
    curves = {}
    for run in sorted({*nearest, *counts, *truth_neighbors_nm}):
        distances = nearest[run]["geodesic_nm"].to_numpy(float) if run in nearest else np.zeros(0)
        if run in counts:
            curves[run] = _curves(distances, counts[run], random.get(run), truth_neighbors_nm.get(run))
        else:
            curves[run] = Curves(distances, truth_neighbor_distances_nm=truth_neighbors_nm.get(run))
    return curves


def _curves(
    distances_nm: NDArray[np.float64],
    counts: pd.DataFrame,
    random_counts: pd.DataFrame | None,
    truth_distances_nm: NDArray[np.float64] | None,
) -> Curves:
    """Return the curves of one run from its rows of `pair_counts` and `random_pair_counts`."""
    curve = Curve(counts)
    random = RandomCurves(curve, random_counts)
    limits = {name: np.atleast_1d(values) for name, values in random.envelopes(LEVEL).items()}
    is_simulated = len(random.g) > 0
    return Curves(
        distances_nm,
        curve.r,
        curve.g,
        curve.l_minus_r,
        truth_distances_nm,
        random_correlation=np.stack([limits["g_low"], limits["g_high"]]) if is_simulated else None,
        random_l_difference_nm=np.stack([limits["l_minus_r_nm_low"], limits["l_minus_r_nm_high"]])
        if is_simulated
        else None,
        p=significance(curve, random, 0.0, np.inf)["p"] if is_simulated else None,
    )


def statistics(analysis: Analysis) -> StatisticsReport | None:
    """Return the statistics over all runs together.

    Parameters
    ----------
    analysis : Analysis
        The measured runs.

    Returns
    -------
    StatisticsReport or None
        The statistics; None where no particle has been measured.
    """
    if not len(analysis.frame("particles")):
        return None
    n_runs = len(analysis.frame("tomograms"))
    ripley, tests = pd.DataFrame(), pd.DataFrame()
    if n_runs <= MOST_WITH_ENVELOPES:
        ripley, tests = analysis.ripley(level=LEVEL), analysis.significance()
    neighbors = analysis.nearest_neighbors()
    return StatisticsReport(
        kinds=_kinds_table(analysis, neighbors, ripley, tests),
        neighbors=_within_kinds(neighbors),
        ripley=_within_kinds(ripley),
        curvature=_histogram(analysis, "mean_curvature_per_nm", ["leaflet"]),
        thickness=analysis.density_profile(),
        gaps=_histogram(analysis, "distance_to_next_membrane_nm", []),
    )


def _kinds_table(analysis: Analysis, neighbors: pd.DataFrame, ripley: pd.DataFrame, tests: pd.DataFrame) -> Table:
    """Return a table with a row for each pair of kinds of particles."""
    area_um2 = float(analysis.concentration()["area_um2"].iloc[0])
    sizes = analysis.frame("particles").groupby("object_name").size()
    peaks = pd.DataFrame(columns=[*_PAIR, "r_nm", "r_error_nm"])
    if len(ripley):
        peaks = analysis.peaks(half_width_nm=PEAK_BINS * float((ripley["r_max_nm"] - ripley["r_min_nm"]).max()))
    rows = []
    for pair, part in groups(neighbors, _PAIR):
        kind, target = map(str, pair)
        first, count = part.iloc[0], int(sizes[kind])
        test = _of_pair(tests, kind, target)
        pair_peaks = _of_pair(peaks, kind, target)
        spacing = [f"{r:.1f} ± {e:.1f}" for r, e in zip(pair_peaks["r_nm"], pair_peaks["r_error_nm"], strict=True)]
        rows.append(
            (
                kind if kind == target else f"{kind} → {target}",
                count,
                count / area_um2 if area_um2 else None,
                np.sqrt(count) / area_um2 if area_um2 else None,
                float(first["mean_nm"]),
                100.0 * float(first["n_found"]) / count,
                None if not len(test) else float(test["p"].iloc[0]),
                _finding(test),
                ", ".join(spacing[:3]) or None,
            )
        )
    columns = (
        Column("particles"),
        Column("number", digits=0),
        Column("density", "1 / µm²", 0, "particles for each area of one side"),
        Column("±", "1 / µm²", 0, "√n / area: the standard deviation to expect between repeats"),
        Column("nearest neighbour", "nm", 1, "mean of the distances along the membrane, of those that have one"),
        Column("have one", "%", 0, "particles with a neighbour within the cut-off"),
        Column("p", "", 3, "of so large a difference in L from particles at random on the same membranes"),
        Column("lie", help="where p is 0.05 or less: clustered or spaced, and at which distance most"),
        Column("spacing", "nm", help="peaks of the pair correlation that chance does not explain"),
    )
    return Table(columns, tuple(rows))


def _finding(test: pd.DataFrame) -> str | None:
    """Return the result of a test of one pair in words; None where it was not tested."""
    if not len(test) or not test["p"].iloc[0] <= 0.05:
        return "as at random" if len(test) and test["p"].iloc[0] > 0.05 else None
    return f"{test['direction'].iloc[0]} at {test['r_nm'].iloc[0]:.0f} nm"


def _of_pair(frame: pd.DataFrame, kind: str, target: str) -> pd.DataFrame:
    if not len(frame):
        return frame
    return frame[(frame["object_name"] == kind) & (frame["target_object_name"] == target)]


def _within_kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose particles are of the same kind as their targets."""
    return frame[frame["object_name"] == frame["target_object_name"]] if len(frame) else frame


def _histogram(analysis: Analysis, name: str, by: Sequence[str]) -> pd.DataFrame:
    """Return the histogram of a membrane property; an empty frame where it was not measured."""
    measured = set(analysis.frame("membrane_histograms")["property"])
    return analysis.histogram(name, list(by)) if name in measured else pd.DataFrame()


def _by_run(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(run): rows for run, rows in frame.groupby("run_name")}
