"""Which random changes a training patch goes through, how likely, and in which order.

Two presets: `membrain-seg`, for patches of real tomograms, and `simulated`, for specimens that are turned before they
are imaged (`patches.py`), so that the missing wedge always lies where a microscope puts it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import UsageError
from membrain_cloud.training.augmentation import geometric as turning
from membrain_cloud.training.augmentation import intensity as grey_values
from membrain_cloud.training.augmentation.intensity import Float32, Range, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from membrain_cloud.training.augmentation.geometric import Matrix, UInt8


@dataclass(frozen=True)
class Augmentations:
    """The chance of each change (0 to 1; 0 leaves it out), and its parameters. Changes come in the order given here.

    rotate, zoom : by up to `rotate_degrees` about each axis; by a factor from `zoom_range`.
    quarter_turn : in each of the three planes.  swap : of two axes, three times.  flip : of one axis.
    fourier_amplitude : spectrum times a random walk of `walk_sigma`.  missing_wedge : tilts up to `wedge_degrees`.
    median, gaussian : MemBrain-seg takes one of the two and applies that in 25 or 30 % of the cases: half of these.
    normalised : whether the patch ends with mean 0 and variance 1; brightness and contrast would then do nothing.
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
        """`membrain-seg`, `simulated` or `none`; UsageError for others."""
        if name not in PRESETS:
            raise UsageError(f"there are no augmentations {name!r}", f"known are {', '.join(PRESETS)}")
        return PRESETS[name]

    def with_chances(self, chances: dict[str, float]) -> Augmentations:
        """Other chances for some; UsageError for an unknown name or what is no chance."""
        for name, chance in chances.items():
            if name not in CHANCES:
                raise UsageError(f"there is no augmentation {name!r}", f"known are {', '.join(CHANCES)}")
            if not 0 <= chance <= 1:
                raise UsageError(f"the chance of {name} is {chance:g}", "give a number from 0 to 1")
        return replace(self, **chances)  # type: ignore[arg-type]

    @staticmethod
    def grey_names() -> tuple[str, ...]:
        """Changes of grey values, in their order."""
        return tuple(_GREY)

    def matrix(self, rng: np.random.Generator) -> Matrix | None:
        """The turn and magnification of one patch, for `turning.cut`; None for neither."""
        turned = bool(self.rotate) and rng.random() < self.rotate
        matrix = turning.rotation(rng, self.rotate_degrees) if turned else np.eye(3)
        zoomed = bool(self.zoom) and rng.random() < self.zoom
        factor = float(rng.uniform(*self.zoom_range)) if zoomed else 1.0
        return matrix / factor if turned or zoomed else None

    def cut(
        self, image: Float32, label: UInt8, middle: NDArray[np.floating], window: int, rng: np.random.Generator
    ) -> tuple[Float32, UInt8]:
        """A patch of `window`^3 voxels around `middle` (zyx, voxels) of a volume, turned and mirrored at random."""
        patch, truth = turning.cut(image, label, middle, window, self.matrix(rng))
        return turning.quarter_turns(patch, truth, rng, turn=self.quarter_turn, swap=self.swap, flip=self.flip)

    def change(self, image: Float32, rng: np.random.Generator) -> Float32:
        """The grey values of a patch (w, w, w), normalised first."""
        image = normalise(image)
        for name, function in _GREY.items():
            chance = getattr(self, name)
            if chance and rng.random() < chance:
                image = function(image, rng, self)
        return normalise(image) if self.normalised else image.astype(np.float32, copy=False)


_GREY: dict[str, Callable[[Float32, np.random.Generator, Augmentations], Float32]] = {
    "fourier_amplitude": lambda v, rng, a: grey_values.fourier_amplitude(v, rng, a.walk_sigma),
    "missing_wedge": lambda v, rng, a: grey_values.missing_wedge(v, rng, tilt_degrees=a.wedge_degrees),
    "median": lambda v, rng, a: grey_values.median(v, rng, sizes=a.median_sizes),
    "gaussian": lambda v, rng, a: grey_values.gaussian(v, rng, sigma=a.gaussian_sigma, each_axis=a.gaussian_each_axis),
    "brightness_ramp": lambda v, rng, a: grey_values.brightness_ramp(v, rng),
    "noise": lambda v, rng, a: grey_values.noise(v, rng, largest=a.noise_largest),
    "brightness": lambda v, rng, a: grey_values.brightness(v, rng, sigma=a.brightness_sigma),
    "contrast": lambda v, rng, a: grey_values.contrast(v, rng, factor=a.contrast_factor),
    "low_resolution": lambda v, rng, a: grey_values.low_resolution(v, rng, zoom=a.low_resolution_zoom),
    "gamma": lambda v, rng, a: grey_values.gamma(v, rng, exponent=a.gamma_exponent),
    "gamma_both_ways": lambda v, rng, a: grey_values.gamma_both_ways(v, rng, exponent=a.gamma_exponent),
    "erase": lambda v, rng, a: grey_values.erase(v, rng, most=a.erase_most),
    "brightness_gradient": lambda v, rng, a: grey_values.brightness_gradient(v, rng),
    "local_gamma": lambda v, rng, a: grey_values.local_gamma(v, rng),
    "sharpen": lambda v, rng, a: grey_values.sharpen(v, rng, strength=a.sharpen_strength),
}
CHANCES = ("rotate", "zoom", "quarter_turn", "swap", "flip", *_GREY)
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
