"""Examples of simulated tomograms for training pickers: many kinds of particles, imaged in many ways.

The surfaces are those of the true masks, some of them degraded, or those of a segmentation network, because a picker
that is used on such surfaces should be trained on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.mesh.density_sampling import sample_along_normals
from membrain_cloud.segmentation.instances import instance_boxes, separate
from membrain_cloud.simulation.phantom import Phantom, PhantomSettings, make_phantom
from membrain_cloud.simulation.proteins import MEMBRANE_PARTICLES
from membrain_cloud.training.picking.examples import PickingExample
from membrain_cloud.training.segmentation.simulated_patches import random_imaging

if TYPE_CHECKING:
    from membrain_cloud.geometry import Mesh, Picks

# Minimum volume of a decoy: half of what `separate` drops by default.
_LEAST_DARK_ANGSTROM3 = 5e5
# A particle farther from a mesh is not on it.
_REACH_ANGSTROM = 60.0
# Voxel spacing in which `PhantomExamples.shape` counts, in Å.
_SHAPE_SPACING_ANGSTROM = 10.0

ChangeMask = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
Segment = Callable[[NDArray[np.float32], float], NDArray[np.unsignedinteger[Any]]]
"""Takes a density (Z, Y, X) and its voxel spacing in Å, and returns its membranes, numbered from 1."""


@dataclass(frozen=True)
class PhantomExamples:
    """How examples are made of simulated tomograms (phantoms).

    Attributes
    ----------
    shape : tuple of int
        Shape (z, y, x) in voxels of 10 Å; with another voxel spacing, as many voxels as fill the same volume.
    voxel_spacing_angstrom : tuple of float
        Range of the voxel spacing, in Å. Half of the phantoms have 10 Å if that lies in the range.
    snr : tuple of float
        Range of the signal-to-noise ratio, log-uniform.
    particles_per_um2 : tuple of float
        Range of the density of particles on a membrane, per square micrometre, log-uniform.
    smoothing_angstrom, vertex_area_angstrom2 : float
        Smoothing of the meshes in Å, and area per vertex in Å².
    imperfect : float
        Fraction of the true masks that are degraded like a network's: thicker, thinner, rough, with holes.
    particles : tuple of str
        Kinds of particles, one kind per membrane (`PhantomSettings`).
    membrane_contrast, cytosolic_per_um3 : tuple of float
        As in `PhantomSettings`.
    cluttered : float
        Fraction of the phantoms with many structures beside the membranes (`CLUTTER`).
    decoys : int
        Maximum number of dark regions outside of the membranes that are meshed as if they were membranes. Nothing is to
        be picked on false positives of a segmentation.
    surfaces : {"masks", "segmented", "both"}
        What is meshed: the true masks, what a network segments, or each of the two.
    """

    shape: tuple[int, int, int]
    voxel_spacing_angstrom: tuple[float, float]
    snr: tuple[float, float]
    particles_per_um2: tuple[float, float]
    smoothing_angstrom: float
    vertex_area_angstrom2: float
    imperfect: float
    particles: tuple[str, ...] = (*MEMBRANE_PARTICLES, "random", "random", *("assembly",) * 4)
    membrane_contrast: tuple[float, float] = (0.35, 1.0)
    cytosolic_per_um3: tuple[float, float] = (500.0, 6e4)
    cluttered: float = 0.0
    decoys: int = 0
    surfaces: Literal["masks", "segmented", "both"] = "masks"


CLUTTER: dict[str, Any] = {
    "cytosolic_per_um3": (2e4, 1e5),
    "filaments": (1, 4),
    "microtubules": (2, 5),
    "gold_beads": (0, 2),
    "void_angstrom": (0.0, 150.0),
}
"""Values of `PhantomSettings` for a cluttered phantom: more of all that is mistaken for a membrane or a particle."""


def random_phantom(seed: int, settings: PhantomExamples) -> Phantom:
    """Simulate a tomogram with membrane particles of all kinds, imaged under random conditions.

    Parameters
    ----------
    seed : int
        Seed of all random numbers.
    settings : PhantomExamples
        Ranges of what is drawn.

    Returns
    -------
    phantom : Phantom
        The tomogram and its truth.
    """
    rng = np.random.default_rng((seed, 1))
    usual = _SHAPE_SPACING_ANGSTROM
    least, most = settings.voxel_spacing_angstrom
    spacing = usual if rng.random() < 0.5 and least <= usual <= most else float(rng.uniform(least, most))
    z, y, x = (round(n * usual / spacing) for n in settings.shape)
    low = float(rng.uniform(26, 41))
    density = float(np.exp(rng.uniform(*np.log(settings.particles_per_um2))))
    imaging = random_imaging(rng)
    phantom = PhantomSettings(
        shape=(z, y, x),
        voxel_spacing_angstrom=spacing,
        membranes=4,
        leaflet_separation_angstrom=(low, low + 5.0),
        membrane_contrast=settings.membrane_contrast,
        particles=settings.particles,
        particles_per_um2=(0.4 * density, 1.4 * density),
        cytosolic_per_um3=settings.cytosolic_per_um3,
        filaments=(0, 2),
        imaging=replace(imaging, snr=float(np.exp(rng.uniform(*np.log(settings.snr))))),
    )
    # Drawn last, so that the other phantoms do not depend on the fraction.
    if rng.random() < settings.cluttered:
        phantom = replace(phantom, **CLUTTER)
    return make_phantom(seed, phantom)


def imperfect_mask(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Degrade a mask like a network's: its surface is shifted and wavy by about a voxel, at times with holes.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        The true mask.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    mask : ndarray of shape (Z, Y, X), bool
        The degraded mask.
    """
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    waves = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 2.5)
    waves *= rng.uniform(0.2, 0.6) / max(float(waves.std()), 1e-9)
    degraded: NDArray[np.bool_] = inside + waves + rng.uniform(-0.6, 0.8) > 0.0
    if rng.random() < 0.4:
        voxels = np.argwhere(mask)
        coordinates = np.indices(mask.shape)
        for center in voxels[rng.integers(len(voxels), size=int(rng.integers(1, 4)))]:
            away = ((coordinates - center[:, None, None, None]) ** 2).sum(axis=0)
            degraded &= away > rng.uniform(3.0, 8.0) ** 2
    return degraded


