"""Plots draw the values of their frames, checked in the artists on the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from membrain_cloud import tables
from membrain_cloud.report import plots
from membrain_cloud.report.theme import DARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from membrain_cloud.tables import Analysis


@pytest.fixture(scope="module")
def found(measured_config: str) -> Analysis:
    return tables.open(measured_config)


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_curves_and_their_envelopes(found: Analysis, axes: Axes) -> None:
    frame = found.ripley(by="run_name")
    frame = frame[(frame["object_name"] == "psii") & (frame["target_object_name"] == "psii")]
    plots.l_function(axes, frame, DARK)
    assert labels(axes) == ["at random", "TS_1, psii", "TS_2, psii", "95 % at random"]
    drawn = axes.lines[1].get_xydata()
    own = frame[frame["run_name"] == "TS_1"]
    np.testing.assert_allclose(drawn, own[["r_max_nm", "l_minus_r_nm"]])
    band = axes.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose(
        [band.y0, band.y1], [own["l_minus_r_nm_low"].min(), own["l_minus_r_nm_high"].max()], atol=1e-9
    )
    plots.pair_correlation(axes, frame.drop(columns=["g_low", "g_high"]))
    assert axes.get_ylim()[0] == 0


def test_histograms_hold_the_whole_area(found: Analysis, axes: Axes) -> None:
    plots.histogram(axes, found.histogram("mean_curvature_per_nm", by="leaflet"), "mean curvature / nm⁻¹")
    assert labels(axes) == ["larger leaflet", "smaller leaflet"]
    for step in axes.patches[::2]:
        values, edges, _ = step.get_data()
        assert len(edges) == len(values) + 1
        assert values.sum() == pytest.approx(100.0)


def test_the_share_beyond_is_written_into_the_legend(found: Analysis, axes: Axes) -> None:
    frame = found.histogram("distance_to_next_membrane_nm")
    plots.histogram(axes, frame, "distance / nm", beyond=False)
    (label,) = labels(axes)
    values, _, _ = axes.patches[0].get_data()
    beyond = frame["bin_max"] == 100.0
    assert frame["holds_beyond"].tolist() == beyond.tolist()
    assert label == f"{100 * frame['share'][beyond].iloc[0]:.0f} % beyond"
    assert values.sum() == pytest.approx(100 * frame["share"][~beyond].sum())


def test_bins_without_a_row_interrupt_the_line(axes: Axes) -> None:
    frame = pd.DataFrame({"object_name": "p", "bin_min": [0.0, 1, 5], "bin_max": [1.0, 2, 6], "area_um2": 1.0})
    frame = frame.assign(n_particles=[1, 2, 3], per_um2=[1.0, 2, 3], per_um2_error=0.5, relative=1.0)
    plots.against(axes, frame, "distance / nm")
    lines = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() == "-" and not line.get_marker()]
    solid = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() == "-"]
    assert [0.5, 1.5] in solid
    assert [5.5] in solid
    assert [0.5, 1.5, 5.5] not in [*solid, *lines]
    plots.against(axes, frame, "distance / nm", least_area_um2=2.0)


def test_neighbours_angles_and_profiles_have_a_line_a_group(found: Analysis) -> None:
    for draw, frame, expected in (
        (plots.nearest_neighbors, found.nearest_neighbors(), 4),
        (plots.angles, found.in_plane_angles(), 4),
        (plots.density_profile, found.density_profile(by="run_name"), 2),
    ):
        axes = Figure().subplots()
        draw(axes, frame)
        assert len(labels(axes)) == expected
        assert axes.get_xlabel()
    assert found.in_plane_angles()["angle_max_degrees"].max() == 180.0


def test_a_frame_without_rows_leaves_a_remark(axes: Axes) -> None:
    plots.nearest_neighbors(axes, pd.DataFrame(columns=["object_name", "target_object_name", "r_min_nm"]).iloc[:0])
    assert [text.get_text() for text in axes.texts] == ["too few particles"]
