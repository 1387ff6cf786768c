"""Simulate tomograms with known truth, to train on and to score results against.

A phantom is a specimen (bilayers, proteins on and beside them, filaments, gold) and a way of imaging it (`imaging`).
Its truth is known: labels, instances, areas, particle centres and orientations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Grid
from membrain_cloud.simulation.builder import SpecimenBuilder
from membrain_cloud.simulation.imaging import image_density
from membrain_cloud.simulation.specimen import KINDS, LABEL_MARGIN_ANGSTROM, PhantomSettings, Specimen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Picks
    from membrain_cloud.simulation.specimen import Float32

__all__ = ["KINDS", "LABEL_MARGIN_ANGSTROM", "Phantom", "PhantomSettings", "Specimen", "make_phantom", "make_specimen"]

# The specimen continues beyond the tomogram, and then there is nothing: imaging in Fourier space wraps around, and what
# leaves over one border must not come back as a ghost membrane at the other. In voxels.
SPECIMEN_MARGIN, EMPTY_MARGIN = 8, 32


@dataclass(frozen=True, eq=False)
class Phantom:
    """A simulated tomogram and its truth.

    Attributes
    ----------
    density : ndarray, shape (Z, Y, X), float32
        The tomogram: dense is dark.
    labels : ndarray, shape (Z, Y, X), uint8
        1 within half the leaflet separation plus `LABEL_MARGIN_ANGSTROM` of a mid-surface.
    instances : ndarray, shape (Z, Y, X), uint16
        k in membrane k, 0 in the background.
    particles : Picks
        Centres on the mid-surface (xyz in Å). The z axis of an orientation points to the side on which the particle
        protrudes.
    particle_classes : tuple of str
        Name of each particle's class.
    membrane_areas_nm2 : dict of int to float
        Area of each mid-surface inside the specimen, in nm².
    membrane_kinds : dict of int to str
        Shape of each membrane, of `KINDS`.
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    """

    density: Float32
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    particles: Picks
    particle_classes: tuple[str, ...]
    membrane_areas_nm2: dict[int, float]
    membrane_kinds: dict[int, str]
    voxel_spacing_angstrom: float

    @property
    def grid(self) -> Grid:
        """The voxel grid of the tomogram."""
        z, y, x = self.density.shape
        return Grid((z, y, x), self.voxel_spacing_angstrom)


def make_phantom(seed: int, settings: PhantomSettings) -> Phantom:
    """Simulate a tomogram.

    Parameters
    ----------
    seed : int
        Seed of all random numbers. The same seed and settings give the same bytes.
    settings : PhantomSettings
        What to simulate.

    Returns
    -------
    Phantom
        The tomogram and its truth.
    """
    builder = SpecimenBuilder(np.random.default_rng(seed), settings, margin=SPECIMEN_MARGIN)
    specimen = builder.build()
    margin = SPECIMEN_MARGIN + EMPTY_MARGIN
    seen = tuple(slice(margin, margin + n) for n in settings.shape)
    density = image_density(
        np.pad(builder.density, EMPTY_MARGIN),
        settings.voxel_spacing_angstrom,
        settings.imaging,
        seed + 1,
        depth_voxels=settings.shape[0],
        measured=seen,
    )
    return Phantom(
        np.ascontiguousarray(density[seen]),
        specimen.labels,
        specimen.instances,
        specimen.particles,
        specimen.particle_classes,
        specimen.membrane_areas_nm2,
        specimen.membrane_kinds,
        settings.voxel_spacing_angstrom,
    )


def make_specimen(seed: int, settings: PhantomSettings) -> Specimen:
    """Simulate a specimen without imaging it, for training, which images one specimen in many ways.

    Parameters
    ----------
    seed : int
        Seed of all random numbers.
    settings : PhantomSettings
        What to simulate; its `imaging` is not used.

    Returns
    -------
    Specimen
        The specimen and its truth.
    """
    return SpecimenBuilder(np.random.default_rng(seed), settings, margin=0).build()
