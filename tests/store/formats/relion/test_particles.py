"""RELION's rules for positions, orientations and optics groups, against its formulas written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standins.star_files import particles, relion_matrix, write_tables

from membrain_cloud.errors import InputError, ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.store.formats.relion.particles import particle_rows, states_pixel_size
from membrain_cloud.store.formats.star import read_star_picks

if TYPE_CHECKING:
    from pathlib import Path

GRID = Grid((48, 60, 80), 10.0)
CENTRED = {f"rlnCenteredCoordinate{axis}Angst": [value] for axis, value in zip("XYZ", (5.0, -5.0, 0.0), strict=True)}
OPTICS = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnTomoTiltSeriesPixelSize": [2.5]}


def angles(prefix: str, rot: float | None, tilt: float | None, psi: float | None) -> dict[str, list[float]]:
    """Return the columns of one particle's angles; None is left out."""
    values = {"Rot": rot, "Tilt": tilt, "Psi": psi}
    return {f"rln{prefix}{name}": [value] for name, value in values.items() if value is not None}


def shifts(x: float, y: float, z: float, unit: str = "Angst") -> dict[str, list[float]]:
    """Return the columns of one particle's shifts."""
    return {f"rlnOrigin{axis}{unit}": [value] for axis, value in zip("XYZ", (x, y, z), strict=True)}


def read(path: Path, *blocks: Any, **options: Any) -> tuple[Picks, list[str]]:
    notes: list[str] = []
    return read_star_picks(write_tables(path, *blocks), report=notes.append, **options), notes


def test_a_subtomograms_orientation_turns_particle_and_shift(tmp_path: Path) -> None:
    columns = angles("TomoSubtomogram", 30, 70, -50) | angles("Angle", 0, 90, 0) | shifts(0, 0, 40)
    picks, _ = read(
        tmp_path / "x.star", ("optics", OPTICS),
        particles(**columns, rlnOpticsGroup=[1], rlnPixelSize=None, rlnCoordinateX=[96], rlnCoordinateY=[96],
                  rlnCoordinateZ=[96]),
    )  # fmt: skip
    sub = relion_matrix(30, 70, -50)
    np.testing.assert_allclose(picks.positions[0], [264.161, 268.794, 226.319], atol=1e-3)
    np.testing.assert_allclose(picks.positions[0], 240.0 - sub @ [0, 0, 40.0], atol=1e-9)
    assert picks.orientations is not None
    np.testing.assert_allclose(picks.orientations[0], sub @ relion_matrix(0, 90, 0), atol=1e-9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-180, 180), min_size=9, max_size=9), has=st.tuples(st.booleans(), st.booleans()))
def test_any_composition_is_relions(tmp_path: Path, values: list[float], has: tuple[bool, bool]) -> None:
    """Position = coordinate - A_subtomogram shift, orientation = A_subtomogram A_particle, for whatever is there."""
    sub, own, moved = values[:3], values[3:6], values[6:]
    columns = (angles("TomoSubtomogram", *sub) if has[0] else {}) | (angles("Angle", *own) if has[1] else {})
    picks, _ = read(tmp_path / "x.star", particles(**columns, **shifts(*moved)))
    around = relion_matrix(*sub) if has[0] else np.eye(3)
    np.testing.assert_allclose(picks.positions[0], [100, 200, 300] - around @ moved, atol=1e-6)
    if any(has):
        assert picks.orientations is not None
        expected = around @ (relion_matrix(*own) if has[1] else np.eye(3))
        np.testing.assert_allclose(picks.orientations[0], expected, atol=1e-6)
    else:
        assert picks.orientations is None


@pytest.mark.parametrize(
    ("columns", "expected", "note"),
    [
        (shifts(4, 0, -1), (96, 200, 301), ""),
        (shifts(4, 0, -1, ""), (60, 200, 310), "pixels of 10 Å"),
        (shifts(4, 0, -1, "") | shifts(1, 1, 1), (99, 199, 299), ""),
        ({"rlnOriginZAngst": [7]}, (100, 200, 293), ""),
        ({"rlnOriginY": [2]}, (100, 180, 300), "pixels of 10 Å"),
        (shifts(4, 0, 0, "") | {"rlnPixelSize": None, "rlnMagnification": [10000.0], "rlnDetectorPixelSize": [5.0]},
         (30, 100, 150), "pixels of 5 Å"),
        (CENTRED, (405, 295, 240), "not those in pixels"),
        (CENTRED | {"rlnCoordinateX": None, "rlnPixelSize": None} | shifts(5, 5, 5), (400, 290, 235), ""),
        ({"rlnPixelSize": None, "rlnMicrographPixelSize": [4.0], "rlnImagePixelSize": [8.0]}, (40, 80, 120), ""),
        (shifts(2, 0, 0, "") | {"rlnPixelSize": None, "rlnMicrographPixelSize": [4.0], "rlnImagePixelSize": [8.0]},
         (24, 80, 120), "pixels of 8 Å"),
    ],
)  # fmt: skip
def test_positions(tmp_path: Path, columns: dict[str, Any], expected: tuple[float, ...], note: str) -> None:
    picks, notes = read(tmp_path / "x.star", particles(**columns), grid=GRID)
    np.testing.assert_allclose(picks.positions[0], expected, atol=1e-6)
    assert note in "; ".join(notes)


