"""Particles outside of their tomogram are counted, and refused where their units are others."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.store.formats.pick_units import check_positions

GRID = Grid((20, 30, 40), 10.0)
INSIDE, OUTSIDE = [200.0, 150.0, 100.0], [200.0, 150.0, 1000.0]


def notes_of(positions: list[list[float]], grid: Grid | None = GRID, *, keep_outside: bool = False) -> str:
    notes: list[str] = []
    picks = Picks(np.array(positions, float).reshape(-1, 3))
    check_positions(picks, grid, "p.star", keep_outside=keep_outside, report=notes.append)
    return "; ".join(notes)


@pytest.mark.parametrize(
    ("positions", "note"),
    [
        ([], "0 particles taken"),
        ([INSIDE], "1 particle taken"),
        ([[0, 0, 0]], "1 particle taken"),
        ([[390, 290, 190], [395, 295, 195]], "2 particles taken"),
        ([INSIDE, OUTSIDE], "2 particles taken, 1 of them outside of the tomogram (x 200 to 200; y 150 to 150; z 100"),
    ],
)
def test_how_many_lie_outside_is_said(positions: list[list[float]], note: str) -> None:
    assert notes_of(positions).startswith(note)


def test_other_units_are_refused_with_numbers() -> None:
    with pytest.raises(InputError, match=r"2 of 3 particles lie outside .* in one of 400 x 300 x 200 Å"):
        notes_of([INSIDE, OUTSIDE, OUTSIDE])
    assert "2 of them outside" in notes_of([INSIDE, OUTSIDE, OUTSIDE], keep_outside=True)
    with pytest.raises(InputError, match="within one voxel of 10 Å"):
        notes_of([[2.5, 5, 3], [5, 5, 4], [7.5, 1, 9]])
    assert "no tomogram" in notes_of([OUTSIDE], None)
