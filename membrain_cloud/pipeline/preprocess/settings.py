"""The defaults of the preprocessing verbs, MemBrain-seg's.

They stand beside `settings.py`, since no stage of a run has them, and without pydantic, since the help shows them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Means:
    """What a verb may use.

    memory_gib : at its peak, everything counted.
    scratch : folder of temporary files (4 bytes a voxel of the volume); None: the system's.
    threads : of the Fourier transforms; None: one a core.
    """

    memory_gib: float = 2.0
    scratch: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Output:
    """The file to write: MRC, or OME-Zarr where its name ends in .zarr."""

    path: str
    overwrite: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class PixelSizeSettings:
    """smooth : let the high frequencies fade.  normalize : to mean 0 and standard deviation 1, as MemBrain-seg does."""

    target_spacing_angstrom: float = 10.0
    smooth: bool = True
    normalize: bool = False


@dataclass(frozen=True)
class SpectrumSettings:
    """See `membranes.spectra.equalizer`."""

    cutoff_angstrom: float | None = None
    smoothen_bins: float = 10.0
    almost_zero_cutoff: bool = True
    largest_factor: float = 50.0


@dataclass(frozen=True)
class DeconvolutionSettings:
    """See `membranes.deconvolution.deconvolution_kernel`."""

    defocus_angstrom: float = 50000.0
    amplitude_contrast: float = 0.07
    spherical_aberration_mm: float = 2.7
    voltage_kv: float = 300.0
    strength: float = 1.0
    falloff: float = 1.0
    highpass_cycles_per_voxel: float = 0.02
    lowpass: bool = True
    membrain_seg_radii: bool = False
