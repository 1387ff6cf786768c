"""Simulate a tomogram with known truth."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from membrain_cloud.api.inputs import grid_of_shape
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.simulation.phantom import Phantom, PhantomSettings


def simulate(
    *,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
    voxel_spacing_angstrom: float | None = None,
    membranes: int | None = None,
    settings: PhantomSettings | None = None,
) -> Phantom:
    """Simulate a tomogram of membranes with proteins on them.

    Parameters
    ----------
    seed : int
        Seed of all random numbers. The same seed and settings give the same bytes. Default: 0.
    shape : tuple of int, optional
        Voxels along (z, y, x). Default: (96, 160, 160).
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: 10.
    membranes : int, optional
        Number of membranes; fewer are placed where there is no room. Default: 4.
    settings : PhantomSettings, optional
        All settings of the specimen and its imaging; the parameters above override them.

    Returns
    -------
    Phantom
        The density (Z, Y, X) float32, where membranes are dark, and its truth: labels, instances, particles, areas.

    Raises
    ------
    UsageError
        If a number is out of range.
    InputError
        If the shape is not three whole numbers.

    Examples
    --------
    >>> import membrain_cloud as mc
    >>> phantom = mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)
    >>> phantom.density.shape, int(phantom.instances.max())
    ((64, 96, 96), 1)
    """
    from membrain_cloud.simulation.phantom import PhantomSettings

    chosen = settings or PhantomSettings()
    changes: dict[str, Any] = {"shape": shape, "voxel_spacing_angstrom": voxel_spacing_angstrom, "membranes": membranes}
    chosen = replace(chosen, **{name: value for name, value in changes.items() if value is not None})
    if min(grid_of_shape(chosen.shape, 1.0).shape) < 16:
        raise UsageError(f"shape = {chosen.shape}: not three numbers of at least 16 voxels", "pass (z, y, x)")
    for name, value in (("seed", seed), ("membranes", chosen.membranes)):
        if not isinstance(value, Integral) or value < 0:
            raise UsageError(f"{name} = {value!r}: not a whole number of at least 0", f"pass another {name}")
    spacing = chosen.voxel_spacing_angstrom
    if not isinstance(spacing, Real) or not 1 <= spacing <= 100:
        raise UsageError(f"voxel_spacing_angstrom = {spacing!r}: not within 1 to 100 Å", "try 10")
    from membrain_cloud.simulation.phantom import make_phantom

    return make_phantom(seed, chosen)
