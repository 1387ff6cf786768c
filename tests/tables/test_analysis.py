"""Curves and densities from sums over any grouping, read from Parquet parts of two small runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from standins.shapes import Shapes

from membrain_cloud import tables
from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.pipeline.settings import MeasureSettings
from membrain_cloud.statistics.measure import STATISTICS, Membrane, measure_membrane
from membrain_cloud.statistics.spatial.random_placement import random_points
from membrain_cloud.store.tables.parquet_tables import Tables

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.geometry import Mesh

GRID = Grid((80, 80, 80), 10.0)
CENTRE = 400.0


def sphere(count: int, radius: float) -> Mesh:
    """Return a sphere in the middle of `GRID`."""
    return Shapes().sphere(count, radius, (CENTRE, CENTRE, CENTRE))


def at_random(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    """Return points evenly by area, (count, 3)."""
    surface = Surface(mesh)
    return random_points(surface, np.arange(len(mesh.faces)), count, np.random.default_rng(seed)).positions


def in_clusters(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    """Return clusters of five particles within some 30 Å, (count, 3)."""
    places = np.repeat(at_random(mesh, count // 5, seed), 5, axis=0)
    return places + np.random.default_rng(seed).normal(0, 15.0, places.shape)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return tables of two runs of two spheres each, with particles at random in one and in clusters in the other."""
    folder = str(tmp_path_factory.mktemp("tables"))
    store = Tables(folder)
    for run, placed in (("random", at_random), ("clustered", in_clusters)):
        rows: dict[str, list[dict[str, Any]]] = {table: [] for table in STATISTICS}
        keys = {
            "dataset_id": "d",
            "run_name": run,
            "tomogram_id": "wbp",
            "voxel_spacing_angstrom": 10.0,
            "segmentation": "membrane",
            "digest": "x",
        }
        for number, radius in ((1, 200.0), (2, 300.0)):
            mesh = sphere(500, radius)
            measured = measure_membrane(
                Membrane(mesh, Picks(placed(mesh, 60, number)), np.zeros(500, bool), "protein"),
                grid=GRID,
                options=MeasureSettings(cutoff_nm=20.0, n_neighbors=2, simulations=39).options(),
            )
            for table, some in measured.items():
                rows[table] += [keys | {"membrane_id": number} | row for row in some]
        for table, some in rows.items():
            store.write_part(table, "d", f"{run}/wbp", some)
    return folder


def test_a_frame_knows_its_units(url: str) -> None:
    frame = tables.open(url).frame("membranes")
    assert len(frame) == 4
    assert frame.attrs["units"]["one_sided_area_nm2"] == "nm²"


def test_concentration_pools_sums(url: str) -> None:
    found = tables.open(url)
    frame = found.frame("membranes")
    whole = found.concentration().iloc[0]
    area = frame["one_sided_area_nm2"].sum() / 1e6
    assert whole["n_particles"] == 240
    assert whole["per_um2"] == pytest.approx(240 / area)
    assert whole["per_um2_error"] == pytest.approx(np.sqrt(240) / area)
    each = found.concentration(by=["run_name", "membrane_id"])
    assert len(each) == 4
    assert each["area_um2"].sum() == pytest.approx(area)


def test_ripley_of_groups_and_of_all(url: str) -> None:
    curves = tables.open(url).ripley(by="run_name")
    assert set(curves["run_name"]) == {"random", "clustered"}
    random, clustered = (curves[curves["run_name"] == run] for run in ("random", "clustered"))
    assert len(random) == 20
    inside = (random["k_nm2"] >= random["k_nm2_low"]) & (random["k_nm2"] <= random["k_nm2_high"])
    assert inside.mean() > 0.8
    assert (clustered["l_minus_r_nm"] > clustered["l_minus_r_nm_high"]).mean() > 0.8
    # K at random on spheres, weighted as the pairs are: between the two spheres' own
    caps = [2 * np.pi * r**2 * (1 - np.cos(random["r_max_nm"] / r)) for r in (20.0, 30.0)]
    assert (random["random_k_nm2"] > caps[0] * 0.98).all()
    assert (random["random_k_nm2"] < caps[1] * 1.02).all()
    pooled = tables.open(url).ripley()
    both = random["n_pairs"].to_numpy() + clustered["n_pairs"].to_numpy()
    np.testing.assert_array_equal(pooled["n_pairs"], both)


