"""Statistics of the report, from real tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from membrain_cloud import tables
from membrain_cloud.pipeline.reporting.statistics import curves_by_run, statistics
from membrain_cloud.report.data import ReportData
from membrain_cloud.report.figures import statistics_figure
from membrain_cloud.report.page import render_page
from membrain_cloud.report.theme import LIGHT

if TYPE_CHECKING:
    from membrain_cloud.tables import Analysis


@pytest.fixture(scope="module")
def analysis(measured_config: str) -> Analysis:
    return tables.open(measured_config)


def test_curves_of_each_run_agree_with_the_tables(analysis: Analysis) -> None:
    curves = curves_by_run(analysis, {"TS_9": np.ones(3)})
    assert set(curves) == {"TS_1", "TS_2", "TS_9"}
    assert curves["TS_9"].radii_nm.size == 0
    ripley = analysis.ripley(by="run_name")
    ripley = ripley[ripley["object_name"] == ripley["target_object_name"]]
    for run in ("TS_1", "TS_2"):
        own = ripley[ripley["run_name"] == run].groupby("r_max_nm")[["n_pairs", "expected_pairs"]].sum()
        np.testing.assert_allclose(curves[run].pair_correlation, own["n_pairs"] / own["expected_pairs"])
        low, high = curves[run].random_l_difference_nm
        assert (low < high).all()
    assert curves["TS_2"].p == pytest.approx(1 / 40)
    assert curves["TS_1"].p >= 1 / 40


def test_statistics_over_all_runs(analysis: Analysis) -> None:
    report = statistics(analysis)
    assert report is not None
    rows = {row[0]: row for row in report.kinds.rows}
    assert set(rows) == {"psii", "cytb6f", "psii → cytb6f", "cytb6f → psii"}
    assert rows["psii"][1] == 200
    area = analysis.concentration()["area_um2"].iloc[0]
    assert rows["psii"][2] == pytest.approx(200 / area)
    assert rows["psii"][7].startswith("clustered at")
    assert set(report.ripley["object_name"]) == {"psii", "cytb6f"}
    html = render_page(ReportData("title", statistics=report))
    assert "clustered at" in html
    assert statistics_figure(report, LIGHT)[:4] == b"\x89PNG"


def test_runs_without_particles_have_no_statistics(measured_config: str, tmp_path: object) -> None:
    assert statistics(tables.open(str(tmp_path))) is None
    empty = tables.open(measured_config, where=pd.DataFrame({"run_name": ["TS_7"]}))
    assert statistics(empty) is None
    assert curves_by_run(empty, {}) == {}
