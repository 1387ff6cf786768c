"""Preprocessing of single volume files, as MemBrain-seg offers it, in bounded memory: read, filter, write.

Each filter reads a volume file twice (once for its statistics, once for its transform) and writes another one.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import UsageError
from membrain_cloud.image.amplitude_spectrum import (
    EqualizerLimits,
    Spectrum,
    check_spectrum,
    equalizer,
    equalizing_kernel,
)
from membrain_cloud.image.deconvolution import Deconvolution, deconvolution_kernel
from membrain_cloud.image.resampling import resampled_labels, resampled_shape, smooth_border
from membrain_cloud.pipeline.preprocess.volume_filter import (
    OWN_BYTES,
    FilteredFile,
    FilterWork,
    Progress,
    ProgressCounter,
    name_file_in_errors,
)
from membrain_cloud.store.formats.spectra import check_spectrum_output, read_spectrum, write_spectrum
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, check_output
from membrain_cloud.store.volumes.ome_zarr import checked_spacing
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx
    from membrain_cloud.pipeline.preprocess.settings import (
        DeconvolutionSettings,
        Output,
        PixelSizeSettings,
        Resources,
        SpectrumSettings,
    )

# Bytes that a voxel of the planes in memory takes while labels are resampled.
_LABEL_BYTES = 16
# Types that MRC does not have -> those that hold the same labels.
_MRC_LABEL_TYPES = {"uint8": "int16", "bool": "int8"}
# A spacing that an even number of voxels changes by more than this share is noted.
_SPACING_TOLERANCE = 1e-3


def match_pixel_size(
    path: str,
    output: Output,
    settings: PixelSizeSettings,
    resources: Resources,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> FilteredFile:
    """Resample a tomogram in Fourier space to another voxel spacing; its intensities keep their scale.

    MemBrain-seg's intensities lose it; `settings.normalize` gives its numbers. It also makes a volume one voxel too
    short where an odd axis grows.

    Parameters
    ----------
    path : str
        The tomogram's file.
    output : Output
        The file to write.
    settings : PixelSizeSettings
        The target spacing and how to reach it.
    resources : Resources
        What may be used.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    progress : callable
        Called with the planes done and the planes in all.

    Returns
    -------
    FilteredFile

    Raises
    ------
    InputError
        If the file is no usable tomogram.
    UsageError
        If a setting makes no sense, or the output exists and may not be replaced.
    StorageError
        If the output or the scratch files cannot be written.
    """
    check_output(output.path, overwrite=output.overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, resources, progress) as work:
        wanted = checked_spacing(settings.target_spacing_angstrom, "the target", "target_spacing_angstrom, e.g. 10")
        target = resampled_shape(work.shape, work.spacing, wanted)
        work.target = target
        work.expect(work.shape[0] * 2 + target[1] + target[0])
        with work.writer(output, wanted) as writer:
            transform = work.transform()
            smooth = settings.smooth and target != work.shape
            kernel = smooth_border(work.shape, target, memory_bytes=work.memory_bytes // 4) if smooth else None
            work.finish(transform, kernel, writer, normalize=settings.normalize)
        errors = [abs(n * work.spacing / (m * wanted) - 1) for n, m in zip(work.shape, target, strict=True)]
        if target != work.shape and max(errors) > _SPACING_TOLERANCE:
            work.notes.append(f"even numbers of voxels: the spacing is {wanted:g} Å within {100 * max(errors):.1f} %")
        return work.result(output.path, wanted)


def match_segmentation(
    path: str, tomogram: str, output: Output, resources: Resources, *, progress: Progress
) -> FilteredFile:
    """Resample a segmentation to a tomogram's voxels by the nearest label, in its own type.

    Parameters
    ----------
    path : str
        The segmentation's file.
    tomogram : str
        The tomogram's file, of which the grid is taken.
    output : Output
        The file to write; its dtype is not used.
    resources : Resources
        What may be used.
    progress : callable
        Called with the planes done and the planes in all.

    Returns
    -------
    FilteredFile

    Raises
    ------
    InputError
        If a file is no usable volume.
    UsageError
        If the two volumes cover different extents, the values are no labels, or the output exists and may not be
        replaced.
    StorageError
        If the output cannot be written.
    """
    check_output(output.path, overwrite=output.overwrite)
    with open_volume_file(tomogram, resources.scratch) as like:
        shape, own_spacing = like.shape, like.voxel_spacing_angstrom
    spacing = checked_spacing(own_spacing, tomogram, "correct the header, or import the tomogram with its spacing")
    with open_volume_file(path, resources.scratch) as volume:
        _check_extent(volume, shape, spacing)
        plane = max(math.prod(shape[1:]), math.prod(volume.shape[1:]) * math.ceil(volume.shape[0] / shape[0]))
        planes = max(1, int((resources.memory_gib * GIB - OWN_BYTES) / (plane * _LABEL_BYTES)))
        counter = ProgressCounter(progress, shape[0])
        dtype = volume.dtype
        if not output.path.rstrip("/").endswith(".zarr"):
            dtype = np.dtype(_MRC_LABEL_TYPES.get(dtype.name, dtype.name))
        writer = VolumeFileWriter(output.path, shape, spacing, dtype, labels=True, overwrite=output.overwrite)
        with writer, name_file_in_errors(path):
            for box, labels in resampled_labels(volume.read, volume.shape, shape, planes=planes, advance=counter):
                writer.write(box, labels)
        return FilteredFile(output.path, shape, spacing, volume.notes)


def extract_spectrum(
    path: str,
    output: str,
    resources: Resources,
    *,
    overwrite: bool,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> FilteredFile:
    """Write the radial amplitude spectrum of a tomogram.

    Parameters
    ----------
    path : str
        The tomogram's file.
    output : str
        The .tsv to write, which MemBrain-seg reads too.
    resources : Resources
        What may be used.
    overwrite : bool
        Whether an existing file is replaced.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    progress : callable
        Called with the planes done and the planes in all.

    Returns
    -------
    FilteredFile
        `shape` is that of the tomogram.

    Raises
    ------
    InputError, UsageError, StorageError
        As `match_pixel_size`.
    """
    check_spectrum_output(output, overwrite=overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, resources, progress) as work:
        work.expect(work.shape[0] * 2 + work.shape[1])
        spectrum = work.spectrum(work.transform())
        write_spectrum(output, {name: values for name, values in asdict(spectrum).items() if values is not None})
        return work.result(output, work.spacing)


def match_spectrum(
    path: str,
    target: str,
    output: Output,
    settings: SpectrumSettings,
    resources: Resources,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> FilteredFile:
    """Give a tomogram the radial amplitude spectrum of another one, mean 0 and standard deviation 1.

    Parameters
    ----------
    path : str
        The tomogram's file.
    target : str
        A .tsv of `extract_spectrum`, or of MemBrain-seg, which is taken as one of the same voxel spacing.
    output : Output
        The file to write.
    settings : SpectrumSettings
        What is matched.
    resources : Resources
        What may be used.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    progress : callable
        Called with the planes done and the planes in all.

    Returns
    -------
    FilteredFile

    Raises
    ------
    InputError, UsageError, StorageError
        As `match_pixel_size`; InputError also where the target is no spectrum.
    """
    check_output(output.path, overwrite=output.overwrite)
    columns = read_spectrum(target)
    wanted = check_spectrum(
        Spectrum(columns["intensity"], columns.get("frequency_per_angstrom"), columns.get("amplitude")), target
    )
    with FilterWork.open(path, voxel_spacing_angstrom, resources, progress) as work:
        work.expect(work.shape[0] * 3 + work.shape[1] * 2)
        if wanted.frequency_per_angstrom is None:
            work.notes.append(f"{target} names no frequencies: taken as of a cube at {work.spacing:g} Å a voxel")
        with work.writer(output, work.spacing) as writer:
            transform = work.transform()
            factors = equalizer(
                work.spectrum(transform),
                wanted,
                work.shape,
                EqualizerLimits(**asdict(settings)),
                voxel_spacing_angstrom=work.spacing,
            )
            work.finish(transform, equalizing_kernel(work.shape, factors), writer, normalize=True)
        return work.result(output.path, work.spacing)


def deconvolve(
    path: str,
    output: Output,
    settings: DeconvolutionSettings,
    resources: Resources,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> FilteredFile:
    """Increase the contrast of a tomogram by Warp's deconvolution; all planes are kept, also of an odd depth.

    Parameters
    ----------
    path : str
        The tomogram's file.
    output : Output
        The file to write.
    settings : DeconvolutionSettings
        The CTF and the assumed signal-to-noise ratio.
    resources : Resources
        What may be used.
    voxel_spacing_angstrom : float or None
        Å; None for the file's own.
    progress : callable
        Called with the planes done and the planes in all.

    Returns
    -------
    FilteredFile

    Raises
    ------
    InputError, UsageError, StorageError
        As `match_pixel_size`.

    References
    ----------
    Tegunov and Cramer (2019), "Real-time cryo-electron microscopy data preprocessing with Warp", Nat. Methods 16.
    """
    check_output(output.path, overwrite=output.overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, resources, progress) as work:
        kernel = deconvolution_kernel(
            work.shape, Deconvolution(**asdict(settings)), voxel_spacing_angstrom=work.spacing
        )
        work.expect(work.shape[0] * 3 + work.shape[1])
        with work.writer(output, work.spacing) as writer:
            work.finish(work.transform(), kernel, writer, normalize=False)
        return work.result(output.path, work.spacing)


def _check_extent(volume: VolumeFile, shape: Zyx, spacing: float) -> None:
    """Refuse a segmentation whose extent differs from a tomogram's by more than two voxels and 2 %."""
    own = volume.voxel_spacing_angstrom
    if own is None:
        return
    for axis, mine, other in zip("zyx", volume.shape, shape, strict=True):
        if abs(mine * own - other * spacing) > max(2 * max(own, spacing), 0.02 * other * spacing):
            raise UsageError(
                f"{volume.path}: along {axis} it covers {mine * own:.0f} Å, the tomogram {other * spacing:.0f} Å",
                "give the tomogram that the segmentation was made of",
            )
