"""Membranes to train a picker on: of a copick project, of a folder in MemBrain-pick's layout, or of phantoms."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.density_sampling import Read, profiles_from_volume, subvolumes_from_volume
from membrain_cloud.networks.picking.subvolume_net import EDGE
from membrain_cloud.picking.assignment import nearest_membranes
from membrain_cloud.picking.vertex_scores import vertices_for_scale
from membrain_cloud.pipeline.training.membrain_pick_folder import (
    OFFSETS_ANGSTROM,
    REACH_ANGSTROM,
    read_training_folder,
    together,
)
from membrain_cloud.pipeline.training.picker_defaults import (
    PICKER_EXAMPLES,
    PICKER_TRAINING,
    SUBVOLUME_TRAINING,
    Report,
    check_phantom_classes,
)
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import check_object_name
from membrain_cloud.training.picking.built_in_picker import make_examples
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample
from membrain_cloud.training.picking.profile_picker import PickerTraining
from membrain_cloud.training.picking.subvolume_picker import SubvolumeTraining

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.training.picking.targets import ParticleShape

# Phantoms of the incremental protocol: those of the demo's kind, on seeds that nothing else takes.
ROUND_SEEDS = {"train": range(7000, 7010), "val": range(7100, 7101), "test": range(7200, 7203)}
Network = Literal["profiles", "subvolumes"]
Training = PickerTraining | SubvolumeTraining
Membrane = tuple[Mesh, Read, Grid, tuple[Picks, ...]]


@dataclass(frozen=True, eq=False)
class Material:
    """train, validation, test : membranes; those of the latter two are never trained on, and may be none.
    training : the settings that suit them.  about : where they are from, for the model's header.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    training: Training
    about: Mapping[str, Any]

    def counts(self) -> dict[str, int]:
        """Particles of each kind in `train`, by name."""
        names = self.training.classes or ("particles",)
        each = [
            example.of_classes(len(names)) if isinstance(example, PickingExample) else example.particles
            for example in self.train
        ]
        return {name: sum(len(parts[k]) for parts in each) for k, name in enumerate(names)}


def folder_material(folder: str, *, voxel_spacing_angstrom: float | None, classes: Sequence[str]) -> Material:
    """Of a folder in MemBrain-pick's layout; raises as `picker_folder.read_training_folder`."""
    kinds = tuple(check_object_name(name, "class") for name in classes)
    parts = read_training_folder(folder, voxel_spacing_angstrom=voxel_spacing_angstrom, classes=kinds)
    # the network of MemBrain-pick, on its samples; its patches of 2000 vertices take more than twice as long as ours
    training = replace(
        PICKER_TRAINING,
        offsets_angstrom=OFFSETS_ANGSTROM,
        window=16,
        width=16,
        spline_order=3,
        epochs=100,
        classes=kinds,
    )
    about = {"folder": Path(folder).name, "voxel_spacing_angstrom": voxel_spacing_angstrom}
    return _with_each_kind(Material(parts["train"], parts["val"], parts.get("test", parts["val"]), training, about))


def project_material(
    config: str,
    *,
    runs: Sequence[str],
    validation_runs: Sequence[str],
    test_runs: Sequence[str],
    meshes: str,
    picks: Mapping[str, str],
    network: Network,
    shapes: Sequence[ParticleShape],
    progress: Report = lambda _: None,
) -> Material:
    """Of a project's meshes and picks.

    runs : to train on; empty: all with these annotations that are neither to validate nor to test with.
    meshes : URI of the meshes, `membrane:alice/1`.  picks : class name -> URI of its particles; a single class may
    have the name "".  network : which of the two.  shapes : as `training.targets` has them, one a class.
    progress : is told which runs are left out, since they lack some of the annotations.

    Raises UsageError for shapes that are not as many as the kinds and runs that are in two parts, ProjectError where an
    annotation is absent, InputError where no particle, or none of some kind, lies on any of the meshes.
    """
    classes = tuple(check_object_name(name, "class") for name in picks if name)
    if shapes and len(shapes) != len(picks):
        raise UsageError(f"{len(shapes)} shapes for {len(picks)} kinds of particles", "give --shape once for each")
    apart = {*validation_runs, *test_runs}
    if both := sorted(({*runs} & apart) | ({*validation_runs} & {*test_runs})):
        raise UsageError(f"run {both[0]} is in two parts", "name each run once: to train, to validate or to test")
    project = open_project(config)
    own = list(runs) or _annotated(project, apart, [meshes, *picks.values()], progress)
    base = PICKER_TRAINING if network == "profiles" else SUBVOLUME_TRAINING
    training: Training = replace(base, classes=classes, shapes=tuple(shapes))
    parts = [
        [
            _example(membrane, training, whole=whole)
            for membrane in _membranes(project, some, meshes, list(picks.values()))
        ]
        for some, whole in ((own, False), (validation_runs, True), (test_runs, True))
    ]
    if not sum(example.count for example in parts[0]):
        raise InputError(
            f"no particle lies within {REACH_ANGSTROM:g} Å of any of {len(parts[0])} meshes", "check the URIs"
        )
    about = {"runs": own, "meshes": meshes, "picks": dict(picks)}
    return _with_each_kind(Material(parts[0], parts[1], parts[2] or parts[1], training, about))


