"""Which augmentations a training patch goes through, with which probabilities and in which order.

There are two presets beside `none`: `membrain-seg` for patches of real tomograms, and `simulated` for specimens. These
are rotated before they are imaged (`training.segmentation.simulated_patches`), so that the missing wedge always lies
where a microscope puts it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import UsageError
from membrain_cloud.training.augmentation import fourier, geometric, intensity
from membrain_cloud.training.augmentation.intensity import Float32, Range, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from membrain_cloud.training.augmentation.geometric import Matrix, UInt8


@dataclass(frozen=True)
class Augmentations:
    """Probabilities of all augmentations, in the order in which they are applied, and their parameters.

    Each probability is a number from 0 to 1; 0 leaves the augmentation out.

    Attributes
    ----------
    rotate, zoom : float
        Rotation about the axes z, y and x, and magnification.
    quarter_turn : float
        Rotation by 90, 180 or 270 degrees, in each of the three planes.
    swap : float
        Exchange of two axes, three times.
    flip : float
        Mirror image along one axis.
    fourier_amplitude : float
        Amplitude spectrum times a random walk over frequency shells.
    missing_wedge : float
        Missing wedge in a random orientation.
    median, gaussian : float
        Median and Gaussian filter. MemBrain-seg chooses one of the two and applies it in 25 or 30 % of the cases, so
        its preset has half of these.
    brightness_ramp, noise, brightness, contrast, low_resolution, gamma, gamma_both_ways : float
        As the functions of the same names in `intensity`.
    erase, brightness_gradient, local_gamma, sharpen : float
        Likewise.
    rotate_degrees : float
        Largest rotation about each axis, in degrees.
    zoom_range : tuple of float
        Range of the magnification.
    walk_sigma : float
        Standard deviation of a step of the random walk of `fourier_amplitude`.
    wedge_degrees : tuple of float
        Range of the largest tilt of `missing_wedge`, in degrees.
    median_sizes : tuple of int
        Range of the edge length of the median, in voxels.
    gaussian_sigma : tuple of float
        Range of the Gaussian's sigma, in voxels.
    gaussian_each_axis : bool
        Whether every axis draws its own sigma.
    noise_largest, brightness_sigma, contrast_factor, low_resolution_zoom, gamma_exponent, erase_most, sharpen_strength
        Parameters of the functions in `intensity`.
    normalised : bool
        Whether the patch ends with mean 0 and variance 1. Brightness and contrast then have no effect.
    """

    rotate: float = 0.0
    zoom: float = 0.0
    quarter_turn: float = 0.0
    swap: float = 0.0
    flip: float = 0.0
    fourier_amplitude: float = 0.0
    missing_wedge: float = 0.0
    median: float = 0.0
    gaussian: float = 0.0
    brightness_ramp: float = 0.0
    noise: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    low_resolution: float = 0.0
    gamma: float = 0.0
    gamma_both_ways: float = 0.0
    erase: float = 0.0
    brightness_gradient: float = 0.0
    local_gamma: float = 0.0
    sharpen: float = 0.0
    rotate_degrees: float = 30.0
    zoom_range: Range = (0.7, 1.43)
    walk_sigma: float = 0.2
    wedge_degrees: Range = (40.0, 70.0)
    median_sizes: tuple[int, int] = (2, 7)
    gaussian_sigma: Range = (0.3, 1.5)
    gaussian_each_axis: bool = True
    noise_largest: float = 0.7
    brightness_sigma: float = 0.5
    contrast_factor: Range = (0.5, 2.0)
    low_resolution_zoom: Range = (0.25, 1.0)
    gamma_exponent: Range = (0.5, 4.5)
    erase_most: int = 5
    sharpen_strength: Range = (0.1, 1.0)
    normalised: bool = False

    @classmethod
    def preset(cls, name: str) -> Augmentations:
        """Return a preset.

        Parameters
        ----------
        name : str
            "membrain-seg", "simulated" or "none".

        Returns
        -------
        augmentations : Augmentations
            The preset.

        Raises
        ------
        UsageError
            If there is no such preset.
        """
        if name not in PRESETS:
            raise UsageError(f"there are no augmentations {name!r}", f"known are {', '.join(PRESETS)}")
        return PRESETS[name]

    def with_chances(self, chances: dict[str, float]) -> Augmentations:
        """Return a copy with other probabilities.

        Parameters
        ----------
        chances : dict of str to float
            Probabilities by the names of augmentations (`CHANCES`); the others are unchanged.

        Returns
        -------
        augmentations : Augmentations
            The copy.

        Raises
        ------
        UsageError
            If a name is unknown or a number is not a probability.
        """
        for name, chance in chances.items():
            if name not in CHANCES:
                raise UsageError(f"there is no augmentation {name!r}", f"known are {', '.join(CHANCES)}")
            if not 0 <= chance <= 1:
                raise UsageError(f"the chance of {name} is {chance:g}", "give a number from 0 to 1")
        return replace(self, **chances)  # type: ignore[arg-type]

    @staticmethod
    def intensity_names() -> tuple[str, ...]:
        """Return the names of the changes of intensity, in the order in which they are applied."""
        return tuple(_INTENSITY)

    def random_matrix(self, rng: np.random.Generator) -> Matrix | None:
        """Draw rotation and magnification of one patch.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        matrix : ndarray of shape (3, 3), float64, or None
            Offsets in the patch to offsets in the volume, as `geometric.cut_patch` takes it; None for the identity.
        """
        rotated = bool(self.rotate) and rng.random() < self.rotate
        matrix = geometric.random_rotation(rng, self.rotate_degrees) if rotated else np.eye(3)
        zoomed = bool(self.zoom) and rng.random() < self.zoom
        factor = float(rng.uniform(*self.zoom_range)) if zoomed else 1.0
        return matrix / factor if rotated or zoomed else None

    def cut_patch(
        self,
        image: NDArray[np.floating[Any]],
        label: UInt8,
        center: NDArray[np.floating[Any]],
        window: int,
        rng: np.random.Generator,
    ) -> tuple[Float32, UInt8]:
        """Cut a patch out of a volume, rotated, magnified and mirrored at random.

        Parameters
        ----------
        image : ndarray of shape (Z, Y, X), float
            The volume, in memory or mapped from a file.
        label : ndarray of shape (Z, Y, X), uint8
            Its labels.
        center : ndarray of shape (3,), float
            Centre of the patch (z, y, x), in voxels.
        window : int
            Edge length of the patch, in voxels.
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        patch : ndarray of shape (window, window, window), float32
            The image.
        truth : ndarray of shape (window, window, window), uint8
            Its labels.
        """
        patch, truth = geometric.cut_patch(image, label, center, window, self.random_matrix(rng))
        return geometric.quarter_turns(patch, truth, rng, turn=self.quarter_turn, swap=self.swap, flip=self.flip)

    def augment_intensity(self, image: Float32, rng: np.random.Generator) -> Float32:
        """Normalise a patch and apply the changes of intensity.

        Parameters
        ----------
        image : ndarray of shape (Z, Y, X), float32
            The patch; it is not changed.
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        image : ndarray of shape (Z, Y, X), float32
            A new patch.
        """
        image = normalise(image)
        for name, function in _INTENSITY.items():
            chance = getattr(self, name)
            if chance and rng.random() < chance:
                image = function(image, rng, self)
        return normalise(image) if self.normalised else image.astype(np.float32, copy=False)


_INTENSITY: dict[str, Callable[[Float32, np.random.Generator, Augmentations], Float32]] = {
    "fourier_amplitude": lambda v, rng, a: fourier.fourier_amplitude(v, rng, a.walk_sigma),
    "missing_wedge": lambda v, rng, a: fourier.missing_wedge(v, rng, tilt_degrees=a.wedge_degrees),
    "median": lambda v, rng, a: intensity.median(v, rng, sizes=a.median_sizes),
    "gaussian": lambda v, rng, a: intensity.gaussian(v, rng, sigma=a.gaussian_sigma, each_axis=a.gaussian_each_axis),
    "brightness_ramp": lambda v, rng, a: intensity.brightness_ramp(v, rng),
    "noise": lambda v, rng, a: intensity.noise(v, rng, largest=a.noise_largest),
    "brightness": lambda v, rng, a: intensity.brightness(v, rng, sigma=a.brightness_sigma),
    "contrast": lambda v, rng, a: intensity.contrast(v, rng, factor=a.contrast_factor),
    "low_resolution": lambda v, rng, a: intensity.low_resolution(v, rng, zoom=a.low_resolution_zoom),
    "gamma": lambda v, rng, a: intensity.gamma(v, rng, exponent=a.gamma_exponent),
    "gamma_both_ways": lambda v, rng, a: intensity.gamma_both_ways(v, rng, exponent=a.gamma_exponent),
    "erase": lambda v, rng, a: intensity.erase(v, rng, most=a.erase_most),
    "brightness_gradient": lambda v, rng, a: intensity.brightness_gradient(v, rng),
    "local_gamma": lambda v, rng, a: intensity.local_gamma(v, rng),
    "sharpen": lambda v, rng, a: intensity.sharpen(v, rng, strength=a.sharpen_strength),
}
CHANCES = ("rotate", "zoom", "quarter_turn", "swap", "flip", *_INTENSITY)
PRESETS = {
    "none": Augmentations(),
    "simulated": Augmentations(
        fourier_amplitude=0.4,
        gaussian=0.15,
        brightness_ramp=0.25,
        gamma=0.2,
        erase=0.15,
        gaussian_sigma=(0.3, 1.0),
        gaussian_each_axis=False,
        gamma_exponent=(0.7, 1.5),
        erase_most=3,
        normalised=True,
    ),
    "membrain-seg": Augmentations(
        rotate=0.75,
        zoom=0.3,
        quarter_turn=0.7,
        swap=0.5,
        flip=0.5,
        median=0.125,
        gaussian=0.15,
        noise=0.4,
        brightness=0.3,
        contrast=0.3,
        low_resolution=0.35,
        gamma_both_ways=0.25,
        erase=0.4,
        brightness_gradient=0.3,
        local_gamma=0.3,
        sharpen=0.2,
    ),
}
assert set(CHANCES) <= {field.name for field in fields(Augmentations)}