def test_significance_tells_clusters_from_chance(url: str) -> None:
    found = tables.open(url).significance(by="run_name").set_index("run_name")
    assert found.loc["clustered", "p"] == pytest.approx(1 / 40)
    assert found.loc["clustered", "direction"] == "clustered"
    assert found.loc["random", "p"] > 0.05
    assert (found["n_simulations"] == 39).all()


def test_nearest_neighbours(url: str) -> None:
    found = tables.open(url)
    neighbors = found.frame("neighbors")
    first = neighbors[(neighbors["rank"] == 1) & (neighbors["run_name"] == "random")]["geodesic_nm"]
    histogram = found.nearest_neighbors(by="run_name")
    random = histogram[histogram["run_name"] == "random"]
    assert random["n"].sum() == len(first)
    assert random["mean_nm"].iloc[0] == pytest.approx(first.mean())
    assert random["n_particles"].iloc[0] == 120
    assert random["share"].sum() == pytest.approx(len(first) / 120)


def test_density_against_a_property(url: str) -> None:
    found = tables.open(url).density_against("mean_curvature_per_nm")
    assert found["n_particles"].sum() == 240
    top = found.loc[found["area_um2"].nlargest(2).index]
    # the bins of 1/30 and 1/20 per nm, with 120 particles each
    assert (top["n_particles"] > 80).all()
    total = tables.open(url).concentration()["area_um2"].iloc[0]
    assert found["area_um2"].sum() == pytest.approx(total)


def test_peaks_of_a_lattice_are_at_its_spacings(tmp_path: Path) -> None:
    a, n = 8.0, 40
    r = np.arange(40) + 0.5
    expected = 2 * np.pi * r * 1.0 * 0.02 * 500
    shells = sum(np.exp(-0.5 * ((r - at) / 0.6) ** 2) for at in (a, a * np.sqrt(3), 2 * a))
    rows = [
        {
            "run_name": "lattice",
            "component_id": 0,
            "object_name": "p",
            "target_object_name": "p",
            "bin": i,
            "r_min_nm": float(i),
            "r_max_nm": i + 1.0,
            "n_pairs": round(expected[i] * (1 + 2 * shells[i])),
            "area_sum_nm2": expected[i] / 0.02,
            "expected_pairs": expected[i],
            "n_start": 500,
            "n_target": 500,
            "area_nm2": 25000.0,
        }
        for i in range(n)
    ]
    Tables(str(tmp_path)).write_part("pair_counts", "d", "p", rows)
    found = tables.open(str(tmp_path)).peaks()
    assert found["r_nm"].tolist() == pytest.approx([a, a * np.sqrt(3), 2 * a], abs=0.4)
    assert (found["r_error_nm"] < 0.5).all()
    curves = tables.open(str(tmp_path)).ripley()
    assert curves["k_nm2_low"].isna().all()


def test_where_filters_and_groups(url: str) -> None:
    chosen = pd.DataFrame({"run_name": ["random", "clustered"], "condition": ["wild", "mutant"]})
    found = tables.open(url, where=chosen).concentration(by="condition")
    assert found["condition"].tolist() == ["mutant", "wild"]
    assert found["n_particles"].tolist() == [120, 120]
    one = tables.open(url, where=chosen.iloc[:1])
    assert len(one.frame("membranes")) == 2


def test_unknown_columns_and_properties_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'colour'"):
        tables.open(url).ripley(by="colour")
    with pytest.raises(UsageError, match="no property 'colour'"):
        tables.open(url).density_against("colour")
    with pytest.raises(UsageError, match="no column of the tables"):
        tables.open(url, where=pd.DataFrame({"colour": [1]})).frame("membranes")
    empty = tables.open(str(tmp_path))
    assert empty.names() == []
    assert len(empty.ripley()) == len(empty.peaks()) == len(empty.significance()) == 0