def test_a_given_spacing_is_that_of_the_coordinates(tmp_path: Path) -> None:
    columns = shifts(4, 0, 0, "") | {"rlnPixelSize": None}
    picks, _ = read(tmp_path / "x.star", particles(**columns), voxel_spacing_angstrom=8.0)
    np.testing.assert_allclose(picks.positions[0], [48, 160, 240])


@pytest.mark.parametrize(
    ("columns", "axis", "in_plane", "note"),
    [
        (angles("Angle", None, 60, 20), relion_matrix(0, 60, 20)[:, 2], False, "rlnAngleRot is missing"),
        (angles("Angle", 10, 60, 20), relion_matrix(10, 60, 20)[:, 2], None, ""),
        (angles("TomoSubtomogram", 10, 60, 20), relion_matrix(10, 60, 20)[:, 2], None, ""),
        (angles("TomoSubtomogram", 10, 60, 20) | angles("Angle", None, 30, 40),
         (relion_matrix(10, 60, 20) @ relion_matrix(0, 30, 40))[:, 2], False, "rlnAngleRot"),
        ({"rlnAngleTiltPrior": [60], "rlnAnglePsiPrior": [20]}, relion_matrix(0, 60, 20)[:, 2], False, "prior"),
        (angles("TomoSubtomogram", 10, 60, 20) | {"rlnAngleTiltPrior": [90], "rlnAnglePsiPrior": [0]},
         relion_matrix(10, 60, 20)[:, 2], None, ""),
        (angles("Angle", None, None, 20), None, None, "orientations are left out"),
        ({}, None, None, ""),
    ],
)  # fmt: skip
def test_normals(tmp_path: Path, columns: dict[str, Any], axis: Any, in_plane: bool | None, note: str) -> None:
    picks, notes = read(tmp_path / "x.star", particles(**columns))
    assert note in "; ".join(notes)
    assert (picks.orientations is None) == (axis is None)
    if picks.orientations is not None:
        np.testing.assert_allclose(picks.orientations[0, :, 2], axis, atol=1e-9)
    assert (None if picks.in_plane is None else picks.in_plane.tolist()) == (None if in_plane is None else [in_plane])


def test_incomplete_angles_of_subtomograms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="rlnTomoSubtomogramRot"):
        read(tmp_path / "x.star", particles(**angles("TomoSubtomogram", None, 1, 2)))


@pytest.mark.parametrize(
    "tomogram", ["01", "1", "00255", "255", "1.10", "1.1", "None", "nan", "NaN", "1e3", "TS#1", "", "é"]
)
def test_names_are_text(tmp_path: Path, tomogram: str) -> None:
    names = ["01", "01", "1", "00255", "255", "1.10", "1.1", "None", "nan", "NaN", "1e3", "TS#1", '""', "é"]
    path = tmp_path / "x.star"
    picks, _ = read(path, particles(rlnTomoName=names), tomogram=tomogram)
    assert len(picks) == names.count(tomogram or '""')
    for column in ("rlnMicrographName", "rlnTomoName"):
        other = {"rlnTomoName": None} if column == "rlnMicrographName" else {}
        with pytest.raises(UsageError, match="13 tomograms"):
            read(path, particles(**{**other, column: names}))
    with pytest.raises(ProjectError, match="no tomogram '0255'"):
        read(path, particles(rlnTomoName=names), tomogram="0255")


