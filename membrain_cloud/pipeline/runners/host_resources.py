"""Resources of the machine that this process runs on: its memory, and the number of workers that fit."""

from __future__ import annotations

import os

import psutil

from membrain_cloud.units import GIB

# Least memory of a local worker.
LEAST_WORKER_BYTES = 3 * GIB
# Environment variables that limit the threads of torch, BLAS and numba.
LIBRARY_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    # zarr's, which otherwise follow the cores of the machine: for codecs, and for what its event loop waits for.
    "ZARR_CODEC_PIPELINE__MAX_WORKERS",
    "ZARR_THREADING__MAX_WORKERS",
)
# Share of the memory that tasks may plan with; the rest is for the system and the driver.
_USABLE_MEMORY = 0.9


def total_memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or a container's limit where it is lower."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT or psutil.virtual_memory().total)


def worker_memory_bytes(workers: int = 1) -> int:
    """Return the memory for each of a number of workers that share this machine.

    Parameters
    ----------
    workers : int
        Number of workers, at least 1. Default: one, which has all of it.

    Returns
    -------
    int
        Bytes for each worker: an equal share of 90 % of the memory.
    """
    return int(total_memory_bytes() * _USABLE_MEMORY) // workers


def default_workers() -> int:
    """Return the number of local workers that fit: one for each core and for each 3 GiB of memory, at least one."""
    return max(1, min(os.cpu_count() or 1, total_memory_bytes() // LEAST_WORKER_BYTES))
