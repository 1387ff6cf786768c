"""Compile the kernels of the package once, before the tests, so that no test and no process of one waits for it.

numba keeps compiled code beside the sources. It recompiles a changed file, but not the other files whose kernels call
its kernels: after any change all of it is dropped here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

import numba
import numpy as np

import membrain_cloud
from membrain_cloud.image.rank_median import median
from membrain_cloud.mesh.bounding_volume_tree import FaceTree
from membrain_cloud.mesh.shell_sides import membrane_sides
from membrain_cloud.mesh.spectral.heat_method import HeatDistances
from membrain_cloud.mesh.spectral.ldl import BLOCK, Factor, dissection
from membrain_cloud.mesh.spectral.operators import cotan_laplacian, surface_operators
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.picking.clustering import mean_shift
from membrain_cloud.segmentation.split_touching import split_touching
from membrain_cloud.statistics.membrane.gaps import find_gaps
from membrain_cloud.training.augmentation.geometric import cut_patch
from standins.shapes import Shapes

PACKAGE = Path(membrain_cloud.__file__).parent
CACHE = Path(os.environ.get("NUMBA_CACHE_DIR") or PACKAGE)


def compile_once() -> None:
    """Compile all kernels, unless this or another process has done so since the sources changed."""
    folder = CACHE / "__pycache__"
    if not os.access(CACHE, os.W_OK):
        return  # nothing can be kept
    folder.mkdir(exist_ok=True)
    with (folder / "kernels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / f"kernels-{_state_of_sources()}"
        if mark.exists():
            return
        version = f"py{sys.version_info.major}{sys.version_info.minor}"
        for path in PACKAGE.rglob(f"*.{version}*.nb[ic]"):
            path.unlink(missing_ok=True)
        compile_all()
        for old in folder.glob(f"kernels-{version}-*"):
            old.unlink()
        mark.touch()


def _state_of_sources() -> str:
    """Return a hash over all that the compiled code depends on; numba itself goes by times and sizes of files."""
    digest = hashlib.sha256(f"{numba.__version__} {numba.config.CPU_NAME} {sys.flags}".encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_bytes()
        if b"membrain_cloud.jit" in text or path.name == "jit.py":
            digest.update(f"{path} {path.stat().st_mtime_ns}".encode() + text)
    return f"py{sys.version_info.major}{sys.version_info.minor}-{digest.hexdigest()[:16]}"


def compile_all() -> None:
    """Call everything that has kernels on small surfaces and volumes."""
    shell = Shapes().vesicle(80.0, 40.0, counts=(60, 40))
    surface, rng = Surface(shell), np.random.default_rng(0)
    tree = FaceTree(shell.vertices, shell.faces)
    tree.find(shell.vertices)
    tree.project(shell.vertices)
    points = surface.closest_points(shell.vertices[:4])
    surface.survey(points, points, cutoff_angstrom=50.0, edges_angstrom=np.array([0.0, 20.0, 40.0]))
    surface.geodesic_to_vertices(points)
    surface.distance_from_any(points)
    find_gaps({1: shell}, reach_angstrom=100.0)
    membrane_sides(shell, reach_angstrom=60.0)
    surface_operators(shell.vertices, shell.faces, shell.vertex_normals(), eigenpairs=8, length_unit_angstrom=100.0)
    HeatDistances(shell).from_vertex(0)
    matrix = cotan_laplacian(shell.vertices, shell.faces)
    matrix.setdiag(matrix.diagonal() + 1.0)
    factor = Factor(matrix, dissection(matrix, shell.vertices))
    for dtype in (np.float32, np.float64):
        factor.solve(np.ones((len(shell.vertices), BLOCK), dtype))
    mean_shift(shell.vertices, np.zeros(len(shell.vertices)), bandwidth_angstrom=30.0, max_iterations=2)
    mask = np.zeros((16, 32, 32), bool)
    mask[5:10, 4:28, 4:28] = True
    split_touching(mask, min_voxels=10)
    volume = rng.standard_normal((8, 8, 8)).astype(np.float32)
    median(volume, 3)
    cut_patch(volume, np.zeros((8, 8, 8), np.uint8), np.full(3, 4.0), 4, np.eye(3))
