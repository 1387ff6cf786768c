"""Read a volume of any format that the package knows into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory.

    Attributes
    ----------
    array : ndarray, shape (Z, Y, X)
        The voxels, in the dtype of the file.
    voxel_spacing_angstrom : float or None
        Voxel spacing in Å; None where the file states none that is believable.
    """

    array: NDArray[Any]
    voxel_spacing_angstrom: float | None


def read_volume(path: str | Path, *, level: int = 0) -> Volume:
    """Read a volume from a file or an OME-Zarr folder.

    Parameters
    ----------
    path : str or Path
        MRC (`.mrc`, `.rec`, `.map`), TIFF, NIfTI, NRRD, NumPy or OME-Zarr; MRC and NIfTI also gzipped.
    level : int
        Level of an OME-Zarr pyramid. Default: 0, the finest.

    Returns
    -------
    Volume
        The voxels and the voxel spacing.

    Raises
    ------
    UsageError
        If there is no such level.
    TomogramError
        If the file does not exist, is of no known format or is damaged.
    ChunkError
        If a chunk of an OME-Zarr array is missing or damaged.

    Examples
    --------
    >>> import mrcfile, numpy, tempfile, os
    >>> import membrain_cloud as mc
    >>> path = os.path.join(tempfile.mkdtemp(), "tomogram.mrc")
    >>> with mrcfile.new(path) as file:
    ...     file.set_data(numpy.arange(24, dtype=numpy.float32).reshape(2, 3, 4))
    ...     file.voxel_size = 13.48
    >>> volume = mc.read_volume(path)
    >>> volume.array.shape, round(volume.voxel_spacing_angstrom, 2)
    ((2, 3, 4), 13.48)
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.geometry import Box
    from membrain_cloud.store.formats.volume_reader import open_volume_file

    with open_volume_file(str(path)) as volume:
        if level:
            levels = volume.levels(volume.voxel_spacing_angstrom or 1.0)
            if not 0 <= level < len(levels):
                raise UsageError(f"{path}: no level {level}", f"its levels are 0 to {len(levels) - 1}")
            volume = volume.level(levels[level])  # noqa: PLW2901 - a level is closed with its volume
        return Volume(volume.read(Box((0, 0, 0), volume.shape)), volume.voxel_spacing_angstrom)
