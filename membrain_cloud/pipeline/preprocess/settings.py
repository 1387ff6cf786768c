"""Settings of the preprocessing filters, with MemBrain-seg's defaults.

They are no part of `pipeline.settings`, since no stage of a run has them, and need no pydantic, since the command line
shows them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What a filter may use.

    Attributes
    ----------
    memory_gib : float
        Peak memory of the process in GiB, interpreter and libraries included. Default: 2.
    scratch : str or None
        Folder of temporary files (4 bytes for each voxel of the volume). Default: the system's temporary folder.
    threads : int or None
        Threads of the Fourier transforms. Default: one for each core.
    """

    memory_gib: float = 2.0
    scratch: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Output:
    """The file to write.

    Attributes
    ----------
    path : str
        MRC, or OME-Zarr where the name ends in .zarr.
    overwrite : bool
        Whether an existing file is replaced. Default: False.
    dtype : str
        float32 or float16. Default: float32.
    """

    path: str
    overwrite: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class PixelSizeSettings:
    """Settings of resampling to another voxel spacing.

    Attributes
    ----------
    target_spacing_angstrom : float
        Å. Default: 10.
    smooth : bool
        Whether the highest frequencies fade out instead of being cut off. Default: True.
    normalize : bool
        Whether the result has mean 0 and standard deviation 1, as MemBrain-seg's. Default: False.
    """

    target_spacing_angstrom: float = 10.0
    smooth: bool = True
    normalize: bool = False


@dataclass(frozen=True)
class SpectrumSettings:
    """Settings of matching an amplitude spectrum; see `membrain_cloud.image.amplitude_spectrum.equalizer`.

    Attributes
    ----------
    cutoff_angstrom : float or None
        Details finer than this are removed, Å. Default: None, they are kept.
    smoothen_bins : float
        Width of the decline before a cut-off, in bins of the spectrum. Default: 10.
    almost_zero_cutoff : bool
        Whether frequencies at which either spectrum is almost 0 are removed. Default: True.
    largest_factor : float
        Largest factor by which a frequency is amplified. Default: 50.
    """

    cutoff_angstrom: float | None = None
    smoothen_bins: float = 10.0
    almost_zero_cutoff: bool = True
    largest_factor: float = 50.0


@dataclass(frozen=True)
class DeconvolutionSettings:
    """Settings of the deconvolution; see `membrain_cloud.image.deconvolution.deconvolution_kernel`.

    Attributes
    ----------
    defocus_angstrom : float
        Å, positive for underfocus. Default: 50000.
    amplitude_contrast : float
        Fraction. Default: 0.07.
    spherical_aberration_mm : float
        mm. Default: 2.7.
    voltage_kv : float
        kV. Default: 300.
    strength : float
        The assumed signal-to-noise ratio at low frequencies is 10^(3 strength). Default: 1.
    falloff : float
        The ratio declines with the frequency f in 1/Å as exp(-100 falloff f). Default: 1.
    highpass_cycles_per_voxel : float
        Frequency below which the ratio falls to 0. Default: 0.02.
    lowpass : bool
        Whether frequencies beyond the first zero of the CTF are removed. Default: True.
    membrain_seg_radii : bool
        Whether frequencies are measured as MemBrain-seg does, which is wrong along z in flat volumes. Default: False.
    """

    defocus_angstrom: float = 50000.0
    amplitude_contrast: float = 0.07
    spherical_aberration_mm: float = 2.7
    voltage_kv: float = 300.0
    strength: float = 1.0
    falloff: float = 1.0
    highpass_cycles_per_voxel: float = 0.02
    lowpass: bool = True
    membrain_seg_radii: bool = False
