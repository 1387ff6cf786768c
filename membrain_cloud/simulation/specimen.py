"""What a phantom's specimen is made of, and its truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.simulation.imaging import Imaging

if TYPE_CHECKING:
    from membrain_cloud.geometry import Picks, Zyx

Float32 = NDArray[np.float32]
KINDS = ("sphere", "ellipsoid", "vesicle", "torus", "tube", "sheet", "stack")
LABEL_MARGIN_ANGSTROM = 8.0
"""The label reaches so far beyond the leaflets' centres, as annotators draw membranes."""


@dataclass(frozen=True)
class PhantomSettings:
    """What to simulate.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the tomogram along (z, y, x).
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    kinds : tuple of str
        Shapes of membranes to draw from, of `KINDS`.
    membranes : int
        Number of shapes to place; a stack counts as several. Fewer are placed where there is no room.
    leaflet_separation_angstrom : tuple of float
        Range in Å; one draw for each phantom, with a small variation between its membranes.
    membrane_contrast : tuple of float
        Range of the leaflets' peak density relative to protein.
    particles : tuple of str
        Names of `MEMBRANE_PARTICLES`, or of `UNNAMED_PARTICLES`, each of which differs from the others.
    particles_per_um2 : tuple of float
        Range of membrane-bound particles per µm² of one-sided membrane area.
    lattice_fraction : float
        Share of membranes whose particles lie at lattice spacing.
    cytosolic_per_um3 : tuple of float
        Range of proteins per µm³ beside the membranes.
    filaments, microtubules, gold_beads : tuple of int
        Ranges of their numbers, both ends included.
    void_angstrom : tuple of float
        Range of empty solvent above and below the specimen, in Å.
    imaging : Imaging
        How the tomogram is taken.
    """

    shape: Zyx = (96, 160, 160)
    voxel_spacing_angstrom: float = 10.0
    kinds: tuple[str, ...] = KINDS
    membranes: int = 4
    leaflet_separation_angstrom: tuple[float, float] = (32.0, 44.0)
    membrane_contrast: tuple[float, float] = (0.6, 1.0)
    particles: tuple[str, ...] = ("dimer", "tower", "head-on-stalk")
    particles_per_um2: tuple[float, float] = (400.0, 1000.0)
    lattice_fraction: float = 0.3
    cytosolic_per_um3: tuple[float, float] = (5e3, 6e4)
    filaments: tuple[int, int] = (0, 2)
    microtubules: tuple[int, int] = (0, 0)
    gold_beads: tuple[int, int] = (0, 3)
    void_angstrom: tuple[float, float] = (0.0, 60.0)
    imaging: Imaging = field(default_factory=Imaging)


@dataclass(frozen=True, eq=False)
class Specimen:
    """A specimen and its truth.

    Attributes
    ----------
    density : ndarray, shape (Z, Y, X), float32
        Specimen minus solvent; positive is dense.
    labels, instances, particles, particle_classes, membrane_areas_nm2, membrane_kinds
        As in `Phantom`.
    """

    density: Float32
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    particles: Picks
    particle_classes: tuple[str, ...]
    membrane_areas_nm2: dict[int, float]
    membrane_kinds: dict[int, str]
