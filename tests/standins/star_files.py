"""STAR files as other programs write them, and RELION's rotations by its own formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def write_tables(path: Path, *blocks: tuple[str, Mapping[str, Sequence[Any]]]) -> str:
    """Write loops of named columns, and return the path."""
    lines: list[str] = ["# version 30001"]
    for name, columns in blocks:
        lines += ["", f"data_{name}", "", "loop_", *(f"_{column} #{i}" for i, column in enumerate(columns, 1))]
        lines += ["\t".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([*lines, "", ""]))
    return str(path)


def particles(**columns: Sequence[Any]) -> tuple[str, dict[str, Sequence[Any]]]:
    """Return a block of particles of TS_1 at (10, 20, 30) pixels of 10 Å; a column that is None is left out."""
    count = max((len(values) for values in columns.values() if values is not None), default=1)
    given: dict[str, Any] = {
        "rlnTomoName": ["TS_1"] * count,
        "rlnCoordinateX": [10.0] * count,
        "rlnCoordinateY": [20.0] * count,
        "rlnCoordinateZ": [30.0] * count,
        "rlnPixelSize": [10.0] * count,
    } | columns
    return "particles", {name: values for name, values in given.items() if values is not None}


def relion_matrix(rot: float, tilt: float, psi: float) -> NDArray[np.float64]:
    """Return RELION's matrix of three angles in degrees, written out as in its Euler_angles2matrix."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians([rot, tilt, psi])), np.sin(np.radians([rot, tilt, psi]))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )
