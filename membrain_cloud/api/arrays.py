"""The five stages on arrays in memory: segment, separate, mesh, pick and measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.api.frames import rows_as_frame
from membrain_cloud.api.inputs import density_array, grid_of, grid_of_shape, label_array, like_input
from membrain_cloud.api.surfaces import PicksByMembrane, checked_meshes, picks_by_class
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from membrain_cloud.geometry import Grid, Mesh, Picks
    from membrain_cloud.pipeline.settings import Settings

Progress = Callable[[int, int], None]
"""Called with the steps that are done and their total."""
_GRID_ANGSTROM = 10.0


def segment(
    tomogram: Any,
    *,
    voxel_spacing_angstrom: float | None = None,
    model: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Any:
    """Segment the membranes of a tomogram with a network in sliding windows.

    Parameters
    ----------
    tomogram : array_like or DataArray, shape (Z, Y, X), any real dtype
        The density; membranes are dark.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: that of a DataArray's coordinates.
    model : str, optional
        Name of a built-in model, path or URL of a model or of a MemBrain-seg checkpoint. Default: `segment.model`.
    settings : Settings, optional
        Settings of a run; those of `segment` apply. Default: the defaults of a run.
    progress : callable, optional
        Called with the windows done and their total.

    Returns
    -------
    ndarray or DataArray, shape (Z, Y, X), bool
        True in membranes, small components included; a DataArray where the tomogram is one.

    Raises
    ------
    TomogramError
        If the tomogram is no volume, is constant, or holds NaN or infinite values.
    VoxelSpacingError
        If no voxel spacing is known, or it is too far from the model's.
    ModelError
        If the model does not exist or is no segmentation network.

    Examples
    --------
    >>> import membrain_cloud as mc
    >>> phantom = mc.simulate(seed=1, shape=(64, 64, 64), membranes=1)
    >>> labels = mc.segment(phantom.density, voxel_spacing_angstrom=10.0)
    >>> labels.shape, labels.dtype
    ((64, 64, 64), dtype('bool'))
    """
    from membrain_cloud.pipeline.stages.inference import segment_in_memory, sliding_window

    chosen = _settings(settings, segment={"model": model}).segment
    density, grid = density_array(tomogram), grid_of(tomogram, voxel_spacing_angstrom)
    total = sliding_window(chosen, grid.voxel_spacing_angstrom).tiling.count(grid.shape)
    labels = segment_in_memory(chosen, density, grid.voxel_spacing_angstrom, progress=_counted(progress, total))
    return like_input(labels, tomogram)


def separate(
    labels: Any, *, min_voxels: int | None = None, split: bool | None = None, settings: Settings | None = None
) -> Any:
    """Separate the membranes of a mask, and number them by falling size.

    Parameters
    ----------
    labels : array_like or DataArray, shape (Z, Y, X), bool or integer
        The mask; every value but 0 is membrane.
    min_voxels : int, optional
        Smaller membranes are left out. Default: `separate.min_voxels`.
    split : bool, optional
        Whether membranes that touch are split. Default: `separate.split`.
    settings : Settings, optional
        Settings of a run; those of `separate` apply. Default: the defaults of a run.

    Returns
    -------
    ndarray or DataArray, shape (Z, Y, X), uint16
        0 in the background, 1 in the largest membrane, and so on; uint32 beyond 65 535 membranes.

    Raises
    ------
    InputError
        If the labels are no mask.

    Examples
    --------
    >>> import numpy as np, membrain_cloud as mc
    >>> labels = np.zeros((32, 48, 48), bool)
    >>> labels[5:9, 4:44, 4:44] = labels[20:24, 4:30, 4:30] = True
    >>> instances = mc.separate(labels, min_voxels=100)
    >>> int(instances.max()), int(instances[6, 20, 20])
    (2, 1)
    """
    from membrain_cloud.segmentation.instances import separate as separate_labels

    chosen = _settings(settings, separate={"min_voxels": min_voxels, "split": split}).separate
    mask = label_array(labels, name="labels")
    instances = separate_labels(mask, min_voxels=chosen.min_voxels, split=chosen.split, drop_border=chosen.drop_border)
    return like_input(instances, labels)


def mesh(
    instances: Any,
    *,
    voxel_spacing_angstrom: float | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[int, Mesh]:
    """Mesh each membrane: by default a closed shell around it.

    Parameters
    ----------
    instances : array_like or DataArray, shape (Z, Y, X), integer
        Numbered membranes, as `separate` returns them. A bool mask is one membrane.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: that of a DataArray's coordinates.
    settings : Settings, optional
        Settings of a run; those of `mesh` apply. Default: the defaults of a run.
    progress : callable, optional
        Called with the membranes done and their total.

    Returns
    -------
    dict of int to Mesh
        Number of each membrane to its mesh: vertices (V, 3) float64, xyz in Å from the centre of the first voxel, also
        where the coordinates of a DataArray begin elsewhere, and faces (F, 3) int32. Membranes that are too small for
        a mesh are left out.

    Raises
    ------
    InputError
        If the instances are no label volume.
    VoxelSpacingError
        If no voxel spacing is known.

    Examples
    --------
    >>> import numpy as np, membrain_cloud as mc
    >>> z, y, x = np.indices((48, 48, 48)) - 24
    >>> radius = np.sqrt(z**2 + y**2 + x**2)
    >>> meshes = mc.mesh((radius > 14) & (radius < 18), voxel_spacing_angstrom=10.0)
    >>> meshes[1].faces.shape[1], meshes[1].vertices.dtype
    (3, dtype('float64'))
    """
    from membrain_cloud.geometry import Box
    from membrain_cloud.pipeline.stages.mesh import mesh_instance
    from membrain_cloud.segmentation.instances import masks_of_labels

    chosen = _settings(settings).mesh
    array, grid = label_array(instances, name="instances"), grid_of(instances, voxel_spacing_angstrom)
    whole = Box((0, 0, 0), grid.shape)
    meshes: dict[int, Mesh] = {}
    count = _counted(progress, len(np.unique(array[array != 0])))
    labels = array.astype(np.uint8) if array.dtype.kind == "b" else array
    for number, box, mask in masks_of_labels(lambda part: labels[part.slices], grid.shape, [whole]):
        surface = mesh_instance(mask, box, grid, chosen)
        if surface is not None:
            meshes[number] = surface
        count(1)
    return meshes


def pick(
    meshes: Mapping[int, Mesh],
    tomogram: Any,
    *,
    voxel_spacing_angstrom: float | None = None,
    model: str | None = None,
    particle_class: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[int, Picks]:
    """Pick the particles on membranes.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of each membrane to its mesh, xyz in Å.
    tomogram : array_like or DataArray, shape (Z, Y, X), any real dtype
        The density; voxel (0, 0, 0) has its centre at the origin of the meshes.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: that of a DataArray's coordinates.
    model : str, optional
        Name of a built-in picker, path or URL of a picker or of a MemBrain-pick checkpoint. Default: `pick.model`.
    particle_class : str, optional
        The class to return, of a picker that tells several apart; required then.
    settings : Settings, optional
        Settings of a run; those of `pick` apply. Default: the defaults of a run.
    progress : callable, optional
        Called with the membranes done and their total.

    Returns
    -------
    dict of int to Picks
        Number of each membrane to its picks, best first: positions (N, 3) float64 in Å, orientations (N, 3, 3), scores.

    Raises
    ------
    InputError
        If a mesh has no vertices, some that are not finite, or does not lie in the tomogram.
    ModelError
        If the model does not exist or is no picker.
    UsageError
        If the picker has several classes and none of them is named.

    Examples
    --------
    >>> import membrain_cloud as mc
    >>> phantom = mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)
    >>> meshes = mc.mesh(phantom.instances, voxel_spacing_angstrom=10.0)
    >>> picks = mc.pick(meshes, phantom.density, voxel_spacing_angstrom=10.0)
    >>> picks.keys() == meshes.keys(), picks[1].positions.shape[1]
    (True, 3)
    """
    from membrain_cloud.picking.pick_membrane import pick_membrane
    from membrain_cloud.pipeline.models import model_sha256
    from membrain_cloud.pipeline.stages.pick import configured_picker, fastest_mean_shift, make_clustering
    from membrain_cloud.segmentation.sliding_window import density_statistics

    chosen = _settings(settings, pick={"model": model}).pick
    density, grid = density_array(tomogram), grid_of(tomogram, voxel_spacing_angstrom)
    surfaces = checked_meshes(meshes, grid)
    outside = float(density_statistics([density]).mean)
    network = configured_picker(chosen, model_sha256(chosen.model))
    index = _class_index(network.class_names, particle_class)
    clustering = make_clustering(chosen, network)
    count = _counted(progress, len(surfaces))
    picks: dict[int, Picks] = {}
    for number, surface in surfaces.items():
        by_class, _ = pick_membrane(
            surface,
            lambda box: density[box.slices],
            grid,
            network,
            outside=outside,
            partition_vertices=chosen.partition_vertices,
            clustering=clustering,
            membrane_id=number,
            shift=fastest_mean_shift(),
        )
        picks[number] = by_class[index]
        count(1)
    return picks


def measure(
    meshes: Mapping[int, Mesh],
    picks: PicksByMembrane | Mapping[str, PicksByMembrane] | None = None,
    *,
    tomogram: Any = None,
    shape: tuple[int, int, int] | None = None,
    voxel_spacing_angstrom: float | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure membranes and the particles on them.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of each membrane to its mesh: a closed shell, xyz in Å.
    picks : mapping of int to Picks, optional
        Number of each membrane to its particles; or for each class of particles, by name, such a mapping. Default: no
        particles, and their numbers are unknown.
    tomogram : array_like or DataArray, shape (Z, Y, X), optional
        The density. With it, bilayer thickness is measured. Default: none.
    shape : tuple of int, optional
        Voxels of the tomogram along (z, y, x). With it, or with the tomogram, parts of a mesh that close a membrane at
        the tomogram's border count neither as area nor as a way between particles. Default: no border.
    voxel_spacing_angstrom : float, optional
        Voxel spacing in Å. Default: that of a DataArray's coordinates; needed with `shape` or an array.
    settings : Settings, optional
        Settings of a run; those of `measure` apply. Default: the defaults of a run.
    progress : callable, optional
        Called with the membranes done and their total.

    Returns
    -------
    dict of str to DataFrame
        Name of each table to its rows, with the column `membrane_id`; the columns are those of the tables of a run.

    Raises
    ------
    InputError
        If meshes or picks have other shapes than `Mesh` and `Picks` state, a mesh does not lie in the tomogram, or
        picks lie on a membrane that has no mesh.
    VoxelSpacingError
        If a tomogram or a shape is passed, and no voxel spacing is known.

    Notes
    -----
    A membrane that cannot be measured has a row in `membranes` with the cause in `error`, and no other row.

    Examples
    --------
    >>> import membrain_cloud as mc
    >>> phantom = mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)
    >>> meshes = mc.mesh(phantom.instances, voxel_spacing_angstrom=10.0)
    >>> rows = mc.measure(meshes)
    >>> bool(rows["membranes"].one_sided_area_nm2[0] > 1000)
    True
    """
    from membrain_cloud.mesh.conversion.mask_to_mesh import border_vertices
    from membrain_cloud.pipeline.stages.measure import BORDER_VOXELS, density_reader
    from membrain_cloud.statistics.measure import Membrane, measure_tomogram

    surfaces = checked_meshes(meshes)
    if tomogram is None and shape is None:
        grid, margin = _enclosing_grid(surfaces), None
    else:
        if tomogram is None:
            grid = grid_of_shape(shape, voxel_spacing_angstrom)
        else:
            grid = grid_of(tomogram, voxel_spacing_angstrom, shape=shape)
        surfaces = checked_meshes(meshes, grid)
        margin = BORDER_VOXELS * grid.voxel_spacing_angstrom
    by_class = picks_by_class(picks, surfaces)
    density = None if tomogram is None else density_array(tomogram)
    membranes = {}
    for number, surface in surfaces.items():
        at_border = np.zeros(len(surface.vertices), bool)
        if margin is not None:
            at_border = border_vertices(surface, grid, margin_angstrom=margin)
        particles, names = _particles_on(number, by_class)
        membranes[number] = Membrane(surface, particles, at_border, names)
    rows = measure_tomogram(
        membranes,
        grid=grid,
        options=_settings(settings).measure.options(),
        kinds=sorted(by_class or ()),
        density_about=None if density is None else density_reader(lambda box: density[box.slices], grid),
        progress=_counted(progress, len(membranes)),
    )
    return {table: rows_as_frame(table, of_table) for table, of_table in rows.items()}


def _class_index(class_names: Sequence[str], particle_class: str | None) -> int:
    """Return the index of a picker's output for a class of particles."""
    if particle_class is None:
        if len(class_names) > 1:
            raise UsageError(f"the picker has the classes {', '.join(class_names)}", "pass one as particle_class")
        return 0
    if particle_class not in class_names:
        known = ", ".join(class_names) or "none"
        raise UsageError(f"particle_class = {particle_class!r}: not a class of the picker", f"its classes: {known}")
    return list(class_names).index(particle_class)


def _particles_on(number: int, by_class: Mapping[str, PicksByMembrane] | None) -> tuple[Picks | None, list[str]]:
    """Return the particles on one membrane and the class of each."""
    from membrain_cloud.geometry import Picks

    if by_class is None:
        return None, []
    parts = {name: of_class[number] for name, of_class in by_class.items() if number in of_class}
    names = [name for name, picks in parts.items() for _ in range(len(picks))]
    return Picks.concatenate(list(parts.values())), names


def _enclosing_grid(meshes: Mapping[int, Mesh]) -> Grid:
    """Return a grid that contains all meshes; no row depends on it where no border is known."""
    from membrain_cloud.geometry import Grid

    reach = max((float(np.abs(surface.vertices).max()) for surface in meshes.values()), default=0.0)
    edge = int(reach / _GRID_ANGSTROM) + 2
    return Grid((edge, edge, edge), _GRID_ANGSTROM)


def _settings(settings: Settings | None, **changes: Mapping[str, Any]) -> Settings:
    """Return settings with some values replaced, checked as those of a file are; None leaves a value as it is."""
    from membrain_cloud.api.projects import checked_settings
    from membrain_cloud.pipeline.settings import settings_from

    values = checked_settings(settings).as_dict()
    for section, of_section in changes.items():
        values[section] |= {name: value for name, value in of_section.items() if value is not None}
    return settings_from(values)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a callback that adds up steps and reports their sum."""
    if progress is not None and not callable(progress):
        raise UsageError(f"progress = {progress!r}: not callable", "pass a function of (done, total)")
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        if progress is not None:
            progress(min(done, total), total)

    return count
