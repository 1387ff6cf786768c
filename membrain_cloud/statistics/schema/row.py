"""What rows of tables are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
NM = 10.0  # Å


def known(values: NDArray[np.float64]) -> list[float | None]:
    """(N,) as a list, None for what is not finite."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
