"""A project with meshes and picks, which goes out to files of other programs and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def spheres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project with alice's two meshes and 12 picks, in the current folder."""
    monkeypatch.chdir(tmp_path)
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    project.write_tomogram(TomogramRef("TS_1", "wbp", 8.0), np.zeros((20, 40, 60), np.float32))
    sphere = trimesh.creation.icosphere(2, radius=60.0)
    mesh = Mesh(np.array(sphere.vertices) + 100.0, np.array(sphere.faces, np.int32))
    project.write_meshes(
        ObjectRef("TS_1", "membrane", "alice", "1"), {3: mesh, 4: replace(mesh, vertices=mesh.vertices + 150)}
    )
    normals = mesh.vertex_normals()[:12]
    picks = Picks(
        mesh.vertices[:12],
        orientations_from_normals(normals, np.arange(12) / 2),
        np.linspace(0, 1, 12),
        np.array([3, 4] * 6),
        np.arange(12) % 2 == 0,
    )
    project.write_picks(ObjectRef("TS_1", "psii", "alice", "1"), picks)
    return project
