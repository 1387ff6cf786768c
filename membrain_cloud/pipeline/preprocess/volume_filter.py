"""One volume on its way through a filter in Fourier space, within a bound of memory; files and numbers checked."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.image.amplitude_spectrum import Spectrum, radial_spectrum
from membrain_cloud.image.fourier import Affine, FourierVolume, Kernel, scratch_shape
from membrain_cloud.image.resampling import SMALLEST_AXIS
from membrain_cloud.segmentation.sliding_window import Statistics, density_statistics
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter
from membrain_cloud.store.volumes.scratch_array import ScratchSpace
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.pipeline.preprocess.settings import Output, Resources

Progress = Callable[[int, int], None]
OWN_BYTES = 256 << 20
"""Memory that Python and the libraries take themselves."""

# The least memory to work in, beside the scratch array.
_LEAST_BYTES = 64 << 20


@dataclass(frozen=True)
class FilteredFile:
    """A file that was written.

    Attributes
    ----------
    path : str
        The file.
    shape : tuple of int
        Voxels along z, y, x.
    voxel_spacing_angstrom : float
        Å.
    notes : tuple of str
        What was assumed about the input, as sentences.
    """

    path: str
    shape: Zyx
    voxel_spacing_angstrom: float
    notes: tuple[str, ...]


class ProgressCounter:
    """Counts work that is done, and reports it.

    Parameters
    ----------
    progress : callable
        Called with the work done and the work in all.
    total : int
        The work in all.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        """Report that `more` of the work is done."""
        self._done += more
        self._progress(min(self._done, self._total), self._total)


