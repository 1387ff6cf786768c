"""Lengths of the options in Å."""

from __future__ import annotations

from dataclasses import replace

import pytest
from standins.shapes import OPTIONS

from membrain_cloud.statistics.model.options import Options


def test_lengths_in_angstrom_are_ten_times_those_in_nm() -> None:
    options = replace(OPTIONS, cutoff_nm=20.0, edge_width_nm=5.0, gap_nm=0.5, contact_nm=3.0)
    assert isinstance(options, Options)
    lengths = (options.cutoff_angstrom, options.edge_width_angstrom, options.gap_angstrom, options.contact_angstrom)
    assert lengths == pytest.approx((200.0, 50.0, 5.0, 30.0))
