"""Derive the seed of a membrane's random numbers from what the random numbers belong to."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface
    from membrain_cloud.statistics.model.options import Options

# Seeds have this many bits, so that they fit the integers of the tables.
SEED_BITS = 63


def membrane_seed(
    origin: str, surface: Surface, positions: NDArray[np.float64], names: Sequence[str], options: Options
) -> int:
    """Return the seed of a membrane's simulations.

    Simulations of different membranes have to be independent, or their sums spread too far and p-values of pooled
    tables are too large. So the seed depends on all that tells two membranes apart. It depends neither on the order in
    which membranes are measured nor on the process that measures them, so repeated runs give equal tables.

    Parameters
    ----------
    origin : str
        Where the membrane comes from: run, tomogram and number of the membrane. Equal meshes differ by it.
    surface : Surface
        The measured surface.
    positions : (N, 3) float64 array
        Centres of the particles in the order in which they are measured, Å.
    names : sequence of N str
        Their object names.
    options : Options
        What is measured.

    Returns
    -------
    int
        From 0 to 2^63 - 1.
    """
    content = sha256()
    for text in (origin, repr(options), *names):
        content.update(f"{len(text)}:{text}".encode())
    for array, kind in ((surface.vertices, "<f8"), (surface.faces, "<i4"), (positions, "<f8")):
        values = np.ascontiguousarray(array, kind)
        content.update(f"{values.shape}".encode())
        content.update(values.tobytes())
    return int.from_bytes(content.digest()[:8], "big") >> (64 - SEED_BITS)
