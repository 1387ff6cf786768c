"""Spectra as text: what MemBrain-seg wrote, what we write, and what nobody should have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.store.formats.spectra import check_spectrum_output, read_spectrum, write_spectrum

if TYPE_CHECKING:
    from pathlib import Path


def test_columns_come_back_and_membrain_seg_finds_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "a.tsv")
    columns = {
        "intensity": np.array([3.5, 1 / 3, 1e-7]),
        "amplitude": np.array([1.0, 2.0, 3.0]),
        "frequency_per_angstrom": np.array([0.01, 0.02, 0.03]),
    }
    write_spectrum(path, columns)
    found = read_spectrum(path)
    assert found.keys() == columns.keys()
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(pd.read_csv(path, sep="\t")["intensity"].values, columns["intensity"])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.tsv"]
    with pytest.raises(UsageError, match="exists already"):
        check_spectrum_output(path, overwrite=False)
    check_spectrum_output(path, overwrite=True)


def test_membrain_segs_file_has_intensities_only(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    pd.Series([5.0, 4.0, 3.0, 2.0]).to_csv(path, sep="\t", header=["intensity"], index_label="freq")
    found = read_spectrum(str(path))
    assert list(found) == ["intensity"]
    np.testing.assert_array_equal(found["intensity"], [5, 4, 3, 2])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no column"),
        (b"freq,intensity\n0,1\n", "no column"),
        (b"freq\tintensity\n0\tone\n", "no number"),
        (b"freq\tintensity\n0\n", "no number"),
        (b"\xff\xfe\x00", "no tab-separated text"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_spectrum(str(path))
    assert "extract-spectrum" in caught.value.next_step


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.tsv"):
        read_spectrum(str(tmp_path / "absent.tsv"))
