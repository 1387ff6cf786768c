"""Membranes of phantoms with their particles, to train a picker on: many kinds, imaged in many ways.

Surfaces are those of the true masks, some of them spoilt, or those that a segmentation network draws: a picker that is
used on these should have seen them.
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

# Of a decoy: what `separate` drops by default is of twice this size.
_LEAST_DARK_ANGSTROM3 = 5e5

Drawn = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
Segment = Callable[[NDArray[np.float32], float], NDArray[np.unsignedinteger]]
"""A density (Z, Y, X) and its voxel spacing in Å -> its membranes, numbered from 1."""


@dataclass(frozen=True)
class PhantomExamples:
    """How examples are made of phantoms.

    shape : (z, y, x) voxels of 10 Å; with other voxels as many as fill the same room.
    voxel_spacing_angstrom : range; half of the phantoms have 10 Å where that lies in it.
    snr, particles_per_um2 : ranges, log-uniform.  membrane_contrast, cytosolic_per_um3 : as `PhantomSettings` has them.
    particles : their kinds, as `PhantomSettings` has them, one a membrane.
    cluttered : share of the phantoms with much beside the membranes (`CLUTTER`).
    smoothing_angstrom, vertex_area_angstrom2 : of the meshes.
    imperfect : share of the true masks that are spoilt as a network's are (thicker, thinner, rough, with holes).
    decoys : at most so many dark places a phantom, off its membranes, are meshed as if they were one: on what a network
        takes for a membrane by mistake nothing is to be picked.
    surfaces : what is meshed: the true masks, what a network segments, or once these and once that.
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
"""What `PhantomSettings` has in a cluttered phantom: more of all that is taken for a membrane, or for a particle."""


def random_phantom(seed: int, settings: PhantomExamples) -> Phantom:
    """A phantom with membrane particles of all kinds, imaged in one of many ways."""
    rng = np.random.default_rng((seed, 1))
    least, most = settings.voxel_spacing_angstrom
    spacing = 10.0 if rng.random() < 0.5 and least <= 10.0 <= most else float(rng.uniform(least, most))
    z, y, x = (round(n * 10.0 / spacing) for n in settings.shape)
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
    # Drawn last: the other phantoms are the same whatever the share.
    if rng.random() < settings.cluttered:
        phantom = replace(phantom, **CLUTTER)
    return make_phantom(seed, phantom)


def imperfect_mask(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask as a network might draw it: its surface shifted and wavy by about a voxel, at times with holes."""
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    waves = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 2.5)
    waves *= rng.uniform(0.2, 0.6) / max(float(waves.std()), 1e-9)
    spoilt: NDArray[np.bool_] = inside + waves + rng.uniform(-0.6, 0.8) > 0.0
    if rng.random() < 0.4:
        places = np.argwhere(mask)
        coordinates = np.indices(mask.shape)
        for middle in places[rng.integers(len(places), size=int(rng.integers(1, 4)))]:
            away = ((coordinates - middle[:, None, None, None]) ** 2).sum(axis=0)
            spoilt &= away > rng.uniform(3.0, 8.0) ** 2
    return spoilt


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
    """One example a membrane of the phantom; particles more than 60 Å from a mesh do not count as on it.

    classes : kinds of particles to tell apart, by their names in the phantom; others count as none. Empty: all alike.
    segment : for surfaces that a network segments; its membranes have the particles that are nearest to them.
    """
    kinds = np.array([list(classes).index(name) if name in classes else -1 for name in phantom.particle_classes], int)
    wanted = kinds >= 0 if classes else np.ones(len(kinds), bool)
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
        chosen = on_it & wanted
        return PickingExample(mesh, profiles, phantom.particles.select(chosen), kinds[chosen] if classes else None)

    examples = []
    if settings.surfaces != "masks":
        if segment is None:
            raise ValueError("surfaces that are segmented need a network")
        instances = segment(phantom.density, phantom.voxel_spacing_angstrom)
        meshes = [mesh for _, mesh in _meshes(instances, phantom, settings, lambda mask: mask)]
        examples += [
            example(mesh, on_it) for mesh, on_it in zip(meshes, _owned(phantom.particles, meshes), strict=True)
        ]
    if settings.surfaces != "segmented":
        rng = np.random.default_rng((seed, 2))

        def as_drawn(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return imperfect_mask(mask, rng) if rng.random() < settings.imperfect else mask

        for number, mesh in _meshes(phantom.instances, phantom, settings, as_drawn):
            own = phantom.particles.membrane_ids == number
            examples.append(example(mesh, own & _owned(phantom.particles, [mesh])[0]))
    if settings.decoys:
        dark = dark_places(phantom, settings.decoys, np.random.default_rng((seed, 3)))
        nothing = np.zeros(len(phantom.particles), bool)
        examples += [example(mesh, nothing) for _, mesh in _meshes(dark, phantom, settings, lambda mask: mask)]
    return examples


def dark_places(phantom: Phantom, most: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(Z, Y, X) the largest dark things that are no membrane, numbered from 1.

    Walls of microtubules, filaments, proteins that touch; in a noisy phantom, noise. They stay 60 Å off the membranes
    and 150 Å off the particles on them.
    """
    spacing = phantom.voxel_spacing_angstrom
    smooth = ndimage.gaussian_filter(phantom.density, rng.uniform(12.0, 25.0) / spacing)
    particles = np.zeros(phantom.labels.shape, np.bool_)
    particles[tuple(phantom.grid.to_voxels(phantom.particles.positions).round().astype(int).T)] = True
    away = np.ones(phantom.labels.shape, np.bool_)
    for there, angstrom in ((phantom.labels > 0, 60.0), (particles, 150.0)):
        if there.any():  # a transform without anything to measure from is undefined
            away &= ndimage.distance_transform_edt(~there) * spacing > angstrom
    if not away.any():
        return np.zeros(away.shape, np.uint16)
    dark = away & (smooth < np.quantile(smooth[away], rng.uniform(0.01, 0.05)))
    least = round(_LEAST_DARK_ANGSTROM3 / spacing**3)
    found = separate(dark, min_voxels=least, split=False, drop_border=False)
    found[found > most] = 0
    return found.astype(np.uint16)


def _meshes(
    instances: NDArray[np.unsignedinteger], phantom: Phantom, settings: PhantomExamples, drawn: Drawn
) -> Iterator[tuple[int, Mesh]]:
    for number, box in instance_boxes(instances, margin=2).items():
        mesh = mesh_membrane(
            drawn(instances[box.slices] == number),
            box,
            phantom.grid,
            smoothing_angstrom=settings.smoothing_angstrom,
            vertex_area_angstrom2=settings.vertex_area_angstrom2,
        )
        if mesh is not None:
            yield number, mesh


def _owned(particles: Picks, meshes: Sequence[Mesh]) -> NDArray[np.bool_]:
    """(M, N) whether particle n is on mesh m: the nearest one, within 60 Å."""
    if not len(meshes) or not len(particles):
        return np.zeros((len(meshes), len(particles)), bool)
    away = np.array([cKDTree(mesh.vertices).query(particles.positions)[0] for mesh in meshes])
    return (away.argmin(axis=0) == np.arange(len(meshes))[:, None]) & (away <= 60.0)
