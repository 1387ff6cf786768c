"""Folders as membrain-stats reads them: a mesh a membrane (`.h5` or `.obj`) and its particles.

membrain-stats takes the particles of an `.h5` from the file itself and those of an `.obj` from `<stem>_clusters.star`;
here a STAR file goes first for both, since only it has angles and classes. Coordinates are taken for Å unless a
multiplier says otherwise, as there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.formats.meshes import read_h5, read_obj
from membrain_cloud.store.formats.star import PIXEL_SIZES, read_star_picks, star_particles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Endings of a membrane's STAR file after its stem, in the order they are looked for.
STAR_ENDINGS = ("_clusters.star", ".star", "_surforama.star", "_particles.star")
# What stands before a membrane's number at the end of a file's name.
_NUMBERED = re.compile(r"^(?P<run>.+?)[_.-](?:mb|membrane|mesh|component)?[_.-]?(?P<number>\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class MembraneFile:
    """A membrane of a folder. star : its particles' file; None where they are in the mesh's file, or there is none."""

    run: str
    number: int
    mesh: str
    star: str | None

    @property
    def sha256(self) -> str:
        """Of all that is read for it."""
        found = hashlib.sha256()
        for path in (self.mesh, self.star):
            found.update(Path(path).read_bytes() if path else b"")
        return found.hexdigest()


@dataclass(frozen=True)
class Units:
    """What coordinates are multiplied by to be in Å.

    mesh : of vertices; None: 1, but refused for an .h5 without scores, whose points MemBrain-pick counts in voxels.
    positions : of particles; None: what the STAR file says its pixels are, else 1.
    """

    mesh: float | None = None
    positions: float | None = None


def list_folder(folder: str, names: Mapping[str, str] | None = None) -> list[MembraneFile]:
    """The membranes of a folder, by run and number.

    `TS_1_mb3.h5` is membrane 3 of run TS_1; a name without a number is a run of its own. Of an .h5 and an .obj with one
    stem the .h5 is taken.  names : run of each stem, where the files' names do not say it.

    Raises ProjectError where there is no mesh.
    """
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise ProjectError(f"{folder}: {error.strerror}", "give a folder of .h5 or .obj meshes") from error
    stems: dict[str, str] = {}
    for name in sorted(found, key=lambda name: name.lower().endswith(".h5")):
        stem, kind = os.path.splitext(name)
        if kind.lower() in (".h5", ".obj"):
            stems[stem] = name
    if not stems:
        raise ProjectError(
            f"{folder} has no meshes", "give a folder of .h5 or .obj files, as membrain_stats reads them"
        )
    runs: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
    for stem in sorted(stems):
        known = _NUMBERED.match(stem)
        run = (names or {}).get(stem) or (known["run"] if known else stem)
        runs[run].append((int(known["number"]) if known else None, stem))
    listed = []
    for run, membranes in sorted(runs.items()):
        for number, stem in _numbered(membranes):
            star = next((stem + ending for ending in STAR_ENDINGS if stem + ending in found), None)
            listed.append(
                MembraneFile(
                    run, number, os.path.join(folder, stems[stem]), None if star is None else os.path.join(folder, star)
                )
            )
    return listed


def _numbered(membranes: Sequence[tuple[int | None, str]]) -> list[tuple[int, str]]:
    """Their own numbers where each has one above 0 that no other has; otherwise 1, 2, ... by name."""
    numbers = [number for number, _ in membranes]
    if None in numbers or 0 in numbers or len(set(numbers)) < len(numbers):
        return [(place, stem) for place, (_, stem) in enumerate(membranes, start=1)]
    return sorted((number, stem) for number, stem in membranes if number is not None)


def read_mesh(file: MembraneFile, units: Units) -> Mesh:
    """In Å, wound outwards: a closed mesh by its volume, an open one as its file's program winds it.

    Raises ProjectError for a file that is no mesh.
    """
    unit = 1.0 if units.mesh is None else units.mesh
    if file.mesh.lower().endswith(".obj"):
        mesh = read_obj(file.mesh, unit_angstrom=unit)
    else:
        stored = read_h5(file.mesh, voxel_spacing_angstrom=1.0)  # no unit yet
        if stored.scores is None and units.mesh is None:
            raise VoxelSpacingError(
                f"{file.mesh}: points in voxels of unknown size", "give --pixel-size-multiplier (1 for Å)"
            )
        mesh = Mesh(stored.mesh.vertices * unit, stored.mesh.faces)
    return replace(mesh, faces=mesh.faces[:, [0, 2, 1]]) if _signed_volume(mesh) < 0.0 else mesh


def _signed_volume(mesh: Mesh) -> float:
    """Å³; 0 for a mesh that is not closed or not wound alike all over."""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).astype(np.int64)
    count = len(mesh.vertices)
    forth, back = edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0]
    if len(np.unique(forth)) < len(forth) or not np.array_equal(np.sort(forth), np.sort(back)):
        return 0.0
    a, b, c = (mesh.vertices[mesh.faces[:, k]] - mesh.vertices.mean(axis=0) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


def read_particles(file: MembraneFile, units: Units, *, inverse_angles: bool) -> tuple[Picks | None, list[int]]:
    """Positions in Å with what is known of orientations, and the class of each; None where the folder has no particles
    for this membrane.
    """
    if file.star is not None:
        return read_star(file.star, units, tomogram=None, inverse_angles=inverse_angles)
    if file.mesh.lower().endswith(".obj"):
        return None, []
    picks = read_h5(file.mesh, voxel_spacing_angstrom=1.0).picks
    if picks is None:
        return None, []
    return replace(picks, positions=picks.positions * (units.positions or 1.0)), [0] * len(picks)


def read_star(path: str, units: Units, *, tomogram: str | None, inverse_angles: bool) -> tuple[Picks, list[int]]:
    """The particles of a STAR file, RELION's or Surforama's, and the class of each: 0 where it has none.

    tomogram : of a file that holds several. Raises ProjectError as `read_star_picks` does.
    """
    table = star_particles(path, tomogram)
    spacing = units.positions
    if spacing is None and not set(PIXEL_SIZES) & set(table.columns):
        spacing = 1.0
    picks = read_star_picks(path, voxel_spacing_angstrom=spacing, tomogram=tomogram, inverse_angles=inverse_angles)
    if "rlnClassNumber" not in table.columns:
        return picks, [0] * len(picks)
    classes = table["rlnClassNumber"]
    if classes.isna().any():
        raise ProjectError(f"{path}: rlnClassNumber has gaps", "correct or remove the incomplete lines")
    return picks, [int(number) for number in classes.tolist()]
