"""Training a picker on one's own membranes: meshes and picks of a copick project, for either network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import membrain_cloud
from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.membranes.assignment import nearest_membranes
from membrain_cloud.membranes.sampling import Read, profiles_from_volume, subvolumes_from_volume
from membrain_cloud.membranes.scoring import evenly_chosen
from membrain_cloud.networks.picker import AnyPicker, save_picker
from membrain_cloud.networks.subvolume_net import EDGE
from membrain_cloud.pipeline.learning import PICKER_TRAINING, SUBVOLUME_TRAINING
from membrain_cloud.store.opening import open_project
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import check_object_name
from membrain_cloud.training.picker_loop import PickingExample, train_picker
from membrain_cloud.training.subvolume_loop import SubvolumeExample, train_subvolume_picker
from membrain_cloud.training.targets import ParticleShape

# A particle whose centre lies farther from every mesh is on none of them.
REACH_ANGSTROM = 80.0

Membrane = tuple[Mesh, Read, Grid, tuple[Picks, ...]]


def train_on_project(
    config: str,
    output: str,
    work: str,
    *,
    runs: Sequence[str],
    meshes: str,
    picks: Mapping[str, str],
    network: Literal["profiles", "subvolumes"],
    shapes: Sequence[ParticleShape],
    values: Mapping[str, int],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Train a picker on a project's membranes and write it; returns what it was trained on.

    meshes : URI of the meshes, `membrane:alice/1`.  picks : class name -> URI of its particles; a single class may
    have the name "".  network : which of the two.  shapes : as `training.targets` has them, one a class.
    values : `epochs` and `seed`, where they are not the defaults.

    Raises UsageError for shapes that are not as many as the kinds, ProjectError where an annotation is absent,
    InputError where no particle lies on any of the meshes.
    """
    classes = tuple(check_object_name(name, "class") for name in picks if name)
    if shapes and len(shapes) != len(picks):
        raise UsageError(f"{len(shapes)} shapes for {len(picks)} kinds of particles", "give --shape once for each")
    project = open_project(config)
    membranes = list(_membranes(project, runs or project.runs(), meshes, list(picks.values())))
    counts = {name or "particles": sum(len(m[3][k]) for m in membranes) for k, name in enumerate(picks)}
    if not sum(counts.values()):
        raise InputError(
            f"no particle lies within {REACH_ANGSTROM:g} Å of any of {len(membranes)} meshes", "check the URIs"
        )
    progress(f"{len(membranes)} membranes, particles: {', '.join(f'{n} {c}' for n, c in counts.items())}")
    chosen = {"classes": classes, "shapes": tuple(shapes), **values}
    found = _train(network, membranes, chosen, Path(work), progress)
    told = {"membranes": len(membranes), "particles": counts, "network": network}
    notes = {
        "trained_on": told | {"runs": list(runs), "meshes": meshes, "picks": dict(picks)},
        "membrain_cloud": membrain_cloud.__version__,
    }
    save_picker(replace(found, notes=notes), output)
    return told | {"model": output}


def _train(
    network: str, membranes: Sequence[Membrane], chosen: Mapping[str, Any], work: Path, progress: Callable[[str], None]
) -> AnyPicker:
    def report(epochs: int, epoch: int, loss: float) -> None:
        progress(f"epoch {epoch} of {epochs}: loss {loss:.3f}")

    if network == "subvolumes":
        slow = replace(SUBVOLUME_TRAINING, **chosen)
        boxed = [subvolume_example(*membrane, spacing_angstrom=slow.spacing_angstrom) for membrane in membranes]
        return train_subvolume_picker(
            boxed,
            settings=slow,
            checkpoint=work / "subvolume-training.pt",
            progress=functools.partial(report, slow.epochs),
        )
    settings = replace(PICKER_TRAINING, **chosen)
    examples = []
    for mesh, read, grid, particles in membranes:
        profiles = profiles_from_volume(
            read,
            grid,
            mesh.vertices,
            mesh.vertex_normals(),
            np.array(settings.offsets_angstrom),
            outside=0.0,
            spline_order=settings.spline_order,
        )
        kinds = np.concatenate([np.full(len(of_kind), k) for k, of_kind in enumerate(particles)])
        examples.append(PickingExample(mesh, profiles, _together(particles), kinds))
    return train_picker(
        examples,
        settings=settings,
        checkpoint=work / "picker-training.pt",
        progress=functools.partial(report, settings.epochs),
    )


def subvolume_example(
    mesh: Mesh, read: Read, grid: Grid, particles: tuple[Picks, ...], *, spacing_angstrom: float
) -> SubvolumeExample:
    """Boxes around the vertices of a mesh: of a large one around a few thousand, evenly chosen."""
    normals, some = mesh.vertex_normals(), evenly_chosen(len(mesh.vertices))
    boxes = subvolumes_from_volume(
        read, grid, mesh.vertices[some], normals[some], edge=EDGE, spacing_angstrom=spacing_angstrom, outside=0.0
    )
    return SubvolumeExample(mesh.vertices[some], normals[some], boxes, particles)


def _membranes(project: Project, runs: Sequence[str], meshes: str, picks: Sequence[str]) -> Iterator[Membrane]:
    """The membranes of the runs with the particles that lie on each."""
    for run in runs:
        tomogram = project.tomograms([run], None, None)[0]
        grid = project.grid(tomogram)
        surfaces = project.read_meshes(project.object(run, meshes))
        particles = [project.read_picks(project.object(run, uri)) for uri in picks]
        owners = [nearest_membranes(surfaces, p.positions, within_angstrom=REACH_ANGSTROM) for p in particles]
        for number, mesh in sorted(surfaces.items()):
            on_it = tuple(p.chosen(owner == number) for p, owner in zip(particles, owners, strict=True))
            yield mesh, functools.partial(project.read_density, tomogram), grid, on_it


def _together(particles: Sequence[Picks]) -> Picks:
    turned = [p.orientations for p in particles if p.orientations is not None]
    return Picks(
        np.concatenate([p.positions for p in particles]),
        np.concatenate(turned) if len(turned) == len(particles) else None,
    )
