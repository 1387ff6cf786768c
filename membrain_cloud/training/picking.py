"""The picker that ships with the package: examples from simulated tomograms, training, and an honest score."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

import membrain_cloud
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.membranes.instances import instance_boxes
from membrain_cloud.membranes.meshing import mesh_membrane
from membrain_cloud.membranes.phantom import Phantom, PhantomSettings, make_phantom
from membrain_cloud.membranes.picking import Clustering
from membrain_cloud.membranes.sampling import sample_along_normals
from membrain_cloud.networks.picker import save_picker
from membrain_cloud.training.examples import PickingExample
from membrain_cloud.training.patches import random_imaging
from membrain_cloud.training.picker_loop import PickerTraining, train_picker
from membrain_cloud.training.picker_scores import evaluate_picker, suiting_settings

Report = Callable[[str], None]


@dataclass(frozen=True)
class PhantomExamples:
    """How examples are made of phantoms.

    shape : (z, y, x) voxels of the phantoms.  snr : range, log-uniform.  particles_per_um2 : range.
    smoothing_angstrom, vertex_area_angstrom2 : of the meshes.
    imperfect : share of the membranes whose mask is spoilt as a network's is (thicker, thinner, rough, with holes).
    """

    shape: tuple[int, int, int]
    voxel_spacing_angstrom: float
    snr: tuple[float, float]
    particles_per_um2: tuple[float, float]
    smoothing_angstrom: float
    vertex_area_angstrom2: float
    imperfect: float


def random_phantom(seed: int, settings: PhantomExamples) -> Phantom:
    """A phantom with membrane particles of all kinds, imaged in one of many ways."""
    rng = np.random.default_rng((seed, 1))
    low = float(rng.uniform(28, 40))
    snr = float(np.exp(rng.uniform(*np.log(settings.snr))))
    density = float(np.exp(rng.uniform(*np.log(settings.particles_per_um2))))
    phantom = PhantomSettings(
        shape=settings.shape,
        voxel_spacing_angstrom=settings.voxel_spacing_angstrom,
        membranes=4,
        leaflet_separation_angstrom=(low, low + 5.0),
        membrane_contrast=(0.5, 1.0),
        particles=("dimer", "tower", "head-on-stalk", "hump", "random", "random"),
        particles_per_um2=(0.7 * density, 1.3 * density),
        cytosolic_per_um3=(500.0, 2e4),
        filaments=(0, 2),
        imaging=replace(random_imaging(rng), snr=snr),
    )
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
) -> list[PickingExample]:
    """One example a membrane of the phantom; particles more than 60 Å from its mesh do not count as on it.

    classes : kinds of particles to tell apart, by their names in the phantom; others count as none. Empty: all alike.
    """
    rng = np.random.default_rng((seed, 2))
    examples = []
    everywhere = phantom.grid.box
    kinds = np.array([list(classes).index(name) if name in classes else -1 for name in phantom.particle_classes], int)
    for number, box in instance_boxes(phantom.instances, margin=2).items():
        mask = phantom.instances[box.slices] == number
        if rng.random() < settings.imperfect:
            mask = imperfect_mask(mask, rng)
        mesh = mesh_membrane(
            mask,
            box,
            phantom.grid,
            smoothing_angstrom=settings.smoothing_angstrom,
            vertex_area_angstrom2=settings.vertex_area_angstrom2,
        )
        if mesh is None:
            continue
        profiles = sample_along_normals(
            phantom.density,
            everywhere,
            phantom.grid,
            mesh.vertices,
            mesh.vertex_normals(),
            np.asarray(offsets_angstrom),
            outside=float(phantom.density.mean()),
            spline_order=spline_order,
        )
        on_it = _on_mesh(phantom.particles, number, mesh)
        on_it &= kinds >= 0 if classes else True
        particles = phantom.particles.chosen(on_it)
        examples.append(PickingExample(mesh, profiles, particles, kinds[on_it] if classes else None))
    return examples


def _on_mesh(particles: Picks, number: int, mesh: Mesh) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = particles.membrane_ids == number
    return chosen & (cKDTree(mesh.vertices).query(particles.positions)[0] <= 60.0) if len(particles) else chosen


def train_picker_on_phantoms(
    output: Path,
    *,
    seed: int,
    n_phantoms: int,
    n_validation: int,
    examples: PhantomExamples,
    training: PickerTraining,
    clustering: Clustering,
    workdir: Path | None,
    progress: Report,
) -> dict[str, Any]:
    """Train a picker on simulated tomograms, score it on others, and write it to `output` (.safetensors).

    workdir : a folder that keeps the examples and the state of the training, to go on from; None: nothing is kept.
    progress : is told a line of what is going on.

    Returns the scores that are also in the model's header: on unseen phantoms with true and with imperfect masks.
    """
    train = make_examples(range(seed, seed + n_phantoms), examples, training, workdir, progress)
    picker = train_picker(
        train,
        settings=training,
        checkpoint=None if workdir is None else workdir / "picker-training.pt",
        progress=lambda epoch, loss: progress(f"epoch {epoch} of {training.epochs}: loss {loss:.3f}"),
    )
    unseen = range(seed + 1_000_000, seed + 1_000_000 + n_validation)
    scores = {}
    for name, share in (("true_masks", 0.0), ("imperfect_masks", 1.0)):
        held_out = make_examples(unseen, replace(examples, imperfect=share), training, workdir, progress)
        scores[name] = evaluate_picker(picker, held_out, clustering=clustering)
        progress(f"{name}: F1 {scores[name]['f1']:.3f} on {scores[name]['particles']} particles")
    notes = {
        "trained_on": f"{n_phantoms} simulated tomograms, seeds {seed} to {seed + n_phantoms - 1}",
        "examples": asdict(examples),
        "training": asdict(training),
        "clustering": asdict(clustering),
        "settings": suiting_settings(clustering),
        "scores": scores,
        "membrain_cloud": membrain_cloud.__version__,
    }
    save_picker(replace(picker, notes=notes), output)
    return scores


def make_examples(
    seeds: Sequence[int],
    settings: PhantomExamples,
    training: PickerTraining,
    workdir: Path | None,
    progress: Report,
    *,
    phantom: PhantomSettings | None = None,
) -> list[PickingExample]:
    """The membranes of phantoms as examples; those kept in `workdir` are not made again.

    phantom : how they are simulated; None: in many ways, as `random_phantom` does.
    """
    made: list[PickingExample] = []
    key = json.dumps([asdict(settings), training.offsets_angstrom, training.spline_order, training.classes])
    if phantom is not None:
        key += json.dumps(asdict(phantom))
    for count, seed in enumerate(seeds, start=1):
        kept = None if workdir is None else workdir / f"examples-{settings.imperfect:g}-{seed}.npz"
        found = None if kept is None else _load_examples(kept, key)
        if found is None:
            found = phantom_examples(
                random_phantom(seed, settings) if phantom is None else make_phantom(seed, phantom),
                settings,
                offsets_angstrom=training.offsets_angstrom,
                spline_order=training.spline_order,
                seed=seed,
                classes=training.classes,
            )
            if kept is not None:
                _save_examples(kept, key, found)
        made += found
        progress(f"phantom {count} of {len(seeds)}: {len(found)} membranes")
    return made


def _save_examples(path: Path, key: str, examples: Sequence[PickingExample]) -> None:
    arrays: dict[str, NDArray[Any]] = {"key": np.array(key), "count": np.array(len(examples))}
    for index, example in enumerate(examples):
        arrays[f"vertices{index}"], arrays[f"faces{index}"] = example.mesh.vertices, example.mesh.faces
        arrays[f"profiles{index}"], arrays[f"positions{index}"] = example.profiles, example.particles.positions
        arrays[f"orientations{index}"] = _orientations(example.particles)
        if example.kinds is not None:
            arrays[f"kinds{index}"] = example.kinds
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def _load_examples(path: Path, key: str) -> list[PickingExample] | None:
    """The examples kept at `path`; None where there are none, or others."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return [
                PickingExample(
                    Mesh(stored[f"vertices{index}"], stored[f"faces{index}"]),
                    stored[f"profiles{index}"],
                    Picks(stored[f"positions{index}"], stored[f"orientations{index}"]),
                    stored.get(f"kinds{index}"),
                )
                for index in range(int(stored["count"]))
            ]
    except (FileNotFoundError, zipfile.BadZipFile, KeyError):
        return None


def _orientations(particles: Picks) -> NDArray[np.float64]:
    if particles.orientations is None:
        raise ValueError("examples from phantoms have orientations")
    return particles.orientations
