"""STAR files of several programs and many runs in mixed order: each particle gets what lies around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import starfile
from standins.star_project import CENTRES, INNER, MESHES, OUTER, make_project, particles, star_text

from membrain_cloud.api.context import measure_picks
from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.projects.measure_picks import STAR_COLUMNS, check_target, run_of_tomogram
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.store.tables.check import check_tables
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SETTINGS = load_settings(None, [MESHES, "context.bilayer=no"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("stars"))


@pytest.mark.parametrize("flavour", ["relion3.0", "relion3.1", "relion4", "relion5", "warp"])
def test_star_files_of_many_runs(project: Project, tmp_path: Path, flavour: str) -> None:
    runs, positions, axes = particles(60, 4)
    endings = {"warp": ".mrc.tomostar", "relion3.1": "_10.00Apx.mrc"}
    names = [f"{run}{endings.get(flavour, '')}" for run in runs]
    source, target = tmp_path / f"{flavour}.star", tmp_path / "out.star"
    source.write_text(star_text(names, positions, axes, flavour))
    frame = measure_picks(project, source, output=target, settings=SETTINGS, in_process=True)
    assert frame["run_name"].tolist() == runs.tolist()
    np.testing.assert_allclose(frame[["x_angstrom", "y_angstrom", "z_angstrom"]], positions, atol=1e-4)
    radius = np.linalg.norm(positions - np.array([CENTRES[run] for run in runs]), axis=1)
    middle = (OUTER + INNER) / 2
    np.testing.assert_allclose(frame["depth_nm"], (radius - middle) / 10, atol=0.12)
    sides = np.select([radius > OUTER, radius < INNER], ["outside", "inside"], "membrane")
    clear = (np.abs(radius - OUTER) > 1.5) & (np.abs(radius - INNER) > 1.5)
    assert frame["side"][clear].tolist() == sides[clear].tolist()
    angle = np.where(radius > middle, 0.0, 180.0)
    np.testing.assert_allclose(frame["angle_to_normal_degrees"], angle, atol=5.0)
    old, new = (starfile.read(path, always_dict=True) for path in (source, target))
    assert list(new) == list(old)
    before, after = (next(t for t in blocks.values() if len(t) == 60) for blocks in (old, new))
    assert after[list(before.columns)].equals(before)
    assert list(after.columns) == [*before.columns, *(f"mbc_{name}" for name in STAR_COLUMNS)]
    np.testing.assert_allclose(after["mbc_depth_nm"], frame["depth_nm"], rtol=1e-8)
    assert after["mbc_side"].tolist() == frame["side"].tolist()
    assert after["mbc_membrane_id"].tolist() == [3] * 60


def test_a_second_call_does_nothing_anew_and_tables_are_right(project: Project, tmp_path: Path) -> None:
    runs, positions, axes = particles(20, 9)
    source = tmp_path / "again.star"
    source.write_text(star_text(runs, positions, axes, "relion4"))
    one = measure_picks(project, source, settings=SETTINGS, in_process=True)
    steps: list[int] = []
    other = measure_picks(
        project, source, settings=SETTINGS, in_process=True, progress=lambda done, _total: steps.append(done)
    )
    assert steps == []
    assert one.equals(other)
    stored = open_tables(project).read("particle_context").to_pandas()
    assert (stored["picks"] == one["picks"][0]).sum() == 20
    assert check_tables(open_tables(project)) == []


def test_particles_of_no_run_outside_or_without_membrane(project: Project, tmp_path: Path) -> None:
    _, positions, axes = particles(6, 1)
    names = ["TS_01", "grid7", "TS_03", "TS_01", "TS_02", "grid7"]
    positions[[0, 2, 4]] = [[500.0, 500.0, 470.0], [300.0, 300.0, 250.0], [400.0, 600.0, 470.0]]
    positions[3] = [5000.0, 0.0, 0.0]
    source, target = tmp_path / "mixed.star", tmp_path / "out.star"
    source.write_text(star_text(names, positions, axes, "relion4"))
    frame = measure_picks(project, source, output=[target], settings=SETTINGS, in_process=True)
    assert frame["status"].tolist() == ["measured", "no_run", "no_membrane", "outside", "measured", "no_run"]
    assert frame.attrs["without_run"] == {"grid7": 2}
    after = starfile.read(target, always_dict=True)["particles"]
    assert after["mbc_status"].tolist() == frame["status"].tolist()
    assert np.isnan(after["mbc_distance_nm"]).tolist() == [False, True, True, True, False, True]
    given = measure_picks(project, source, settings=SETTINGS, in_process=True, run_of={"grid7": "TS_02"})
    assert "no_run" not in set(given["status"])
    assert given["run_name"].tolist() == ["TS_01", "TS_02", "TS_03", "TS_01", "TS_02", "TS_02"]


def test_a_run_that_fails_leaves_its_particles_unknown(project: Project, tmp_path: Path) -> None:
    runs, positions, axes = particles(30, 2)
    positions[runs == "TS_02"] += 1e5  # all outside: refused
    source = tmp_path / "half.star"
    source.write_text(star_text(runs, positions, axes, "relion4"))
    frame = measure_picks(project, source, settings=SETTINGS, in_process=True)
    assert frame["status"].tolist() == ["failed" if run == "TS_02" else "measured" for run in runs]
    assert frame["distance_nm"].isna().tolist() == (runs == "TS_02").tolist()


def test_copick_picks_of_many_runs(project: Project, tmp_path: Path) -> None:
    project.ensure_object("ribosome", is_particle=True, identifier=None)
    for run, centre in CENTRES.items():
        project.write_picks(
            ObjectRef(run, "ribosome", "bob", "2"), Picks(centre + np.array([[200.0, 0, 0], [0, 100, 0]]))
        )
    star, parquet = tmp_path / "ribosome.star", tmp_path / "ribosome.parquet"
    frame = measure_picks(project, "ribosome:bob/2", output=[star, parquet], settings=SETTINGS, in_process=True)
    assert frame["run_name"].tolist() == ["TS_01", "TS_01", "TS_02", "TS_02"]
    assert frame["side"].tolist() == ["outside", "inside"] * 2
    table = starfile.read(star)
    assert table["rlnTomoName"].tolist() == frame["run_name"].tolist()
    np.testing.assert_allclose(table["rlnCoordinateX"] * table["rlnPixelSize"], frame["x_angstrom"], atol=1e-4)
    assert table["mbc_side"].tolist() == frame["side"].tolist()
    import pandas as pd

    assert pd.read_parquet(parquet)["depth_nm"].tolist() == frame["depth_nm"].tolist()
    only = measure_picks(project, "ribosome:bob/2", settings=SETTINGS, runs=["TS_02"], in_process=True)
    assert set(only["run_name"]) == {"TS_02"}
    with pytest.raises(ProjectError, match="none of 3 runs has picks"):
        measure_picks(project, "ribosome:carol/2", settings=SETTINGS, in_process=True)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("TS_01", "TS_01"),
        ("TS_01.tomostar", "TS_01"),
        ("warp/tomostar/TS_01.mrc.tomostar", "TS_01"),
        ("C:\\data\\TS_01_10.00Apx.mrc", "TS_01"),
        ("TS_01.rec", "TS_01.rec"),
        ("TS_1", None),
        ("TS_011", None),
        ("other", "TS_02"),
    ],
)
def test_names_of_tomograms(name: str, run: str | None) -> None:
    assert run_of_tomogram(name, ["TS_01", "TS_02", "TS_01.rec"], {"other": "TS_02"}) == run


def test_what_cannot_be_measured_is_refused(project: Project, tmp_path: Path) -> None:
    runs, positions, axes = particles(4, 3)
    source = tmp_path / "bad.star"
    source.write_text(star_text(["A", "B", "A", "B"], positions, axes, "relion4"))
    with pytest.raises(InputError, match="none of its 2 tomograms"):
        measure_picks(project, source, settings=SETTINGS)
    source.write_text(star_text(runs, positions, axes, "relion4"))
    with pytest.raises(ProjectError, match="no run 'TS_9'"):
        measure_picks(project, source, settings=SETTINGS, run_of={"TS_01": "TS_9"})
    with pytest.raises(UsageError, match="has no tomogram 'TS_9'"):
        measure_picks(project, source, settings=SETTINGS, run_of={"TS_9": "TS_01"})
    with pytest.raises(UsageError, match="is the file of the particles"):
        measure_picks(project, source, output=source, settings=SETTINGS)
    with pytest.raises(UsageError, match=r"give \.star"):
        check_target("x.txt", str(source))
    source.write_text("data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n")
    with pytest.raises(InputError, match="holds no particles"):
        measure_picks(project, source, settings=SETTINGS)
    source.write_text(source.read_text() + "1 2 3\n")
    with pytest.raises(UsageError, match="names no tomograms, and the project has 3 runs"):
        measure_picks(project, source, settings=SETTINGS)
    one = measure_picks(
        project, source, settings=SETTINGS, runs=["TS_01"], voxel_spacing_angstrom=100.0, in_process=True
    )
    assert one["x_angstrom"].tolist() == [100.0]