def phantom_examples(
    phantom: Phantom,
    settings: PhantomExamples,
    *,
    offsets_angstrom: Sequence[float],
    spline_order: int,
    seed: int,
    classes: Sequence[str] = (),
    segment: Segment | None = None,
) -> list[PickingExample]:
    """Make examples of a phantom's membranes.

    Parameters
    ----------
    phantom : Phantom
        The simulated tomogram.
    settings : PhantomExamples
        Surfaces, meshes and decoys.
    offsets_angstrom : sequence of float
        Where profiles are sampled along the outward normals, in Å.
    spline_order : int
        Order of the spline that interpolates the density.
    seed : int
        Seed of the degraded masks and the decoys.
    classes : sequence of str
        Kinds of particles to distinguish, by their names in the phantom; other kinds are left out. Default: all
        particles are one class.
    segment : callable or None
        Segments the density; needed for segmented surfaces.

    Returns
    -------
    examples : list of PickingExample
        Segmented membranes, then those of the true masks, then decoys. Particles belong to the nearest mesh within
        60 Å.
    """
    kinds = np.array([list(classes).index(name) if name in classes else -1 for name in phantom.particle_classes], int)
    included = kinds >= 0 if classes else np.ones(len(kinds), bool)
    offsets = np.asarray(offsets_angstrom)

    def example(mesh: Mesh, on_it: NDArray[np.bool_]) -> PickingExample:
        profiles = sample_along_normals(
            phantom.density,
            phantom.grid.box,
            phantom.grid,
            mesh.vertices,
            mesh.vertex_normals(),
            offsets,
            outside=float(phantom.density.mean()),
            spline_order=spline_order,
        )
        own = on_it & included
        return PickingExample(mesh, profiles, phantom.particles.select(own), kinds[own] if classes else None)

    examples = []
    if settings.surfaces != "masks":
        if segment is None:
            raise ValueError("surfaces that are segmented need a network")
        instances = segment(phantom.density, phantom.voxel_spacing_angstrom)
        meshes = [mesh for _, mesh in _meshes(instances, phantom, settings, lambda mask: mask)]
        owners = _assign_particles(phantom.particles, meshes)
        examples += [example(mesh, on_it) for mesh, on_it in zip(meshes, owners, strict=True)]
    if settings.surfaces != "segmented":
        rng = np.random.default_rng((seed, 2))

        def degrade_some(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return imperfect_mask(mask, rng) if rng.random() < settings.imperfect else mask

        for number, mesh in _meshes(phantom.instances, phantom, settings, degrade_some):
            own = phantom.particles.membrane_ids == number
            examples.append(example(mesh, own & _assign_particles(phantom.particles, [mesh])[0]))
    if settings.decoys:
        dark = dark_regions(phantom, settings.decoys, np.random.default_rng((seed, 3)))
        no_particles = np.zeros(len(phantom.particles), bool)
        examples += [example(mesh, no_particles) for _, mesh in _meshes(dark, phantom, settings, lambda mask: mask)]
    return examples


def dark_regions(phantom: Phantom, most: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Find the largest dark regions of a phantom that are no membrane.

    These are walls of microtubules, filaments and touching proteins; in a noisy phantom also noise. They keep 60 Å away
    from membranes and 150 Å from the particles on them.

    Parameters
    ----------
    phantom : Phantom
        The simulated tomogram.
    most : int
        Maximum number of regions.
    rng : numpy.random.Generator
        Source of random numbers, for smoothing and threshold.

    Returns
    -------
    regions : ndarray of shape (Z, Y, X), uint16
        Regions numbered from 1, largest first; 0 elsewhere.
    """
    spacing = phantom.voxel_spacing_angstrom
    smooth = ndimage.gaussian_filter(phantom.density, rng.uniform(12.0, 25.0) / spacing)
    particles = np.zeros(phantom.labels.shape, np.bool_)
    particles[tuple(phantom.grid.to_voxels(phantom.particles.positions).round().astype(int).T)] = True
    allowed = np.ones(phantom.labels.shape, np.bool_)
    for obstacle, angstrom in ((phantom.labels > 0, 60.0), (particles, 150.0)):
        if obstacle.any():  # the distance transform of an empty mask is undefined
            allowed &= ndimage.distance_transform_edt(~obstacle) * spacing > angstrom
    if not allowed.any():
        return np.zeros(allowed.shape, np.uint16)
    dark = allowed & (smooth < np.quantile(smooth[allowed], rng.uniform(0.01, 0.05)))
    least = round(_LEAST_DARK_ANGSTROM3 / spacing**3)
    regions = separate(dark, min_voxels=least, split=False, drop_border=False)
    regions[regions > most] = 0
    return regions.astype(np.uint16)


def _meshes(
    instances: NDArray[np.unsignedinteger[Any]], phantom: Phantom, settings: PhantomExamples, change: ChangeMask
) -> Iterator[tuple[int, Mesh]]:
    """Yield the number and the mesh of each instance, its mask changed by `change` before it is meshed."""
    for number, box in instance_boxes(instances, margin=2).items():
        mesh = mesh_membrane(
            change(instances[box.slices] == number),
            box,
            phantom.grid,
            smoothing_angstrom=settings.smoothing_angstrom,
            vertex_area_angstrom2=settings.vertex_area_angstrom2,
        )
        if mesh is not None:
            yield number, mesh


def _assign_particles(particles: Picks, meshes: Sequence[Mesh]) -> NDArray[np.bool_]:
    """Return (M, N), whether mesh m is the nearest to particle n and within reach."""
    if not len(meshes) or not len(particles):
        return np.zeros((len(meshes), len(particles)), bool)
    away = np.array([cKDTree(mesh.vertices).query(particles.positions)[0] for mesh in meshes])
    nearest: NDArray[np.bool_] = away.argmin(axis=0) == np.arange(len(meshes))[:, None]
    return nearest & (away <= _REACH_ANGSTROM)
