"""The membranes around any particles: of arrays, and of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.api.frames import rows_as_frame
from membrain_cloud.api.inputs import density_array, grid_of, grid_of_shape
from membrain_cloud.api.surfaces import checked_meshes, checked_picks
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from membrain_cloud.geometry import Mesh, Picks
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project


def particle_context(
    meshes: Mapping[int, Mesh],
    picks: Picks,
    tomogram: Any = None,
    *,
    shape: tuple[int, int, int] | None = None,
    voxel_spacing_angstrom: float | None = None,
    reach_nm: float = 100.0,
) -> pd.DataFrame:
    """Describe the membranes around particles anywhere in a tomogram.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of each membrane to its mesh, xyz in Å: a closed shell around it, or one surface.
    picks : Picks
        The N particles.
    tomogram : array_like or DataArray, shape (Z, Y, X), optional
        The density. With it, the bilayer's thickness is measured. Default: none.
    shape : tuple of int, optional
        Voxels of the tomogram along (z, y, x). With it, or with the tomogram, particles outside of it are told apart,
        and the caps that close a membrane at its border are no membrane. Default: no border.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: that of a DataArray's coordinates; needed with `shape` or an array.
    reach_nm : float
        Membranes farther than this from a particle's centre are not considered. Default: 100.

    Returns
    -------
    DataFrame
        One row a particle, in their order: the columns of the table `particle_context`, of which `membrane_id` is the
        nearest membrane.

    Raises
    ------
    InputError
        If meshes or picks have other shapes than `Mesh` and `Picks` state, or a mesh does not lie in the tomogram.
    UsageError
        If the reach is not above 0.
    VoxelSpacingError
        If a tomogram or a shape is passed, and no voxel spacing is known.

    Examples
    --------
    >>> import numpy as np
    >>> import membrain_cloud as mc
    >>> z, y, x = np.indices((60, 60, 60))
    >>> radius = np.sqrt((z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2)
    >>> meshes = mc.mesh((abs(radius - 20) < 2).astype("uint16"), voxel_spacing_angstrom=10.0)
    >>> picks = mc.Picks(np.array([[300.0, 300.0, 300.0], [300.0, 300.0, 580.0]]))
    >>> frame = mc.particle_context(meshes, picks)
    >>> frame[["membrane_id", "side"]].values.tolist()
    [[1, 'inside'], [1, 'outside']]
    """
    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import MeasureSettings
    from membrain_cloud.pipeline.stages.measure import density_reader, membrane_of
    from membrain_cloud.statistics.context.particle_context import membranes_around, particle_context_rows
    from membrain_cloud.statistics.model.prepare import Membrane

    if not reach_nm > 0:
        raise UsageError(f"reach_nm = {reach_nm!r}: not above 0", "pass the distance in nm, such as 100")
    picks, grid = checked_picks(picks, "picks"), None
    if tomogram is not None:
        grid = grid_of(tomogram, voxel_spacing_angstrom, shape=shape)
    elif shape is not None:
        grid = grid_of_shape(shape, voxel_spacing_angstrom)
    density_about = None
    if tomogram is not None and grid is not None:
        density = density_array(tomogram)
        density_about = density_reader(lambda box: density[box.slices], grid)
    around = membranes_around(
        {
            number: Membrane(mesh, None, np.zeros(len(mesh.vertices), bool), "")
            if grid is None
            else membrane_of(mesh, grid)
            for number, mesh in checked_meshes(meshes, grid).items()
        },
        grid=grid or Grid((1, 1, 1), 1.0),  # no row depends on it without a border
        options=MeasureSettings().options(),
        density_about=density_about,
    )
    rows = particle_context_rows(around, picks, reach_nm=reach_nm, grid=grid)
    return rows_as_frame("particle_context", rows)


def measure_picks(  # noqa: PLR0913 - one keyword an option of the command
    project: Project,
    particles: str | Path,
    *,
    output: str | Path | Sequence[str | Path] = (),
    settings: Settings | None = None,
    runs: Sequence[str] | None = None,
    voxel_spacing_angstrom: float | None = None,
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
    inverse_angles: bool = False,
    run_of: Mapping[str, str] | None = None,
    object_name: str | None = None,
    user: str = "imported",
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Describe the membranes around the particles of a STAR file, or of copick picks, of one or many runs.

    Parameters
    ----------
    project : Project
        An open project, whose membranes have meshes.
    particles : str or Path
        Path of a STAR file, or the URI of picks, `name:user/session`.
    output : str, Path or sequence of these, optional
        Files to write: .star (a copy of the STAR file with columns `mbc_*`), .parquet or .csv. Default: none.
    settings : Settings, optional
        Settings of the run that made the meshes; those of `context` apply. Default: the defaults.
    runs : sequence of str, optional
        Only particles of these runs. Default: all.
    voxel_spacing_angstrom : float, optional
        Å, of the pixels that a STAR file's coordinates count. Default: what the file says.
    origin_angstrom : tuple of float
        xyz in Å, subtracted from a STAR file's positions. Default: 0.
    inverse_angles : bool
        Whether a STAR file's angles turn the particle into the tomogram, the inverse of RELION's. Default: False.
    run_of : mapping of str to str, optional
        Name of a tomogram in the STAR file -> the run that it is, where the names differ.
    object_name, user : str, optional
        Object and user of the picks that a STAR file's particles are stored as. Default: from the file's name,
        "imported".
    workers, scheduler, in_process, progress
        As for `run`.

    Returns
    -------
    DataFrame
        One row a particle, in the order of the file or of the runs: the columns of the table `particle_context`. Its
        `status` says why a row is unknown. `.attrs["without_run"]` counts particles of tomograms that are no run, by
        name.

    Raises
    ------
    InputError
        If no tomogram of the file is a run of the project, or the file has no particles.
    ProjectError
        If the file is no particle file, or no run has the picks.
    UsageError
        If an output's ending is unknown, or it is the STAR file itself.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import membrain_cloud as mc
    >>> from membrain_cloud.store.projects.create import create_project
    >>> from membrain_cloud.store.refs import ObjectRef, TomogramRef
    >>> project = create_project(tempfile.mkdtemp(), objects=[])
    >>> z, y, x = np.indices((60, 60, 60))
    >>> shell = abs(np.sqrt((z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2) - 20) < 2
    >>> project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), -shell.astype("float32"))
    >>> meshes = mc.mesh(shell.astype("uint16"), voxel_spacing_angstrom=10.0)
    >>> project.write_meshes(ObjectRef("TS_1", "membrane", "alice", "1"), meshes)
    >>> picks = mc.Picks(np.array([[300.0, 300.0, 300.0], [300.0, 300.0, 580.0]]))
    >>> project.write_picks(ObjectRef("TS_1", "ribosome", "alice", "1"), picks)
    >>> settings = mc.Settings(context={"meshes": "membrane:alice/1"})
    >>> frame = mc.measure_picks(project, "ribosome:alice/1", settings=settings, in_process=True)
    >>> frame[["run_name", "membrane_id", "side"]].values.tolist()
    [['TS_1', 1, 'inside'], ['TS_1', 1, 'outside']]
    """
    from pathlib import Path

    from membrain_cloud.api.projects import checked_settings, run
    from membrain_cloud.pipeline.projects import measure_picks as work
    from membrain_cloud.store.tables.open import open_tables

    source = str(particles)
    targets = [str(output)] if isinstance(output, str | Path) else [str(target) for target in output]
    for target in targets:
        work.check_target(target, source)
    if Path(source).exists() or source.lower().endswith(".star"):
        options = work.StarOptions(
            voxel_spacing_angstrom, origin_angstrom, inverse_angles, run_of or {}, object_name, user
        )
        listed = work.store_star(project, source, options, runs)
    else:
        listed = work.list_picks(project, source, runs)
    chosen = listed.settings(checked_settings(settings))
    outcomes = run(
        project,
        settings=chosen,
        runs=listed.runs,
        stages=["context"],
        workers=workers,
        scheduler=scheduler,
        in_process=in_process,
        progress=progress,
    )
    tables = open_tables(project, chosen.output.tables)
    rows = work.context_rows(project, tables, chosen, listed, outcomes)
    for target in targets:
        work.write_context(target, project, listed, rows)
    frame = work.rows_frame(rows)
    frame.attrs["without_run"] = dict(listed.without_run)
    return frame
