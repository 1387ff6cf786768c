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
    join_particles,
    read_training_folder,
)
from membrain_cloud.pipeline.training.picker_defaults import (
    PICKER_EXAMPLES,
    PICKER_TRAINING,
    SUBVOLUME_TRAINING,
    Report,
    require_phantom_classes,
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

# Seeds of the phantoms of a learning curve, which no other training uses.
ROUND_SEEDS = {"train": range(7000, 7010), "val": range(7100, 7101), "test": range(7200, 7203)}
# Runs that a line of progress names at most.
_NAMED_RUNS = 5
Network = Literal["profiles", "subvolumes"]
Training = PickerTraining | SubvolumeTraining
Membrane = tuple[Mesh, Read, Grid, tuple[Picks, ...]]
"""Mesh, reader and grid of its tomogram, and the particles of each class on it."""


@dataclass(frozen=True, eq=False)
class PickerData:
    """Membranes of a training, and the settings that suit them.

    Attributes
    ----------
    train, validation, test : sequence of PickingExample or SubvolumeExample
        Membranes to train on, to choose epoch and clustering by, and to score on. The latter two may be empty.
    training : PickerTraining or SubvolumeTraining
        Settings of the training.
    about : mapping
        Where the membranes come from, for the model's header.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    training: Training
    about: Mapping[str, Any]

    def counts(self) -> dict[str, int]:
        """Return the number of particles of each class in `train`, by name."""
        names = self.training.classes or ("particles",)
        each = [
            example.of_classes(len(names)) if isinstance(example, PickingExample) else example.particles
            for example in self.train
        ]
        return {name: sum(len(parts[k]) for parts in each) for k, name in enumerate(names)}


@dataclass(frozen=True)
class RunSplit:
    """Runs of a project by their use.

    Attributes
    ----------
    train : sequence of str
        Runs to train on; empty: all others that have the annotations.
    validation, test : sequence of str
        Runs to validate and to test with.
    """

    train: Sequence[str] = ()
    validation: Sequence[str] = ()
    test: Sequence[str] = ()

    @property
    def held_out(self) -> set[str]:
        """Return the runs that are not trained on."""
        return {*self.validation, *self.test}

    def check(self) -> None:
        """Check that every run is named once.

        Raises
        ------
        UsageError
            If one is named twice.
        """
        both = sorted(({*self.train} & self.held_out) | ({*self.validation} & {*self.test}))
        if both:
            raise UsageError(f"run {both[0]} is in two parts", "name each run once: to train, to validate or to test")


def folder_data(folder: str, *, voxel_spacing_angstrom: float | None, classes: Sequence[str]) -> PickerData:
    """Read the membranes of a folder in MemBrain-pick's layout.

    Parameters
    ----------
    folder, voxel_spacing_angstrom, classes
        As in `membrain_pick_folder.read_training_folder`, whose errors are passed on.

    Returns
    -------
    data : PickerData
        The membranes, and the settings of MemBrain-pick's network.

    Raises
    ------
    InputError
        If a class has no particle to train on.
    """
    kinds = tuple(check_object_name(name, "class") for name in classes)
    parts = read_training_folder(folder, voxel_spacing_angstrom=voxel_spacing_angstrom, classes=kinds)
    # MemBrain-pick's network on its samples. Its patches of 2000 vertices would take more than twice the time.
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
    return _require_each_class(
        PickerData(parts["train"], parts["val"], parts.get("test", parts["val"]), training, about)
    )


def project_data(
    config: str,
    *,
    runs: RunSplit,
    meshes: str,
    picks: Mapping[str, str],
    network: Network,
    shapes: Sequence[ParticleShape],
    progress: Report = lambda _: None,
) -> PickerData:
    """Read the membranes of a project's meshes and picks.

    Parameters
    ----------
    config : str
        Config of the project.
    runs : RunSplit
        Runs to train, validate and test on.
    meshes : str
        URI of the meshes, such as `membrane:alice/1`.
    picks : mapping of str to str
        URI of the particles of each class, by its name. The name of a single class may be empty.
    network : {"profiles", "subvolumes"}
        Kind of the network.
    shapes : sequence of tuple of float
        Half axes of each class, in Å (`training.picking.targets`); empty for Euclidean distances.
    progress : callable
        Called with a line of text on runs that are left out, because they lack some of the annotations.

    Returns
    -------
    data : PickerData
        The membranes; without test runs, validation membranes are used for the test.

    Raises
    ------
    UsageError
        If there are not as many shapes as classes, or a run is in two parts.
    ProjectError
        If an annotation is absent.
    InputError
        If a class has no particle on the meshes that are trained on.
    """
    classes = tuple(check_object_name(name, "class") for name in picks if name)
    if shapes and len(shapes) != len(picks):
        raise UsageError(f"{len(shapes)} shapes for {len(picks)} kinds of particles", "give one shape for each kind")
    runs.check()
    project = open_project(config)
    own = list(runs.train) or _annotated_runs(project, runs.held_out, [meshes, *picks.values()], progress)
    base = PICKER_TRAINING if network == "profiles" else SUBVOLUME_TRAINING
    training: Training = replace(base, classes=classes, shapes=tuple(shapes))
    parts = [
        [
            _example(membrane, training, whole=whole)
            for membrane in _membranes(project, names, meshes, list(picks.values()))
        ]
        for names, whole in ((own, False), (runs.validation, True), (runs.test, True))
    ]
    if not sum(example.count for example in parts[0]):
        raise InputError(
            f"no particle lies within {REACH_ANGSTROM:g} Å of any of {len(parts[0])} meshes", "check the URIs"
        )
    about = {"runs": own, "meshes": meshes, "picks": dict(picks)}
    return _require_each_class(PickerData(parts[0], parts[1], parts[2] or parts[1], training, about))


def _annotated_runs(project: Project, held_out: Set[str], uris: Sequence[str], progress: Report) -> list[str]:
    """Return the runs that are not held out and have all of the annotations. ProjectError if there are none."""
    others = [run for run in project.runs() if run not in held_out]
    annotated = []
    for run in others:
        with contextlib.suppress(ProjectError):
            for uri in uris:
                project.object(run, uri)
            annotated.append(run)
    if not annotated:
        raise ProjectError(
            f"{project.config}: none of {len(others)} runs to train on has {' and '.join(uris)}", "check the URIs"
        )
    if omitted := [run for run in others if run not in annotated]:
        some = ", ".join(omitted[:_NAMED_RUNS]) + (" ..." if len(omitted) > _NAMED_RUNS else "")
        progress(f"{len(omitted)} runs lack some of these annotations and are left out: {some}")
    return annotated


def _require_each_class(data: PickerData) -> PickerData:
    """Return `data`. InputError if a class has no particle to train on."""
    for kind, count in data.counts().items():
        if not count:
            raise InputError(
                f"not one particle of {kind!r} lies on the {len(data.train)} membranes to train on",
                "add some, or leave this kind out",
            )
    return data


def phantom_data(work: Path, *, classes: Sequence[str], progress: Report) -> PickerData:
    """Make the membranes of phantoms like the demo's, with true masks, for a learning curve.

    Each membrane of a phantom carries one kind of particle. Without classes there are three kinds, so that a single
    membrane does not show the other two. With classes, phantoms have these kinds only.

    Parameters
    ----------
    work : Path
        Folder that keeps the membranes in its subfolder `phantoms`.
    classes : sequence of str
        Kinds of particles; empty for a single class of all kinds.
    progress : callable
        Called with a line of text for each phantom.

    Returns
    -------
    data : PickerData
        The membranes.

    Raises
    ------
    UsageError
        If phantoms do not have such a kind.
    """
    require_phantom_classes(classes)
    phantom = replace(PhantomSettings(), particles=tuple(classes)) if classes else PhantomSettings()
    training = replace(PICKER_TRAINING, classes=tuple(classes))
    examples = replace(PICKER_EXAMPLES, imperfect=0.0, decoys=0, surfaces="masks")
    parts = {
        name: make_examples(seeds, examples, training, work / "phantoms", progress, phantom=phantom)
        for name, seeds in ROUND_SEEDS.items()
    }
    about = {name: f"phantoms {seeds[0]} to {seeds[-1]}" for name, seeds in ROUND_SEEDS.items()}
    return PickerData(parts["train"], parts["val"], parts["test"], training, about)


def _example(membrane: Membrane, training: Training, *, whole: bool) -> Example:
    """Return the example of a membrane; `whole` if it is also picked on."""
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
    return PickingExample(mesh, profiles, join_particles(particles), kinds)


def subvolume_example(
    mesh: Mesh,
    read: Read,
    grid: Grid,
    particles: tuple[Picks, ...],
    *,
    spacing_angstrom: float,
    whole: bool = False,
) -> SubvolumeExample:
    """Sample boxes of density around the vertices of a mesh.

    Parameters
    ----------
    mesh : Mesh
        The membrane, in Å.
    read : callable
        Takes a `Box` and returns its density.
    grid : Grid
        Grid of the tomogram.
    particles : tuple of Picks
        The particles of each class.
    spacing_angstrom : float
        Voxel spacing of the boxes, in Å.
    whole : bool
        Whether all vertices get a box. Default: a few thousand of a large mesh, evenly spaced.

    Returns
    -------
    example : SubvolumeExample
        It has its mesh if it is whole.
    """
    normals = mesh.vertex_normals()
    some = np.arange(len(normals)) if whole else vertices_for_scale(len(normals))
    boxes = subvolumes_from_volume(
        read, grid, mesh.vertices[some], normals[some], edge=EDGE, spacing_angstrom=spacing_angstrom, outside=0.0
    )
    return SubvolumeExample(mesh.vertices[some], normals[some], boxes, particles, mesh if whole else None)


def _membranes(project: Project, runs: Sequence[str], meshes: str, picks: Sequence[str]) -> Iterator[Membrane]:
    """Yield the membranes of the runs with the particles on each."""
    for run in runs:
        tomogram = project.tomograms([run], None, None)[0]
        grid = project.grid(tomogram)
        surfaces = project.read_meshes(project.object(run, meshes))
        particles = [project.read_picks(project.object(run, uri)) for uri in picks]
        owners = [nearest_membranes(surfaces, p.positions, within_angstrom=REACH_ANGSTROM) for p in particles]
        for number, mesh in sorted(surfaces.items()):
            on_it = tuple(p.select(owner == number) for p, owner in zip(particles, owners, strict=True))
            yield mesh, functools.partial(project.read_density, tomogram), grid, on_it
