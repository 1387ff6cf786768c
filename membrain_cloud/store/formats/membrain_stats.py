"""Folders as membrain-stats reads them: one mesh file (`.h5` or `.obj`) for each membrane, and its particles.

membrain-stats takes the particles of an `.h5` from the file itself and those of an `.obj` from `<stem>_clusters.star`;
here a STAR file takes precedence for both, since only it has angles and classes. Coordinates are taken as Å unless a
multiplier says otherwise, as in membrain-stats.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError, VoxelSpacingError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.mesh.repair import merge_vertices
from membrain_cloud.store.formats.local_input import read_file
from membrain_cloud.store.formats.meshes import read_h5, read_obj
from membrain_cloud.store.formats.relion.columns import whole_numbers
from membrain_cloud.store.formats.relion.particles import states_pixel_size
from membrain_cloud.store.formats.star import read_star_picks, star_particles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STAR_ENDINGS = ("_clusters.star", ".star", "_surforama.star", "_particles.star")
"""Endings of a membrane's STAR file after its stem, the preferred one first."""

# A run, and a membrane's number at the end of a file's name.
_NUMBERED = re.compile(r"^(?P<run>.+?)[_.-](?:mb|membrane|mesh|component)?[_.-]?(?P<number>\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class MembraneFile:
    """A membrane of a folder.

    Attributes
    ----------
    run : str
        The run (tomogram) it belongs to.
    number : int
        Its number in the run, from 1.
    mesh : str
        The mesh's file.
    star : str or None
        The particles' file; None where they are in the mesh's file, or there are none.
    """

    run: str
    number: int
    mesh: str
    star: str | None

    @property
    def sha256(self) -> str:
        """Digest of the mesh's and the particles' files."""
        digest = hashlib.sha256()
        for path in (self.mesh, self.star):
            digest.update(read_file(path) if path else b"")
        return digest.hexdigest()


@dataclass(frozen=True)
class Units:
    """Factors by which coordinates are multiplied to be in Å.

    Attributes
    ----------
    mesh : float or None
        For vertices. None is 1, but refused for an .h5 without scores, whose points MemBrain-pick counts in voxels.
    positions : float or None
        For particles. None is the pixel size of the STAR file, else 1.
    """

    mesh: float | None = None
    positions: float | None = None


def list_folder(folder: str, names: Mapping[str, str] | None = None) -> list[MembraneFile]:
    """List the membranes of a folder, by run and number.

    `TS_1_mb3.h5` is membrane 3 of run TS_1; a name without a number is a run of its own. Of an .h5 and an .obj with one
    stem the .h5 is taken.

    Parameters
    ----------
    folder : str
        Folder of .h5 or .obj meshes.
    names : mapping of str to str, optional
        The run of each stem, where the files' names do not say it.

    Returns
    -------
    list of MembraneFile

    Raises
    ------
    ProjectError
        If the folder is missing, or has no meshes.
    """
    try:
        entries = [entry for entry in Path(folder).iterdir() if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise ProjectError(f"{folder}: {error.strerror}", "give a folder of .h5 or .obj meshes") from error
    files = {entry.name: str(entry) for entry in entries}
    stems: dict[str, str] = {}
    for name in sorted(sorted(files), key=lambda name: name.lower().endswith(".h5")):
        if Path(name).suffix.lower() in (".h5", ".obj"):
            stems[Path(name).stem] = name
    if not stems:
        raise ProjectError(
            f"{folder} has no meshes", "give a folder of .h5 or .obj files, as membrain_stats reads them"
        )
    runs: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
    for stem in sorted(stems):
        match = _NUMBERED.match(stem)
        run = (names or {}).get(stem) or (match["run"] if match else stem)
        runs[run].append((int(match["number"]) if match else None, stem))
    membranes = []
    for run, members in sorted(runs.items()):
        for number, stem in _numbered(members):
            star = next((files[stem + ending] for ending in STAR_ENDINGS if stem + ending in files), None)
            membranes.append(MembraneFile(run, number, files[stems[stem]], star))
    return membranes


def _numbered(membranes: Sequence[tuple[int | None, str]]) -> list[tuple[int, str]]:
    """Return numbers and stems: their own numbers where these are distinct and above 0, else 1, 2, ... by name."""
    numbers = [number for number, _ in membranes]
    if None in numbers or 0 in numbers or len(set(numbers)) < len(numbers):
        return [(place, stem) for place, (_, stem) in enumerate(membranes, start=1)]
    return sorted((number, stem) for number, stem in membranes if number is not None)


def read_mesh(file: MembraneFile, units: Units) -> Mesh:
    """Read a membrane's mesh.

    Parameters
    ----------
    file : MembraneFile
        The membrane.
    units : Units
        Factors of the coordinates.

    Returns
    -------
    Mesh
        In Å. A closed mesh is wound outwards, an open one as the program of its file winds it.

    Raises
    ------
    ProjectError
        If the file is no mesh.
    VoxelSpacingError
        If its points are in voxels and `units.mesh` is None.
    """
    unit = 1.0 if units.mesh is None else units.mesh
    if file.mesh.lower().endswith(".obj"):
        mesh = read_obj(file.mesh, unit_angstrom=unit)
    else:
        stored = read_h5(file.mesh, voxel_spacing_angstrom=1.0)  # no unit yet
        if stored.scores is None and units.mesh is None:
            raise VoxelSpacingError(
                f"{file.mesh}: points in voxels of unknown size", "give pixel_size_multiplier (1 for Å)"
            )
        mesh = Mesh(stored.mesh.vertices * unit, stored.mesh.faces)
    mesh = merge_vertices(mesh)
    return replace(mesh, faces=mesh.faces[:, [0, 2, 1]]) if _signed_volume(mesh) < 0.0 else mesh


def _signed_volume(mesh: Mesh) -> float:
    """Return the enclosed volume in Å³, negative where wound inwards; 0 if not closed or not wound consistently."""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).astype(np.int64)
    count = len(mesh.vertices)
    forth, back = edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0]
    if len(np.unique(forth)) < len(forth) or not np.array_equal(np.sort(forth), np.sort(back)):
        return 0.0
    a, b, c = (mesh.vertices[mesh.faces[:, k]] - mesh.vertices.mean(axis=0) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


def read_particles(file: MembraneFile, units: Units, *, inverse_angles: bool) -> tuple[Picks | None, list[int]]:
    """Read a membrane's particles.

    Parameters
    ----------
    file : MembraneFile
        The membrane.
    units : Units
        Factors of the coordinates.
    inverse_angles : bool
        Whether the STAR file's angles turn the particle into the tomogram.

    Returns
    -------
    Picks or None
        Positions in Å; None where the folder has no particles for this membrane.
    list of int
        The class of each particle; 0 where it has none.

    Raises
    ------
    ProjectError
        If a file cannot be read.
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
    """Read the particles of a STAR file, RELION's or Surforama's, with their classes.

    Parameters
    ----------
    path : str
        The STAR file.
    units : Units
        `positions` is the factor of the coordinates.
    tomogram : str or None
        Its name; needed where the file holds several.
    inverse_angles : bool
        Whether the file's angles turn the particle into the tomogram.

    Returns
    -------
    Picks
        Positions in Å.
    list of int
        The class of each particle; 0 where it has none.

    Raises
    ------
    ProjectError, UsageError
        As `read_star_picks`; ProjectError also where classes have gaps.
    """
    table = star_particles(path, tomogram)
    spacing = units.positions
    if spacing is None and not states_pixel_size(table):
        spacing = 1.0
    picks = read_star_picks(path, voxel_spacing_angstrom=spacing, tomogram=tomogram, inverse_angles=inverse_angles)
    if "rlnClassNumber" not in table.columns:
        return picks, [0] * len(picks)
    classes, known = whole_numbers(table, "rlnClassNumber", path)
    if not known.all():
        raise ProjectError(f"{path}: rlnClassNumber has gaps", "correct or remove the incomplete lines")
    return picks, classes.tolist()
