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
class SimulatedTomogram:
    """A tomogram to simulate.

    Attributes
    ----------
    run : str
        Name of its run.
    seed : int
        Seed of its random numbers.
    phantom : PhantomSettings
        Its content and imaging.
    """

    run: str
    seed: int
    phantom: PhantomSettings

    @property
    def ref(self) -> TomogramRef:
        """Its reference in the project, of type `wbp`."""
        return TomogramRef(self.run, "wbp", self.phantom.voxel_spacing_angstrom)


def simulate_project(
    folder: str,
    tomograms: Sequence[SimulatedTomogram],
    *,
    particle: str,
    processes: int,
    report: Callable[[str], None],
) -> Project:
    """Make a project of simulated tomograms, or complete it; complete tomograms are kept.

    Parameters
    ----------
    folder : str
        Path of the project.
    tomograms : sequence of SimulatedTomogram
        The tomograms.
    particle : str
        Name of the object under which the true particles are stored.
    processes : int
        Largest number of processes.
    report : callable
        Called with a line of text after each tomogram.

    Returns
    -------
    Project
        The project.
    """
    objects = [(MEMBRANE, False, GENE_ONTOLOGY_MEMBRANE), (particle, True, None)]
    project = create_project(folder, objects=objects)
    missing = [tomogram for tomogram in tomograms if not project.is_complete(tomogram.ref)]
    if missing:
        with ProcessPoolExecutor(min(processes, len(missing)), mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_simulate, project.config, tomogram, particle) for tomogram in missing]
            for job in jobs:
                report(job.result())
    return project


def true_areas_nm2(project: Project, run: str) -> dict[int, float] | None:
    """Return the areas of a simulated run's membranes.

    Parameters
    ----------
    project : Project
        The project of simulated tomograms.
    run : str
        Name of the run.

    Returns
    -------
    dict of int to float, or None
        Area of each membrane's mid-surface in nm², by its label; None for a run that was not simulated.
    """
    record = project.receipts.read(_record_name(run))
    return None if record is None else {int(label): area for label, area in record["membrane_areas_nm2"].items()}


def true_picks(run: str, particle: str) -> ObjectRef:
    """Return the reference of the true particles' centres, in the middle of the membrane.

    Parameters
    ----------
    run : str
        Name of the run.
    particle : str
        Name of the particles' object.
    """
    return ObjectRef(run, particle, TRUTH_USER, TRUTH_SESSION)


def true_picks_at_surface(run: str, particle: str) -> ObjectRef:
    """Return the reference of the true particles at the label's surface, where distances along a mesh are measured.

    Parameters
    ----------
    run : str
        Name of the run.
    particle : str
        Name of the particles' object.
    """
    return ObjectRef(run, particle, TRUTH_USER, SURFACE_SESSION)


def _at_surface(picks: Picks) -> Picks:
    """Move picks from the middle of the membrane along their z axes to the label's surface."""
    assert picks.orientations is not None
    return replace(picks, positions=picks.positions + HALF_THICKNESS_ANGSTROM * picks.orientations[:, :, 2])


def _record_name(run: str) -> str:
    return f"simulation/{run}"


def _simulate(config: str, tomogram: SimulatedTomogram, particle: str) -> str:
    """Simulate one tomogram into the project; it is written after the truth, since it marks the run as complete."""
    project = CopickProject.open(config)
    phantom = make_phantom(tomogram.seed, tomogram.phantom)
    spacing = phantom.voxel_spacing_angstrom
    for instance, volume in ((False, phantom.labels), (True, phantom.instances)):
        ref = SegmentationRef(tomogram.run, MEMBRANE, TRUTH_USER, TRUTH_SESSION, spacing, instance)
        project.write_segmentation(ref, volume)
    particles = phantom.particles
    project.write_picks(true_picks(tomogram.run, particle), particles)
    project.write_picks(true_picks_at_surface(tomogram.run, particle), _at_surface(particles))
    record: dict[str, Any] = {
        "seed": tomogram.seed,
        "phantom": asdict(tomogram.phantom),
        "membrane_areas_nm2": {str(label): area for label, area in phantom.membrane_areas_nm2.items()},
        "membrane_kinds": {str(label): kind for label, kind in phantom.membrane_kinds.items()},
        "particle_classes": list(phantom.particle_classes),
    }
    project.receipts.write(_record_name(tomogram.run), record)
    project.write_tomogram(tomogram.ref, phantom.density)
    shape, membranes = " x ".join(map(str, tomogram.phantom.shape)), len(phantom.membrane_areas_nm2)
    return f"{tomogram.run}: {shape} voxels, {membranes} membranes, {len(particles)} particles"
