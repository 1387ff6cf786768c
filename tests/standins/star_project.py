"""A project of three runs for particles of STAR files: two with vesicles of known place, one without membranes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import orientations_from_normals
from membrain_cloud.rotations import relion_angles
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from standins.shapes import Shapes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project

SHAPE, SPACING = (50, 100, 100), 10.0
CENTRES = {"TS_01": np.array([500.0, 500.0, 250.0]), "TS_02": np.array([400.0, 600.0, 250.0])}
OUTER, INNER = 180.0, 140.0
MESHES = "context.meshes=membrane:alice/1"
"""The setting that names the vesicles."""


def make_project(folder: Path) -> Project:
    """Return the project; its runs are TS_01, TS_02 (a vesicle each, number 3) and TS_03 (no membrane)."""
    project = create_project(str(folder / "project"), objects=[("membrane", False, None)])
    for run in ("TS_01", "TS_02", "TS_03"):
        project.write_tomogram(TomogramRef(run, "wbp", SPACING), np.zeros(SHAPE, np.float32))
        shells = {3: Shapes().vesicle(OUTER, INNER, tuple(CENTRES[run]), (800, 600))} if run in CENTRES else {}
        project.write_meshes(ObjectRef(run, "membrane", "alice", "1"), shells)
    return project


def particles(count: int, seed: int) -> tuple[NDArray[np.str_], NDArray[np.float64], NDArray[np.float64]]:
    """Return runs (N,), positions (N, 3) in Å and z axes (N, 3) of particles around both vesicles, in mixed order."""
    rng = np.random.default_rng(seed)
    runs = rng.choice(list(CENTRES), count)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    radius = rng.uniform(60.0, 240.0, count)
    return runs, np.array([CENTRES[run] for run in runs]) + radius[:, None] * axes, axes


def star_text(
    names: NDArray[np.str_] | list[str], positions: NDArray[np.float64], axes: NDArray[np.float64], flavour: str
) -> str:
    """Return particles as the text of a STAR file of a program: relion3.0, relion3.1, relion4, relion5 or warp."""
    angles = relion_angles(orientations_from_normals(axes))
    pixel = 2.5
    name = {"relion4": "rlnTomoName", "relion5": "rlnTomoName"}.get(flavour, "rlnMicrographName")
    coordinates = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    values = positions / pixel
    if flavour == "relion5":
        coordinates = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
        values = positions - np.array(SHAPE[::-1]) * SPACING / 2
    columns = [name, *coordinates, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    tail: list[str] = []
    head = ""
    if flavour in ("relion3.0", "warp"):
        columns.append("rlnPixelSize")
        tail = [str(pixel)]
    else:
        columns.append("rlnOpticsGroup")
        tail = ["1"]
        size = "rlnImagePixelSize" if flavour == "relion3.1" else "rlnTomoTiltSeriesPixelSize"
        head = f"data_optics\n\nloop_\n_rlnOpticsGroup #1\n_{size} #2\n1 {pixel}\n\n"
    lines = [
        "\t".join([str(run), *(f"{value:.6f}" for value in (*place, *angle)), *tail])
        for run, place, angle in zip(names, values, angles, strict=True)
    ]
    block = "data_" if flavour == "relion3.0" else "data_particles"
    return "\n".join([f"{head}{block}", "", "loop_", *(f"_{c} #{k}" for k, c in enumerate(columns, 1)), *lines, ""])
