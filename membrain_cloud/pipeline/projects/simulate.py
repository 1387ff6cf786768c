"""A project of simulated tomograms, with the truth as annotations of user `truth`, session `0`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.stages.base import GENE_ONTOLOGY_MEMBRANE, MEMBRANE
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from membrain_cloud.geometry import Picks
    from membrain_cloud.store.projects.project import Project

TRUTH_USER, TRUTH_SESSION, SURFACE_SESSION = "truth", "0", "surface"
# From the middle of a simulated membrane to the surface of its label: half the leaflets' distance and 8 Å more.
HALF_THICKNESS_ANGSTROM = 27.0


@dataclass(frozen=True)
class Simulated:
    """A tomogram to simulate."""

    run: str
    seed: int
    phantom: PhantomSettings


def simulate_project(
    folder: str, wanted: Sequence[Simulated], *, particle: str, processes: int, report: Callable[[str], None]
) -> Project:
    """Make (or complete) a project of simulated tomograms; those that are there already are kept.

    particle : name of the object under which the true particles are stored.
    """
    objects = [(MEMBRANE, False, GENE_ONTOLOGY_MEMBRANE), (particle, True, None)]
    project = create_project(folder, objects=objects)
    missing = [one for one in wanted if not project.is_complete(_tomogram(one))]
    if missing:
        with ProcessPoolExecutor(min(processes, len(missing)), mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_simulate, project.config, one, particle) for one in missing]
            for job in jobs:
                report(job.result())
    return project


def true_areas_nm2(project: Project, run: str) -> dict[int, float] | None:
    """Areas of the simulated membranes' mid-surfaces; None for a run that was not simulated."""
    facts = project.receipts.read(_facts_name(run))
    return None if facts is None else {int(number): area for number, area in facts["membrane_areas_nm2"].items()}


def true_picks(run: str, particle: str) -> ObjectRef:
    """The particles' centres, in the middle of the membrane."""
    return ObjectRef(run, particle, TRUTH_USER, TRUTH_SESSION)


def true_picks_at_surface(run: str, particle: str) -> ObjectRef:
    """The same, moved to the surface they stand out from: where distances along a mesh are measured."""
    return ObjectRef(run, particle, TRUTH_USER, SURFACE_SESSION)


def _at_surface(picks: Picks) -> Picks:
    assert picks.orientations is not None
    return replace(picks, positions=picks.positions + HALF_THICKNESS_ANGSTROM * picks.orientations[:, :, 2])


def _tomogram(one: Simulated) -> TomogramRef:
    return TomogramRef(one.run, "wbp", one.phantom.voxel_spacing_angstrom)


def _facts_name(run: str) -> str:
    return f"simulation/{run}"


def _simulate(config: str, one: Simulated, particle: str) -> str:
    """Simulate one tomogram into the project: truth first, the tomogram last, since that says that all is there."""
    project = CopickProject.open(config)
    phantom = make_phantom(one.seed, one.phantom)
    spacing = phantom.voxel_spacing_angstrom
    for instance, volume in ((False, phantom.labels), (True, phantom.instances)):
        ref = SegmentationRef(one.run, MEMBRANE, TRUTH_USER, TRUTH_SESSION, spacing, instance)
        project.write_segmentation(ref, volume)
    particles = phantom.particles
    project.write_picks(true_picks(one.run, particle), particles)
    project.write_picks(true_picks_at_surface(one.run, particle), _at_surface(particles))
    facts: dict[str, Any] = {
        "seed": one.seed,
        "phantom": asdict(one.phantom),
        "membrane_areas_nm2": {str(number): area for number, area in phantom.membrane_areas_nm2.items()},
        "membrane_kinds": {str(number): kind for number, kind in phantom.membrane_kinds.items()},
        "particle_classes": list(phantom.particle_classes),
    }
    project.receipts.write(_facts_name(one.run), facts)
    project.write_tomogram(_tomogram(one), phantom.density)
    count = len(phantom.membrane_areas_nm2)
    return f"{one.run}: {' x '.join(map(str, one.phantom.shape))} voxels, {count} membranes, {len(particles)} particles"
