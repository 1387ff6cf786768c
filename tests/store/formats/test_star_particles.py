"""Copies of particle files with further columns: all else stays as it is, and starfile reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import starfile

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.formats.star_particles import read_star_particles, write_with_columns

if TYPE_CHECKING:
    from pathlib import Path

# Comments, a block without a loop, quotes, tabs and spaces, digits that a float does not keep, a blank line at the end.
RELION5 = """# version 50001

data_general

_rlnTomoSubTomosAre2DStacks                       1

# version 50001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnTomoTiltSeriesPixelSize #3
1 "the first group" 1.3500
2 other 1.35

# version 50001

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnOpticsGroup #5
_rlnImageName #6
TS_2\t100.12345678901 20 30 1 "a name.mrcs"   # measured twice
TS_1   11 21\t31 2  b.mrcs

TS_2 12 22 32 1 c.mrcs

data_filters

loop_
_rlnAngleRot #1
1.0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "in.star").write_text(RELION5)
    return tmp_path / "in.star"


def test_tomograms_and_their_rows(path: Path) -> None:
    source = read_star_particles(str(path))
    assert len(source) == 3
    assert source.tomograms == ("TS_2", "TS_1", "TS_2")
    assert source.rows_of("TS_2").tolist() == [0, 2]
    assert source.table["rlnTomoTiltSeriesPixelSize"].astype(float).tolist() == [1.35, 1.35, 1.35]


def test_a_copy_keeps_every_line_and_its_order(path: Path, tmp_path: Path) -> None:
    source, target = read_star_particles(str(path)), tmp_path / "out.star"
    columns = {
        "mbc_distance_nm": [1.25, None, 1e-7],
        "mbc_side": ["outside", None, "two words"],
        "mbc_membrane_id": [3, None, 4],
        "mbc_touches_border": [True, False, None],
    }
    write_with_columns(source, str(target), columns, prefix="mbc_")
    before, after = RELION5.splitlines(), target.read_text().splitlines()
    assert [line for line in after if "mbc_" in line] == [
        "_mbc_distance_nm #7", "_mbc_side #8", "_mbc_membrane_id #9", "_mbc_touches_border #10",
    ]  # fmt: skip
    kept = [line for line in after if "mbc_" not in line]
    assert len(kept) == len(before)
    for old, new in zip(before, kept, strict=True):
        assert new.startswith(old.partition("   # measured")[0])
    old, new = (starfile.read(name, always_dict=True) for name in (path, target))
    assert list(new) == list(old)
    assert new["general"] == old["general"]
    particles = new["particles"]
    assert particles[list(old["particles"].columns)].equals(old["particles"])
    np.testing.assert_allclose(particles["mbc_distance_nm"], [1.25, np.nan, 1e-7])
    assert particles["mbc_side"].fillna("?").tolist() == ["outside", "?", "two words"]
    np.testing.assert_allclose(particles["mbc_membrane_id"], [3, np.nan, 4])
    np.testing.assert_allclose(particles["mbc_touches_border"], [1, 0, np.nan])


def test_columns_of_an_earlier_copy_are_replaced(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.star", tmp_path / "two.star"
    write_with_columns(read_star_particles(str(path)), str(one), {"mbc_a": [1, 2, 3], "mbc_b": "xyz"}, prefix="mbc_")
    write_with_columns(read_star_particles(str(one)), str(two), {"mbc_a": [4, 5, 6]}, prefix="mbc_")
    particles = starfile.read(two, always_dict=True)["particles"]
    assert particles["mbc_a"].tolist() == [4, 5, 6]
    assert "mbc_b" not in particles.columns
    assert particles["rlnImageName"].tolist() == ["a name.mrcs", "b.mrcs", "c.mrcs"]


def test_a_file_of_one_block_and_one_without_particles(tmp_path: Path) -> None:
    plain, empty, out = (tmp_path / name for name in ("plain.star", "empty.star", "out.star"))
    head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n"
    plain.write_text(head + "1 2 3\n4 5 6")
    source = read_star_particles(str(plain))
    assert source.tomograms == ("", "")
    write_with_columns(source, str(out), {"mbc_a": [0.5, None]}, prefix="mbc_")
    np.testing.assert_allclose(starfile.read(out)["mbc_a"], [0.5, np.nan])
    empty.write_text(head)
    write_with_columns(read_star_particles(str(empty)), str(out), {"mbc_a": []}, prefix="mbc_")
    assert "_mbc_a #4" in out.read_text()
    plain.write_text("data_other\n\nloop_\n_rlnAngleRot #1\n1.0\n")
    with pytest.raises(ProjectError, match="has no coordinates"):
        read_star_particles(str(plain))


def test_a_particle_over_two_lines_is_refused(path: Path, tmp_path: Path) -> None:
    source = read_star_particles(str(path))
    path.write_text(RELION5.replace("TS_1   11", "TS_1\n 11"))
    with pytest.raises(ProjectError, match="4 lines for 3 particles"):
        write_with_columns(source, str(tmp_path / "out.star"), {"mbc_a": [1, 2, 3]}, prefix="mbc_")
    assert not (tmp_path / "out.star").exists()
