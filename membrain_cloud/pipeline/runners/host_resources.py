"""This machine: the memory a process may use, and how many workers fit."""

from __future__ import annotations

import os

import psutil

from membrain_cloud.units import GIB

LEAST_WORKER_BYTES = 3 * GIB
# What says to torch, BLAS and numba how many threads they may use.
LIBRARY_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def total_memory_bytes() -> int:
    """Memory this process may use: the machine's, or less where a container's limit says so."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT or psutil.virtual_memory().total)


def default_workers() -> int:
    """As many local workers as there are cores and memory for."""
    return max(1, min(os.cpu_count() or 1, total_memory_bytes() // LEAST_WORKER_BYTES))
