"""Decorators that compile inner loops with numba.

Compiled code is cached on disk under the file that contains it. After a change of a kernel that kernels of another file
call, remove the `*.nb?` files in the `__pycache__` of those, or they keep the old one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function to machine code, cached on disk where a folder for it can be written.

    Parameters
    ----------
    function : callable
        A function that numba can compile.

    Returns
    -------
    callable
        The compiled function.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for numba's cache can be written: compile in every process
        return numba.njit(nogil=True)(function)


def compiled_fused(function: Callable[..., Any]) -> Any:
    """Compile a sum of products, inlined in callers; terms may be added in any order, without rounding each product.

    Parameters
    ----------
    function : callable
        A function that numba can compile.

    Returns
    -------
    callable
        The compiled function.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}, "forceinline": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def compiled_bare(function: Callable[..., Any]) -> Any:
    """Compile a function that makes no arrays, without reference counting and checks of division.

    Parameters
    ----------
    function : callable
        A function that numba can compile.

    Returns
    -------
    callable
        The compiled function.
    """
    return _bare(function, forceinline=False)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile as `compiled_bare`, inlined in every caller: passing two dozen arrays costs more than most calls do.

    Parameters
    ----------
    function : callable
        A function that numba can compile.

    Returns
    -------
    callable
        The compiled function.
    """
    return _bare(function, forceinline=True)


def _bare(function: Callable[..., Any], **options: bool) -> Any:
    """Compile without reference counting and checks of division."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy", _nrt=False, **options)(function)
