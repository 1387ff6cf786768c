"""Inner loops compiled by numba.

What is compiled is kept on disk and looked up by the file it stands in: after editing a kernel that another file's
kernels call, remove `membranes/__pycache__/*.nb?`, or those go on with the old one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled to machine code, kept on disk where that is possible."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for numba's cache can be written: compile in every process
        return numba.njit(nogil=True)(function)


def compiled_fused(function: Callable[..., Any]) -> Any:
    """The same for sums of products, which may be added in any order and without rounding each product.

    Made part of the functions that call them, as `inlined`.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}, "forceinline": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def compiled_bare(function: Callable[..., Any]) -> Any:
    """The same for functions that make no arrays: without reference counting and checks of division."""
    return _bare(function, forceinline=False)


def inlined(function: Callable[..., Any]) -> Any:
    """The same, made part of every function that calls it: handing over two dozen arrays costs more than most do."""
    return _bare(function, forceinline=True)


def _bare(function: Callable[..., Any], **options: bool) -> Any:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy", _nrt=False, **options)(function)
