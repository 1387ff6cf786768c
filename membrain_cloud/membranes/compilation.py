"""Inner loops compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled to machine code, kept on disk where that is possible."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for numba's cache can be written: compile in every process
        return numba.njit(nogil=True)(function)
