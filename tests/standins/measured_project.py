"""A project with the tables of two runs, measured on a synthetic specimen.

Two vesicles with two leaflets, two kinds of particles on them, and a density in which the bilayers are resolved. In the
first run particles lie at random, in the second one kind lies in clusters of five.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import Box, Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.pipeline.settings import MeasureSettings
from membrain_cloud.statistics.context.organelles import LabelVolume, OrganelleRules, assign_organelles
from membrain_cloud.statistics.context.particle_context import membranes_around, particle_context_rows
from membrain_cloud.statistics.measure import Density, Membrane, measure_tomogram, tomogram_row
from membrain_cloud.store.projects.create import MEMBRANE_OBJECT, create_project
from membrain_cloud.store.run_state.receipts import receipt_name
from membrain_cloud.store.tables.parquet_tables import Tables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GRID = Grid((52, 52, 92), 10.0)
# Membrane -> x of the centre and radius of the mid-surface, in voxels; the centres lie at y = z = 26.
VESICLES = {1: (25.0, 14.0), 2: (66.0, 17.0)}
N_PSII, N_CYTB6F = 50, 12
OPTIONS = MeasureSettings(cutoff_nm=20.0, simulations=39, chain_distance_nm=6.0, symmetry=2).options()


def distances(number: int) -> NDArray[np.float64]:
    """Return the distance of each voxel to the vesicle's mid-surface, zyx, in voxels."""
    z, y, x = np.indices(GRID.shape)
    centre, radius = VESICLES[number]
    return np.asarray(np.sqrt((z - 26.0) ** 2 + (y - 26.0) ** 2 + (x - centre) ** 2) - radius)


def mesh_of(number: int) -> Mesh:
    """Return the mesh of a vesicle's mask, five voxels thick."""
    mask = np.abs(distances(number)) < 2.5
    mesh = mesh_membrane(mask, Box((0, 0, 0), GRID.shape), GRID, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
    assert mesh is not None
    return mesh


def density() -> NDArray[np.float32]:
    """Return noise with two dark lines 4 nm apart along each vesicle."""
    dark = sum(np.exp(-0.5 * ((distances(n) - side) / 0.7) ** 2) for n in VESICLES for side in (-2.0, 2.0))
    noise = np.random.default_rng(0).normal(0.0, 0.05, GRID.shape)
    return np.asarray(noise - dark, np.float32)


def directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return random unit vectors, (count, 3)."""
    vectors = rng.normal(size=(count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def particles(number: int, clustered: bool) -> tuple[Picks, list[str]]:
    """Return psii on the outer leaflet, at random or in clusters of five, and cytb6f at random; and their names."""
    rng = np.random.default_rng([number, clustered])
    centre, radius = VESICLES[number]
    if clustered:
        normals = np.repeat(directions(N_PSII // 5, rng), 5, axis=0) + rng.normal(0.0, 0.1, (N_PSII, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    else:
        normals = directions(N_PSII, rng)
    normals = np.concatenate([normals, directions(N_CYTB6F, rng)])
    orientations = orientations_from_normals(normals, rng.uniform(0.0, 2.0 * np.pi, len(normals)))
    positions = 10.0 * (np.array([centre, 26.0, 26.0]) + (radius + 3.0) * normals)
    return Picks(positions, orientations), ["psii"] * N_PSII + ["cytb6f"] * N_CYTB6F


def fill(tables: Tables, dataset: str = "d") -> None:
    """Measure both runs and write their tables."""
    meshes, values = {number: mesh_of(number) for number in VESICLES}, density()
    for run, clustered in (("TS_1", False), ("TS_2", True)):
        keys: dict[str, Any] = {
            "dataset_id": dataset,
            "run_name": run,
            "tomogram_id": "wbp",
            "voxel_spacing_angstrom": 10.0,
            "segmentation": "membrane:membrain/1@10.0?instance=true",
            "digest": "x",
        }
        membranes = {
            number: Membrane(mesh, picks, np.zeros(len(mesh.vertices), bool), names)
            for number, mesh in meshes.items()
            for picks, names in [particles(number, clustered)]
        }
        measured = measure_tomogram(
            membranes,
            grid=GRID,
            options=OPTIONS,
            kinds=["cytb6f", "psii"],
            density_about=lambda _mesh: Density(values, Box((0, 0, 0), GRID.shape), GRID),
        )
        row = tomogram_row(
            GRID,
            n_membranes=2,
            n_failed_membranes=0,
            n_particles=len(measured["particles"]),
            mesh_uri="membrane:membrain/1",
            picks_uri="psii:a/1, cytb6f:a/1",
            density_uri="wbp@10.0",
            lamella_uri=None,
            package_version="0",
            data_version="0",
        )
        for table, rows in (measured | {"tomograms": [row]}).items():
            tables.write_part(table, dataset, f"{run}/wbp", [keys | one for one in rows])
        tables.receipts.write(receipt_name(f"measure/{dataset}/{run}/wbp", "complete", "0" * 64), {"digest": "x"})
        around = membranes_around(membranes, grid=GRID, options=OPTIONS)
        ribosomes = Picks(np.random.default_rng(0).uniform(0.0, 1.0, (40, 3)) * GRID.size_angstrom)
        context = particle_context_rows(
            around, ribosomes, reach_nm=100.0, grid=GRID, object_names="ribosome", picks_uri="ribosome:a/1"
        )
        x = np.indices(GRID.shape)[2]
        organelles = LabelVolume(1 + (x > 46).astype(np.uint8), GRID, {1: "mitochondrion", 2: "endosome"})
        of_membranes, shares = assign_organelles(membranes, [organelles], OrganelleRules(8.0, 0.5, 0.2, 0.9))
        for table, rows in (("membrane_organelles", of_membranes), ("organelle_shares", shares)):
            tables.write_part(table, dataset, f"{run}/wbp", [keys | row for row in rows])
        tables.receipts.write(receipt_name(f"organelle/{dataset}/{run}/wbp", "complete", "0" * 64), {"digest": "x"})
        part = f"{run}/wbp/ribosome_a_1"
        tables.write_part("particle_context", dataset, part, [keys | row for row in context])
        tables.receipts.write(receipt_name(f"context/{dataset}/{part}", "complete", "0" * 64), {"digest": "x"})


def write_project(folder: Path) -> str:
    """Write `project/config.json` and the project's tables into a folder, and return the config's path."""
    create_project(str(folder / "project"), objects=[MEMBRANE_OBJECT])
    fill(Tables(str(folder / "project" / "membrain-cloud" / "tables")))
    return str(folder / "project" / "config.json")
