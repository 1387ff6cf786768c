"""Whether imported particles lie in their tomogram: positions in other units are refused with numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.geometry import Grid, Picks

# Normalised coordinates span no more than this many voxels; a tomogram has more along each axis.
_NORMALISED_VOXELS, _SMALLEST_TOMOGRAM = 1.0, 4
_UNITS = "check in which units the file's coordinates are: "


def check_positions(
    picks: Picks, grid: Grid | None, file: str, *, keep_outside: bool, report: Callable[[str], None]
) -> None:
    """Report how many particles lie in a tomogram, and refuse what is clearly in other units.

    Parameters
    ----------
    picks : Picks
        The particles.
    grid : Grid or None
        Of the tomogram; None where the run has none.
    file : str
        Their file, for messages.
    keep_outside : bool
        Whether particles are taken of which most lie outside.
    report : callable
        Called with one sentence.

    Raises
    ------
    InputError
        If two or more particles lie within one voxel of the origin, as coordinates from 0 to 1 do; or if more than half
        lie outside and `keep_outside` is False.
    """
    count = len(picks)
    if grid is None:
        report(f"{_particles(count)} taken; the run has no tomogram to compare their positions with")
        return
    if not count:
        report("0 particles taken")
        return
    spacing, size = grid.voxel_spacing_angstrom, np.array(grid.size_angstrom)
    # Half a voxel around the centres of the outer voxels is inside, and half a voxel more for rounding.
    inside = ((picks.positions >= -spacing) & (picks.positions <= size)).all(axis=1)
    outside = count - int(inside.sum())
    low, high = picks.positions.min(axis=0), picks.positions.max(axis=0)
    spans = "; ".join(f"{axis} {a:.6g} to {b:.6g}" for axis, a, b in zip("xyz", low, high, strict=True))
    shape = " x ".join(f"{length:.6g}" for length in size)
    several = count > 1 and bool((low != high).any())
    if (
        several
        and low.min() >= 0
        and high.max() <= _NORMALISED_VOXELS * spacing
        and min(grid.shape) > _SMALLEST_TOMOGRAM
    ):
        raise InputError(
            f"{file}: all {count} particles lie within one voxel of {spacing:g} Å at the origin ({spans} Å, in a "
            f"tomogram of {shape} Å)",
            f"{_UNITS}they look normalised (0 to 1), or as if counted in larger units; multiply them by the "
            "tomogram's size in voxels",
        )
    if 2 * outside > count and not keep_outside:
        raise InputError(
            f"{file}: {outside} of {_particles(count)} lie outside of the tomogram ({spans} Å, in one of {shape} Å)",
            f"{_UNITS}give voxel_spacing_angstrom for those of another binning, or set keep_outside to take them",
        )
    taken = f"{_particles(count)} taken"
    report(f"{taken}, {outside} of them outside of the tomogram ({spans} Å, of {shape} Å)" if outside else taken)


def _particles(count: int) -> str:
    return "1 particle" if count == 1 else f"{count} particles"