@dataclass
class FilterWork:
    """One volume on its way through a filter; made by `open`.

    Attributes
    ----------
    volume : VolumeFile
        The input.
    spacing : float
        Its voxel spacing, Å.
    resources : Resources
        What may be used.
    progress : callable
        Called with the planes done and the planes in all.
    space : ScratchSpace
        For scratch arrays.
    notes : list of str
        What was assumed about the input.
    target : tuple of int
        Voxels of the output along z, y, x; at first those of the input.
    counter : ProgressCounter
        Counts planes.
    memory_bytes : int
        Memory that is left to work in.
    statistics : Statistics
        Mean and standard deviation of the input, once `transform` was called.
    lowest, highest : float
        Smallest and largest value of the input, once `transform` was called.
    """

    volume: VolumeFile
    spacing: float
    resources: Resources
    progress: Progress
    space: ScratchSpace
    notes: list[str]
    target: Zyx
    counter: ProgressCounter
    memory_bytes: int
    statistics: Statistics = field(init=False)
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str, spacing: float | None, resources: Resources, progress: Progress) -> Iterator[FilterWork]:
        """Open a volume file for filtering, and check what can be checked before anything is computed.

        Parameters
        ----------
        path : str
            The volume's file.
        spacing : float or None
            Voxel spacing in Å; None for the file's own.
        resources : Resources
            What may be used.
        progress : callable
            Called with the planes done and the planes in all.

        Yields
        ------
        FilterWork

        Raises
        ------
        UsageError
            If the memory is too small.
        TomogramError
            If the file is no volume, or an axis is too short.
        VoxelSpacingError
            If the voxel spacing is unknown.
        """
        memory_bytes = int(resources.memory_gib * GIB) - OWN_BYTES
        if memory_bytes < _LEAST_BYTES:
            raise UsageError(f"{resources.memory_gib:g} GiB of memory are too few", "give memory_gib of at least 0.5")
        scratch = ScratchSpace(resources.scratch, memory_bytes=memory_bytes // 2, moved_by="scratch")
        with open_volume_file(path, resources.scratch) as volume, scratch as space, name_file_in_errors(path):
            own_spacing = volume.spacing_angstrom(spacing)
            if min(volume.shape) < SMALLEST_AXIS:
                shape = " x ".join(map(str, volume.shape))
                raise TomogramError(f"{shape} voxels are too few", f"give a volume of {SMALLEST_AXIS} on each axis")
            yield cls(
                volume,
                own_spacing,
                resources,
                progress,
                space,
                list(volume.notes),
                volume.shape,
                ProgressCounter(progress, 1),
                memory_bytes,
            )

    @property
    def shape(self) -> Zyx:
        """Voxels of the input along z, y, x."""
        return self.volume.shape

    def expect(self, total: int) -> None:
        """Count anew, up to `total` planes.

        Parameters
        ----------
        total : int
            Number of planes of the passes to come.
        """
        self.counter = ProgressCounter(self.progress, total)

    def writer(self, output: Output, spacing: float) -> VolumeFileWriter:
        """Return a writer of the output.

        Parameters
        ----------
        output : Output
            The file to write.
        spacing : float
            Its voxel spacing, Å.

        Returns
        -------
        VolumeFileWriter

        Raises
        ------
        UsageError, StorageError
            As `VolumeFileWriter`.
        """
        return VolumeFileWriter(output.path, self.target, spacing, output.dtype, overwrite=output.overwrite)

    def result(self, path: str, spacing: float) -> FilteredFile:
        """Return the facts of the file that was written.

        Parameters
        ----------
        path : str
            The file.
        spacing : float
            Its voxel spacing, Å.

        Returns
        -------
        FilteredFile
        """
        return FilteredFile(path, self.target, spacing, tuple(self.notes))

    def transform(self) -> FourierVolume:
        """Take the volume's statistics, then transform its planes into a scratch array.

        Returns
        -------
        FourierVolume

        Raises
        ------
        TomogramError
            If the volume is constant, or holds NaN or infinite values.
        UsageError
            If the memory is too small for a plane.
        StorageError
            If the scratch array does not fit on the disk.
        """
        at_start = self.space.memory_bytes
        array = self.space.array(scratch_shape(self.shape, self.target), np.complex64)
        read = self._read_once()
        self.memory_bytes -= at_start - self.space.memory_bytes
        transform = FourierVolume(
            self.shape,
            self.target,
            array,
            memory_bytes=self.memory_bytes,
            threads=self.resources.threads or len(os.sched_getaffinity(0)),
            advance=self.counter,
        )
        transform.load(read, Affine(self.statistics.mean, self.statistics.std))
        return transform

    def spectrum(self, transform: FourierVolume) -> Spectrum:
        """Return the radial amplitude spectrum.

        Parameters
        ----------
        transform : FourierVolume
            Of this volume.

        Returns
        -------
        Spectrum
        """
        return radial_spectrum(
            transform.columns(),
            self.shape,
            voxel_spacing_angstrom=self.spacing,
            lowest=self.lowest,
            highest=self.highest,
            std=self.statistics.std,
        )

    def finish(
        self, transform: FourierVolume, kernel: Kernel | None, writer: VolumeFileWriter, *, normalize: bool
    ) -> None:
        """Filter the volume and write it.

        Parameters
        ----------
        transform : FourierVolume
            Of this volume.
        kernel : callable or None
            The filter; None for none.
        writer : VolumeFileWriter
            Of the output.
        normalize : bool
            Whether the output has mean 0 and standard deviation 1.

        Raises
        ------
        TomogramError
            If the filter leaves a constant volume, which cannot be normalized.
        StorageError
            If the output cannot be written.
        """
        at_zero, std = transform.filter(kernel)
        if normalize and not std > 0:
            raise TomogramError("the filter leaves a constant volume", "choose a finer cut-off or target")
        scale = 1 / std if normalize else self.statistics.std
        offset = 0.0 if normalize else self.statistics.mean * at_zero
        for box, values in transform.planes():
            np.multiply(values, np.float32(scale), out=values)
            np.add(values, np.float32(offset), out=values)
            writer.write(box, values)

    def _read_once(self) -> Callable[[Box], NDArray[Any]]:
        """Take the statistics, and return a reader of planes: of a copy where the file is made of thick chunks."""
        volume = self.volume
        plane = math.prod(self.shape[1:]) * volume.dtype.itemsize
        copy = None
        if volume.chunk[0] > 1 and volume.chunk != volume.shape:
            copy = self.space.array(self.shape, volume.dtype)
        step = max(1, self.memory_bytes // 8 // max(1, 16 * plane // volume.dtype.itemsize))
        parts = volume.chunk if copy is not None else (step, *self.shape[1:])

        def values() -> Iterator[NDArray[Any]]:
            for box in iterate_chunks(self.shape, parts):
                part = volume.read(box)
                if copy is not None:
                    copy.write(box, part)
                self.lowest = min(self.lowest, float(part.min()))
                self.highest = max(self.highest, float(part.max()))
                yield from part  # by planes: the statistics make a copy in float64
                if box.stop[1:] == self.shape[1:]:
                    self.counter(box.stop[0] - box.start[0])

        try:
            self.statistics = density_statistics(values())
        except TomogramError:
            if self.lowest != self.highest:
                raise
            raise TomogramError(
                f"every voxel has the value {self.lowest:g}", "there is nothing to filter; check how it was written"
            ) from None
        return volume.read if copy is None else copy.read


@contextlib.contextmanager
def name_file_in_errors(path: str) -> Iterator[None]:
    """Put a file's name into errors of algorithms, which do not know the file.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    TomogramError, UsageError
        As raised within the `with` block, with the file's name.
    """
    try:
        yield
    except (TomogramError, UsageError) as error:
        if path in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", error.next_step) from error