def _annotated(project: Project, apart: Set[str], uris: Sequence[str], progress: Report) -> list[str]:
    """The other runs that have all of the annotations. ProjectError where none has."""
    others = [run for run in project.runs() if run not in apart]
    own = []
    for run in others:
        with contextlib.suppress(ProjectError):
            for uri in uris:
                project.object(run, uri)
            own.append(run)
    if not own:
        raise ProjectError(
            f"{project.config}: none of {len(others)} runs to train on has {' and '.join(uris)}", "check the URIs"
        )
    if left := [run for run in others if run not in own]:
        some = ", ".join(left[:5]) + (" ..." if len(left) > 5 else "")
        progress(f"{len(left)} runs lack some of these annotations and are left out: {some}")
    return own


def _with_each_kind(material: Material) -> Material:
    """The material. InputError where it has no particle of some kind to train on."""
    for kind, count in material.counts().items():
        if not count:
            raise InputError(
                f"not one particle of {kind!r} lies on the {len(material.train)} membranes to train on",
                "add some, or leave this kind out",
            )
    return material


def phantom_material(work: Path, *, classes: Sequence[str], progress: Report) -> Material:
    """Of phantoms as the demo's, with true masks, for the incremental protocol; kept in `work`.

    Each membrane of a phantom carries one kind of particle. Without classes there are three kinds, and of a single
    membrane nobody can learn the other two; with classes the phantoms have these kinds alone.
    """
    check_phantom_classes(classes)
    phantom = replace(PhantomSettings(), particles=tuple(classes)) if classes else PhantomSettings()
    training = replace(PICKER_TRAINING, classes=tuple(classes))
    examples = replace(PICKER_EXAMPLES, imperfect=0.0, decoys=0, surfaces="masks")
    parts = {
        name: make_examples(seeds, examples, training, work / "phantoms", progress, phantom=phantom)
        for name, seeds in ROUND_SEEDS.items()
    }
    about = {name: f"phantoms {seeds[0]} to {seeds[-1]}" for name, seeds in ROUND_SEEDS.items()}
    return Material(parts["train"], parts["val"], parts["test"], training, about)


def _example(membrane: Membrane, training: Training, *, whole: bool) -> Example:
    """Whole : the membrane shall be picked on, not only trained on."""
    mesh, read, grid, particles = membrane
    if isinstance(training, SubvolumeTraining):
        return subvolume_example(*membrane, spacing_angstrom=training.spacing_angstrom, whole=whole)
    profiles = profiles_from_volume(
        read,
        grid,
        mesh.vertices,
        mesh.vertex_normals(),
        np.array(training.offsets_angstrom),
        outside=0.0,
        spline_order=training.spline_order,
    )
    kinds = np.concatenate([np.full(len(of_kind), k) for k, of_kind in enumerate(particles)])
    return PickingExample(mesh, profiles, together(particles), kinds)


def subvolume_example(
    mesh: Mesh,
    read: Read,
    grid: Grid,
    particles: tuple[Picks, ...],
    *,
    spacing_angstrom: float,
    whole: bool = False,
) -> SubvolumeExample:
    """Boxes around the vertices of a mesh: of a large one around a few thousand, evenly chosen, or `whole`, all."""
    normals = mesh.vertex_normals()
    some = np.arange(len(normals)) if whole else vertices_for_scale(len(normals))
    boxes = subvolumes_from_volume(
        read, grid, mesh.vertices[some], normals[some], edge=EDGE, spacing_angstrom=spacing_angstrom, outside=0.0
    )
    return SubvolumeExample(mesh.vertices[some], normals[some], boxes, particles, mesh if whole else None)


def _membranes(project: Project, runs: Sequence[str], meshes: str, picks: Sequence[str]) -> Iterator[Membrane]:
    """The membranes of the runs with the particles that lie on each."""
    for run in runs:
        tomogram = project.tomograms([run], None, None)[0]
        grid = project.grid(tomogram)
        surfaces = project.read_meshes(project.object(run, meshes))
        particles = [project.read_picks(project.object(run, uri)) for uri in picks]
        owners = [nearest_membranes(surfaces, p.positions, within_angstrom=REACH_ANGSTROM) for p in particles]
        for number, mesh in sorted(surfaces.items()):
            on_it = tuple(p.select(owner == number) for p, owner in zip(particles, owners, strict=True))
            yield mesh, functools.partial(project.read_density, tomogram), grid, on_it
