"""What the report says of a run's statistics: curves of each tomogram, and tables and frames over all of them."""

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

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

# Simulations of more tomograms are not read to draw a page: they are the largest table by far.
MOST_WITH_ENVELOPES = 200
LEVEL = 0.95
# Half the width, in bins, that a peak of the pair correlation is fitted over.
PEAK_BINS = 3.0
_PAIR = ["object_name", "target_object_name"]


def measured_runs(project: Project, settings: Settings, plan: Plan) -> Analysis | None:
    """The tables' rows of a plan's runs, of our datasets, and none of other settings; None where there are none."""
    stale = {task.run for task in plan.tasks if task.stage == "measure"}
    current = sorted(set(plan.runs) - stale)
    tables = open_tables(project, settings.output.tables)
    if not current or "membranes" not in tables.known():
        return None
    datasets = [project.dataset_of(run) or settings.output.dataset for run in current]
    return Analysis(tables, pd.DataFrame({"run_name": current, "dataset_id": datasets}))


def curves_by_run(found: Analysis | None, truth_neighbors_nm: Mapping[str, np.ndarray]) -> dict[str, Curves]:
    """How particles of one kind lie to each other in each run, with envelopes of what is random."""
    if found is None:
        return {}
    neighbors = _own(found.frame("neighbors"))
    nearest = _by_run(neighbors[neighbors["rank"] == 1])
    counts = _by_run(_own(found.frame("pair_counts")))
    with_random = len(counts) <= MOST_WITH_ENVELOPES and "random_pair_counts" in found.names()
    random = _by_run(_own(found.frame("random_pair_counts"))) if with_random else {}
    curves = {}
    for run in sorted({*nearest, *counts, *truth_neighbors_nm}):
        distances = nearest[run]["geodesic_nm"].to_numpy(float) if run in nearest else np.zeros(0)
        if run not in counts:
            curves[run] = Curves(distances, truth_neighbor_distances_nm=truth_neighbors_nm.get(run))
            continue
        curve = Curve(counts[run])
        drawn = RandomCurves(curve, random.get(run))
        limits = {name: np.atleast_1d(values) for name, values in drawn.envelopes(LEVEL).items()}
        known = len(drawn.g) > 0
        curves[run] = Curves(
            distances,
            curve.r,
            curve.g,
            curve.l_minus_r,
            truth_neighbors_nm.get(run),
            random_correlation=np.stack([limits["g_low"], limits["g_high"]]) if known else None,
            random_l_difference_nm=np.stack([limits["l_minus_r_nm_low"], limits["l_minus_r_nm_high"]])
            if known
            else None,
            p=significance(curve, drawn, 0.0, np.inf)["p"] if known else None,
        )
    return curves


def statistics(found: Analysis) -> StatisticsReport | None:
    """Over all runs together; None where no particle has been measured."""
    if not len(found.frame("particles")):
        return None
    n_runs = len(found.frame("tomograms"))
    ripley, tests = pd.DataFrame(), pd.DataFrame()
    if n_runs <= MOST_WITH_ENVELOPES:
        ripley, tests = found.ripley(level=LEVEL), found.significance()
    neighbors = found.nearest_neighbors()
    return StatisticsReport(
        kinds=_kinds(found, neighbors, ripley, tests),
        neighbors=_own(neighbors),
        ripley=_own(ripley),
        curvature=_property(found, "mean_curvature_per_nm", ["leaflet"]),
        thickness=found.density_profile(),
        gaps=_property(found, "distance_to_next_membrane_nm", []),
    )


def _kinds(found: Analysis, neighbors: pd.DataFrame, ripley: pd.DataFrame, tests: pd.DataFrame) -> Table:
    """A row a pair of kinds."""
    area_um2 = float(found.concentration()["area_um2"].iloc[0])
    sizes = found.frame("particles").groupby("object_name").size()
    peaks = pd.DataFrame(columns=[*_PAIR, "r_nm", "r_error_nm"])
    if len(ripley):
        peaks = found.peaks(half_width_nm=PEAK_BINS * float((ripley["r_max_nm"] - ripley["r_min_nm"]).max()))
    rows = []
    for pair, part in groups(neighbors, _PAIR):
        one, other = map(str, pair)
        first, count = part.iloc[0], int(sizes[one])
        test = _of_pair(tests, one, other)
        found_peaks = _of_pair(peaks, one, other)
        spacing = [f"{r:.1f} ± {e:.1f}" for r, e in zip(found_peaks["r_nm"], found_peaks["r_error_nm"], strict=True)]
        rows.append(
            (
                one if one == other else f"{one} → {other}",
                count,
                count / area_um2 if area_um2 else None,
                np.sqrt(count) / area_um2 if area_um2 else None,
                float(first["mean_nm"]),
                100.0 * float(first["n_found"]) / count,
                None if not len(test) else float(test["p"].iloc[0]),
                _verdict(test),
                ", ".join(spacing[:3]) or None,
            )
        )
    columns = (
        Column("particles"),
        Column("number", digits=0),
        Column("density", "1 / µm²", 0, "particles an area of one side"),
        Column("±", "1 / µm²", 0, "√n / area: what a repeat would vary by"),
        Column("nearest neighbour", "nm", 1, "mean of the distances along the membrane, of those that have one"),
        Column("have one", "%", 0, "particles with a neighbour within the cut-off"),
        Column("p", "", 3, "of so large a difference in L from particles at random on the same membranes"),
        Column("lie", help="where p is 0.05 or less: clustered or spaced, and at which distance most"),
        Column("spacing", "nm", help="peaks of the pair correlation that chance does not explain"),
    )
    return Table(columns, tuple(rows))


def _verdict(test: pd.DataFrame) -> str | None:
    if not len(test) or not test["p"].iloc[0] <= 0.05:
        return "as at random" if len(test) and test["p"].iloc[0] > 0.05 else None
    return f"{test['direction'].iloc[0]} at {test['r_nm'].iloc[0]:.0f} nm"


def _of_pair(frame: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    if not len(frame):
        return frame
    return frame[(frame["object_name"] == one) & (frame["target_object_name"] == other)]


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """Within each kind; the table has the others too."""
    return frame[frame["object_name"] == frame["target_object_name"]] if len(frame) else frame


def _property(found: Analysis, name: str, by: Sequence[str]) -> pd.DataFrame:
    known = found.frame("membrane_histograms")
    return found.histogram(name, list(by)) if name in set(known["property"]) else pd.DataFrame()


def _by_run(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(run): rows for run, rows in frame.groupby("run_name")}