@pytest.mark.parametrize(
    ("optics", "groups", "expected"),
    [
        ([{"rlnOpticsGroup": [1, 1], "rlnTomoTiltSeriesPixelSize": [2.5, 2.5]}], [1, 1], 25.0),
        ([{"rlnOpticsGroup": ["1.0"], "rlnTomoTiltSeriesPixelSize": [2.5]}], ["1", "01"], 25.0),
        ([{"rlnOpticsGroup": ["a"], "rlnTomoTiltSeriesPixelSize": [2.5]}], ["a", "a"], 25.0),
        ([OPTICS, OPTICS], [1, 1], 25.0),
        ([{"rlnOpticsGroup": [2, 1], "rlnTomoTiltSeriesPixelSize": [5, 2.5]}], [1, 1], 25.0),
        ([OPTICS, {"rlnOpticsGroup": [2], "rlnTomoTiltSeriesPixelSize": [5]}], [2, 2], 50.0),
        ([{"rlnOpticsGroup": [1, 1], "rlnTomoTiltSeriesPixelSize": [2.5, 5]}], [1, 1], "different pixel sizes"),
        ([{"rlnOpticsGroup": [3], "rlnTomoTiltSeriesPixelSize": [2.5]}], [1, 3], "1 of 2 particles is unknown"),
        ([{"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [0]}], [1, 1], "2 of 2 particles is unknown"),
        ([{"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": ["x"]}], [1, 1], "not numbers"),
        ([{"rlnOpticsGroup": [], "rlnTomoTiltSeriesPixelSize": []}], [1, 1], "2 of 2 particles is unknown"),
    ],
)
def test_optics_groups(tmp_path: Path, optics: list[dict[str, Any]], groups: list[Any], expected: Any) -> None:
    blocks = [*(("optics", table) for table in optics), particles(rlnOpticsGroup=groups, rlnPixelSize=None)]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read(tmp_path / "x.star", *blocks)
    else:
        picks, _ = read(tmp_path / "x.star", *blocks)
        assert picks.positions[:, 0].tolist() == [expected] * 2


def test_a_missing_group_needs_no_size_where_one_is_given(tmp_path: Path) -> None:
    blocks = [("optics", OPTICS), particles(rlnOpticsGroup=[7], rlnPixelSize=None)]
    picks, _ = read(tmp_path / "x.star", *blocks, voxel_spacing_angstrom=4.0)
    assert picks.positions.tolist() == [[40, 80, 120]]
    assert states_pixel_size(particle_rows(str(tmp_path / "x.star")))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("rlnMembrane", ["1.0", "nan", "2"], [1, 0, 2]),
        ("rlnMembrane", ["-1", "", "<NA>"], [0, 0, 0]),
        ("rlnMembrane", ["1.5", "1", "1"], "not whole numbers"),
        ("rlnMembrane", ["mb1", "1", "1"], "not numbers"),
        ("rlnMembrane", ["1e30", "1", "1"], "not whole numbers"),
        ("rlnMembrane", ["inf", "1", "1"], "not whole numbers"),
        ("rlnAutopickFigureOfMerit", ["0.5", "nan", "None"], [0.5, 1.0, 1.0]),
        ("rlnAutopickFigureOfMerit", ["high", "1", "1"], "'high'"),
        ("rlnAutopickFigureOfMerit", ["inf", "1", "1"], "not finite"),
        ("rlnInPlaneKnown", ["1", "0", "nan"], [True, False, False]),
        ("rlnCoordinateX", ["1", "nan", "3"], "gaps in 1 of 3 rows, first in row 2"),
        ("rlnCoordinateX", ["1", "x", "3"], "not numbers"),
        ("rlnOriginXAngst", ["1", "inf", "3"], "gaps"),
    ],
)
def test_values_that_are_no_numbers(tmp_path: Path, column: str, values: list[str], expected: Any) -> None:
    block = particles(**{column: ['""' if value == "" else value for value in values]})
    if isinstance(expected, str):
        with pytest.raises(ProjectError, match=expected):
            read(tmp_path / "x.star", block)
        return
    picks, _ = read(tmp_path / "x.star", block)
    attribute = {"rlnMembrane": picks.membrane_ids, "rlnInPlaneKnown": picks.in_plane}.get(column, picks.scores)
    assert attribute is not None
    assert attribute.tolist() == expected


@pytest.mark.parametrize("columns", [{}, {"rlnPixelSize": None}, CENTRED, {"rlnOpticsGroup": []}])
def test_empty_tables_hold_no_particles(tmp_path: Path, columns: dict[str, Any]) -> None:
    _, given = particles(**columns)
    block = ("particles", {name: [] for name in given})
    optics = ("optics", {"rlnOpticsGroup": [], "rlnTomoTiltSeriesPixelSize": []})
    for tomogram in (None, "TS_1"):
        picks, notes = read(tmp_path / "x.star", optics, block, tomogram=tomogram)
        assert len(picks) == 0
        assert "no rows" in notes[0]


def test_two_tables_of_particles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="2 tables of particles"):
        read(tmp_path / "x.star", particles(), particles())
    picks, _ = read(tmp_path / "x.star", ("picks", particles()[1]), particles(rlnCoordinateX=[1.0]))
    assert picks.positions[0, 0] == 10.0


def test_pixels_of_unknown_size_say_their_range(tmp_path: Path) -> None:
    values = {f"rlnCoordinate{axis}": [0.25, 0.5] for axis in "XYZ"}
    with pytest.raises(VoxelSpacingError, match=r"0.25 to 0.5; they look normalised"):
        read(tmp_path / "x.star", particles(**values, rlnPixelSize=None))
