"""CSV files of learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.training.curve import CurveFile

if TYPE_CHECKING:
    from pathlib import Path


def test_columns_of_all_rows_are_written(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "f1": 0.123456789}, {"epoch": 1, "loss": 2.0, "f1": None}, {"epoch": 2, "loss": float("nan")}]
    CurveFile(tmp_path / "new" / "log.csv").write(rows)
    assert (tmp_path / "new" / "log.csv").read_bytes() == b"epoch,f1,loss\n0,0.123457,\n1,,2\n2,,nan\n"


def test_columns_formats_and_line_ends_can_be_chosen(tmp_path: Path) -> None:
    curve = CurveFile(tmp_path / "log.csv", ("step", "loss", "rate"), {"loss": ".2f", "rate": ".3g"}, line_end="\r\n")
    curve.write([])
    assert curve.path.read_bytes() == b"step,loss,rate\r\n"
    curve.write([{"step": 10, "loss": 1.0, "rate": 0.00012345}])
    assert curve.path.read_bytes() == b"step,loss,rate\r\n10,1.00,0.000123\r\n"
