"""The published programs' own readers open what we write. Skipped where `benchmarks/peers.sh` has not set them up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.store.formats.meshes import StoredMesh, write_h5
from membrain_cloud.store.formats.star import write_star

PEERS = Path(__file__).parents[3] / "benchmarks" / ".peers" / "bin" / "python"
_READ = """
import json, sys, types
import numpy as np
for name in ("surforama", "surforama.utils", "surforama.utils.geometry"):  # imported by membrain-pick, not called
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["surforama.utils.geometry"].rotate_around_vector = None
from membrain_pick.dataloading.data_utils import load_mesh_from_hdf5, read_star_file
from membrain_stats.utils.io_utils import get_mesh_filenames, get_mesh_from_file
folder = sys.argv[1]
theirs = load_mesh_from_hdf5(folder + "/mb.h5")
(file,) = get_mesh_filenames(folder)
stats = get_mesh_from_file(file)
star = read_star_file(folder + "/mb.star")
print("READ" + json.dumps({
    "pick": [theirs[name].tolist() for name in ("points", "faces", "scores", "cluster_centers")],
    "stats": [np.asarray(stats[name]).tolist() for name in ("verts", "faces", "positions")],
    "star": star[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]].to_numpy().tolist(),
}))
"""


@pytest.mark.skipif(not PEERS.exists(), reason="the peers' environment is not set up")
def test_membrain_pick_and_membrain_stats_open_our_files(tmp_path: Path) -> None:
    shape = trimesh.creation.icosphere(2, radius=100.0)
    mesh = Mesh(np.array(shape.vertices, float), np.array(shape.faces, np.int32))
    normals = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    picks = Picks(100.0 * normals, orientations_from_normals(normals), np.array([0.9, 0.4]))
    scores = np.linspace(0, 10, len(mesh.vertices))
    write_h5(str(tmp_path / "mb.h5"), StoredMesh(mesh, scores=scores, picks=picks), voxel_spacing_angstrom=10.0)
    write_star(str(tmp_path / "mb.star"), picks, voxel_spacing_angstrom=10.0, tomogram="A", flavour="surforama")
    done = subprocess.run([str(PEERS), "-c", _READ, str(tmp_path)], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("READ")]
    assert lines, done.stderr[-2000:]
    read = json.loads(lines[0].removeprefix("READ"))
    points, faces, their_scores, centers = (np.array(values) for values in read["pick"])
    np.testing.assert_allclose(points, mesh.vertices)
    np.testing.assert_array_equal(faces[:, [0, 2, 1]], mesh.faces)  # wound into the slab
    np.testing.assert_allclose(their_scores, scores)
    np.testing.assert_allclose(centers, picks.positions)
    vertices, _, positions = (np.array(values) for values in read["stats"])
    np.testing.assert_allclose(vertices, mesh.vertices)
    np.testing.assert_allclose(positions, picks.positions)
    np.testing.assert_allclose(np.array(read["star"]) * 10.0, picks.positions, atol=1e-4)
