"""Build a specimen: place membranes, proteins, filaments and gold in a volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Grid, Picks, orientations_from_normals
from membrain_cloud.simulation import proteins
from membrain_cloud.simulation.membrane_shapes import Shape, random_rotation, random_shapes
from membrain_cloud.simulation.specimen import LABEL_MARGIN_ANGSTROM, Float32, PhantomSettings, Specimen

Points = NDArray[np.float64]


class SpecimenBuilder:
    """Place membranes, proteins and other objects one after the other; later ones keep clear of earlier ones.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random numbers.
    settings : PhantomSettings
        What to place.
    margin : int
        Voxels of specimen beyond the tomogram on each side.

    Attributes
    ----------
    density : ndarray, shape (Z + 2 margin, Y + 2 margin, X + 2 margin), float32
        The specimen with its margin, minus solvent.
    """

    def __init__(self, rng: np.random.Generator, settings: PhantomSettings, *, margin: int) -> None:
        self.rng, self.settings, self.margin = rng, settings, margin
        self.spacing = settings.voxel_spacing_angstrom
        z, y, x = (n + 2 * margin for n in settings.shape)
        self.grid = Grid((z, y, x), self.spacing)  # with the margin
        self.inner = tuple(slice(margin, margin + n) for n in settings.shape)
        self.density = np.zeros(self.grid.shape, np.float32)
        self.instances = np.zeros(self.grid.shape, np.uint16)
        self.nearest = np.full(self.grid.shape, 1e4, np.float32)  # distance to the nearest mid-surface
        self.areas: dict[int, float] = {}
        self.kinds: dict[int, str] = {}
        along_z, along_y, along_x = (np.arange(n, dtype=np.float32) * np.float32(self.spacing) for n in (z, y, x))
        self.coordinates = tuple(
            c - np.float32(0.5 * (len(c.ravel()) - 1) * self.spacing)
            for c in (along_x[None, None, :], along_y[None, :, None], along_z[:, None, None])
        )
        below, above = (round(v) for v in rng.uniform(*settings.void_angstrom, 2) / self.spacing)
        # Without a void the specimen is thicker than the tomogram.
        self.slab = slice(margin + below if below else 0, z - margin - above if above else z)
        seen = slice(max(self.slab.start, margin), min(self.slab.stop, z - margin))
        self.seen = (seen, *self.inner[1:])  # the specimen inside the tomogram

    def build(self) -> Specimen:
        """Place everything and return the specimen inside the tomogram."""
        surfaces = self._place_membranes()
        particles, classes = self._place_membrane_particles(surfaces)
        self._place_cytosol()
        self.density[: self.slab.start] = 0
        self.density[self.slab.stop :] = 0
        self._place_gold()
        instances = np.ascontiguousarray(self.instances[self.inner])
        density = np.ascontiguousarray(self.density[self.inner])
        labels = (instances > 0).astype(np.uint8)
        particles = replace(particles, positions=particles.positions - self.margin * self.spacing)
        return Specimen(density, labels, instances, particles, classes, self.areas, self.kinds)

    # Membranes.

    def _place_membranes(self) -> dict[int, tuple[Float32, float]]:
        """Place the membranes; return the signed distance and leaflet separation of each by number, both in Å."""
        rng, settings = self.rng, self.settings
        size = np.array(self.grid.size_angstrom) - 2 * self.margin * self.spacing
        separation = rng.uniform(*settings.leaflet_separation_angstrom)
        contrast = rng.uniform(*settings.membrane_contrast)
        placed: dict[int, tuple[Float32, float]] = {}
        for _ in range(8 * settings.membranes):
            if len(placed) >= settings.membranes:
                break
            for shape in random_shapes(rng, size, settings.kinds):
                own = separation * rng.uniform(0.93, 1.07)
                distance = self._distance(shape)
                if self._fits(distance, own):
                    number = len(placed) + 1
                    self._draw_membrane(number, shape, distance, own, contrast)
                    placed[number] = (distance, own)
        return placed

    def _distance(self, shape: Shape) -> Float32:
        return np.broadcast_to(shape.distance(self.coordinates), self.grid.shape)  # type: ignore[arg-type]

    def _fits(self, distance: Float32, separation: float) -> bool:
        """Return whether enough of a membrane lies in the volume, about 6 nm clear of the others."""
        reach = 0.5 * separation + LABEL_MARGIN_ANGSTROM
        if np.count_nonzero(np.abs(distance[self.seen]) < reach) * self.spacing**3 < 2.0e7:
            return False
        band = np.abs(distance[self.slab]) < reach
        return float(self.nearest[self.slab][band].min()) > reach + 35.0

    def _draw_membrane(self, number: int, shape: Shape, distance: Float32, separation: float, contrast: float) -> None:
        sigma = np.float32(np.sqrt(6.5**2 + self.spacing**2 / 12))
        half = np.float32(0.5 * separation)
        near = np.abs(distance) < half + 3 * sigma
        d = distance[near]
        leaflets = np.exp(-0.5 * ((d - half) / sigma) ** 2) + np.exp(-0.5 * ((d + half) / sigma) ** 2)
        tails = np.exp(-0.5 * (d / np.float32(0.35 * separation)) ** 2)
        self.density[near] += np.float32(contrast) * (leaflets - np.float32(0.12) * tails)
        label = np.abs(distance) <= half + LABEL_MARGIN_ANGSTROM
        label[: self.slab.start] = False
        label[self.slab.stop :] = False
        self.instances[label] = number
        np.minimum(self.nearest, np.abs(distance), out=self.nearest)
        self.areas[number] = self._area_nm2(distance)
        self.kinds[number] = shape.kind

    def _area_nm2(self, distance: Float32) -> float:
        """Return the area inside the tomogram: the integral of a smoothed delta of the signed distance."""
        width = 1.5 * self.spacing
        d = np.asarray(distance[self.seen], np.float64)
        d = d[np.abs(d) < width]
        return float(((1 + np.cos(np.pi * d / width)) / (2 * width)).sum() * self.spacing**3 / 100.0)

    # Proteins.

    def _place_membrane_particles(self, surfaces: dict[int, tuple[Float32, float]]) -> tuple[Picks, tuple[str, ...]]:
        rng, settings = self.rng, self.settings
        found: list[tuple[Points, Points, int, str]] = []
        bilayer = self.density.copy()
        added = np.zeros_like(self.density)
        for number, (distance, _) in surfaces.items():
            name = str(rng.choice(settings.particles)) if settings.particles else ""
            wanted = rng.uniform(*settings.particles_per_um2) * self.areas[number] / 1e6
            if not name or wanted < 0.5:
                continue
            points, normals = self._sites(distance, max(1, round(wanted)))
            side = 1.0 if rng.random() < 0.6 else -1.0
            for point, outward in zip(points, normals, strict=True):
                normal = side * outward * (1.0 if rng.random() < 0.9 else -1.0)
                rotation = orientations_from_normals(normal[None], rng.uniform(0, 2 * np.pi, 1))[0]
                protein = self._protein(name)
                proteins.stamp(added, protein, point, rotation, self.spacing)
                found.append((point, rotation, number, name))
        # A protein replaces the lipid around it.
        self.density = bilayer * (1 - 0.8 * np.clip(added, 0, 1)) + added
        if not found:
            return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3))), ()
        positions, rotations, numbers, classes = (list(c) for c in zip(*found, strict=True))
        picks = Picks(np.array(positions), np.array(rotations), np.ones(len(found)), np.array(numbers, np.int64))
        return picks, tuple(classes)

    def _protein(self, name: str) -> proteins.Blobs:
        return (proteins.MEMBRANE_PARTICLES | proteins.UNNAMED_PARTICLES)[name](self.rng)

    def _sites(self, distance: Float32, wanted: int) -> tuple[Points, Points]:
        """Draw points on a mid-surface (xyz in Å) with normals, at random with a hard core, or at lattice spacing."""
        rng = self.rng
        gap = rng.uniform(100.0, 140.0)
        # 4 nm clear of the borders and the void: a protein that is cut cannot be scored.
        low = np.array([part.start + 4 for part in self.seen])
        high = np.array([part.stop - 5 for part in self.seen])
        candidates = np.argwhere(np.abs(distance[self.seen]) < 0.6 * self.spacing) + low - 4
        inside = np.all((candidates >= low) & (candidates <= high), axis=1)
        points, normals = self._project(distance, candidates[inside].astype(np.float64))
        keep = np.all((points >= low[::-1] * self.spacing) & (points <= high[::-1] * self.spacing), axis=1)
        points, normals = points[keep], normals[keep]
        if not len(points):
            return points, normals
        order = rng.permutation(len(points))
        lattice = rng.random() < self.settings.lattice_fraction
        closest = 0.9 * gap if lattice else gap
        chosen = _lattice_sites(points, normals, int(order[0]), gap) if lattice else order
        taken: list[int] = []
        for index in chosen:
            if len(taken) == wanted:
                break
            if not taken or np.min(((points[taken] - points[index]) ** 2).sum(1)) >= closest**2:
                taken.append(int(index))
        return points[taken], normals[taken]

    def _project(self, distance: Float32, places: Points) -> tuple[Points, Points]:
        """Move voxel positions along the gradient onto the mid-surface; return xyz in Å and unit normals (xyz)."""
        gradient = np.zeros_like(places)
        for _ in range(2):
            for axis in range(3):
                step = np.zeros(3)
                step[axis] = 1.0
                ahead, behind = (
                    ndimage.map_coordinates(distance, (places + s * step).T, order=1, mode="nearest") for s in (1, -1)
                )
                gradient[:, axis] = (ahead - behind) / (2 * self.spacing)
            gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
            value = ndimage.map_coordinates(distance, places.T, order=1, mode="nearest")
            places = places - gradient * (value / self.spacing)[:, None]
        return self.grid.to_angstrom(places), gradient[:, ::-1].copy()

    # Cytosol and gold.

    def _place_cytosol(self) -> None:
        rng, settings = self.rng, self.settings
        size = np.array(self.grid.size_angstrom)
        low, high = np.log(settings.cytosolic_per_um3)
        count = rng.poisson(np.exp(rng.uniform(low, high)) * np.prod(size) / 1e12)
        largest = rng.uniform(60, 125)
        library = [proteins.random_cytosolic_particle(rng, largest) for _ in range(6)]
        things = [library[int(rng.integers(len(library)))] for _ in range(count)]
        length = 1.5 * float(size.max())
        filaments, microtubules = (
            int(rng.integers(*most, endpoint=True)) for most in (settings.filaments, settings.microtubules)
        )
        things += [proteins.actin_filament(rng, length) for _ in range(filaments)]
        things += [proteins.microtubule(rng, length) for _ in range(microtubules)]
        added = np.zeros_like(self.density)
        for thing in things:
            reach = float(np.quantile(np.linalg.norm(thing.points, axis=1), 0.9))
            place = rng.uniform(0, 1, 3) * size
            voxel = np.clip(self.grid.to_voxels(place).astype(int), 0, np.array(self.grid.shape) - 1)
            if reach < 200 and self.nearest[tuple(voxel)] < reach + 45:  # too near to a membrane
                continue
            proteins.stamp(added, thing, place, random_rotation(rng).astype(np.float64), self.spacing)
        # A filament that meets a membrane ends there.
        self.density += np.where(self.nearest > 40, added, 0)

    def _place_gold(self) -> None:
        for _ in range(self.rng.integers(*self.settings.gold_beads, endpoint=True)):
            radius = self.rng.uniform(25, 60)
            bead = proteins.Blobs(np.zeros((1, 3)), 0.6 * radius, np.array([self.rng.uniform(8, 20)]))
            place = self.rng.uniform(0, 1, 3) * self.grid.size_angstrom
            proteins.stamp(self.density, bead, place, np.eye(3), self.spacing)


def _lattice_sites(points: Points, normals: Points, first: int, gap: float) -> list[int]:
    """Return the indices of points that form a hexagonal lattice of spacing `gap` around the first one."""
    tree = cKDTree(points)
    queue, seen = [first], [first]
    x_axis = orientations_from_normals(normals[first][None])[0][:, 0]
    while queue and len(seen) < 2000:
        here = queue.pop(0)
        normal = normals[here]
        u = x_axis - (x_axis @ normal) * normal
        if np.linalg.norm(u) < 0.2:
            continue
        u /= np.linalg.norm(u)
        v = np.cross(normal, u)
        for k in range(6):
            angle = np.pi * k / 3
            there = points[here] + gap * (np.cos(angle) * u + np.sin(angle) * v)
            off, index = tree.query(there)
            if off < 0.35 * gap and np.min(((points[seen] - points[index]) ** 2).sum(1)) > (0.8 * gap) ** 2:
                seen.append(int(index))
                queue.append(int(index))
    return seen
