"""What rows of tables are made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Row = dict[str, Any]


def known(values: NDArray[np.float64]) -> list[float | None]:
    """(N,) as a list, None for what is not finite."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
