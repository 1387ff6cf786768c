"""The sections `input` and `segment`: which tomograms are read, and how membranes are segmented."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.pipeline.settings.section import OptionalText, OrNull, Section, YesNo


class InputSettings(Section):
    """Which tomogram of each run is processed."""

    tomogram_type: OptionalText = Field(
        None,
        description="Tomogram type in the project, e.g. `wbp` or `denoised`. Default: a type with `denoised` in its "
        "name, else `wbp`, else the first by name.",
    )
    voxel_spacing_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, OrNull] = Field(
        None, description="Voxel spacing of the tomogram in Å. Default: the one nearest to 10 Å."
    )


class SegmentSettings(Section):
    """Membrane segmentation: a network in overlapping windows over the tomogram (sliding window)."""

    excluded_from_digest = ("mode", "batch", "compilation", "block_voxels", "model")

    model: str = Field(
        "membrain-cloud-small",
        description="Segmentation model: a built-in name, a path, a URL, or a name of the model registry. "
        "`#sha256=...` after a path or URL pins its content.",
    )
    mode: Literal["exact", "fast"] = Field(
        "fast",
        description="`exact`: as MemBrain-seg, voxel for voxel: eight mirrored passes for each window, float32 on a "
        "CPU, no rescaling. `fast`: nearly the same result with a quarter to an eighth of the passes: as few mirrors "
        "as a window needs, the machine's fastest arithmetic, empty windows skipped, windows rescaled where the voxel "
        "spacing is far from the model's. `mirrors`, `precision` and `rescale` override either.",
    )
    window: Annotated[Annotated[int, Field(ge=16, le=512)] | None, OrNull] = Field(
        None,
        description="Edge of the network's cubic window in voxels; larger windows take more memory. "
        "Default: the one the model was trained with.",
    )
    overlap: float = Field(
        0.5, ge=0.0, le=0.75, description="Overlap of neighbouring windows, as a fraction of the window's edge."
    )
    mirrors: Annotated[Literal["yes", "no", "adaptive"] | None, YesNo] = Field(
        None,
        description="Test-time augmentation by mirrored windows. `yes`: mean over all eight mirrors. `no`: one pass. "
        "`adaptive`: one mirror, chosen by the window's place, and further ones while voxels are undecided. "
        "Default: `yes` in exact mode, `adaptive` in fast mode.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Arithmetic of the network. `bfloat16`: a GPU, or a CPU with AMX or AVX-512 BF16. `float16`: a "
        "GPU. `int8`: a CPU with VNNI. `auto`: in fast mode a fast one that the machine has, in exact mode "
        "MemBrain-seg's.",
    )
    rescale: Annotated[bool | None, OrNull] = Field(
        None,
        description="Resample each window to the model's voxel spacing. Default: in fast mode where the tomogram's "
        "spacing differs from it by more than 45 %; in exact mode not.",
    )
    output_grid: Literal["tomogram", "level", "model"] = Field(
        "tomogram",
        description="Voxel grid of the result. `tomogram`: the tomogram's. `level`: that of the pyramid level nearest "
        "to the model's voxel spacing; that level is read in place of the finest. `model`: the model's spacing.",
    )
    threshold: float = Field(
        0.0, description="A voxel is membrane where its logit is above this; 0 is a probability of 0.5."
    )
    scores: Annotated[Literal["no", "float16", "uint8"], YesNo] = Field(
        "no",
        description="Store the scores as copick features: logits as `float16`, or probabilities as `uint8`. A run "
        "with another threshold then needs no network.",
    )
    uncertainty: bool = Field(
        False,
        description="Store the variance of the probability over the eight mirrors as copick features (for a network "
        "that is symmetric under mirroring: p (1 - p)). Needs `mirrors: yes`.",
    )
    batch: Annotated[Annotated[int, Field(ge=1, le=64)] | None, OrNull] = Field(
        None, description="Windows in one forward pass. Default: 1 on a CPU; on a GPU as many as fill it."
    )
    compilation: Annotated[Literal["no", "compile", "graphs", "both"], YesNo] = Field(
        "no",
        description="Compile the network on a GPU: `compile` (torch.compile, about a minute at the first window), "
        "`graphs` (CUDA graphs), `both`, or `no`.",
    )
    block_voxels: int = Field(
        1024 * 1024 * 512,
        ge=1,
        description="Volumes with more voxels are cut into blocks, one task each. The result does not depend on it.",
    )

    @model_validator(mode="after")
    def _variance_needs_mirrors(self) -> Self:
        if self.uncertainty and self.effective_mirrors != "yes":
            raise PydanticCustomError("mirrors", "uncertainty needs all eight mirrors: set segment.mirrors=yes as well")
        if self.output_grid != "tomogram" and (self.uncertainty or self.scores != "no"):
            # copick keeps features beside the tomogram, on its voxels.
            raise PydanticCustomError(
                "grid", "scores and uncertainty are kept on the tomogram's voxels: set segment.output_grid=tomogram"
            )
        return self

    @property
    def effective_mirrors(self) -> Literal["yes", "no", "adaptive"]:
        """The test-time augmentation that `mirrors` and `mode` amount to."""
        return self.mirrors or ("yes" if self.mode == "exact" else "adaptive")

    @property
    def effective_precision(self) -> str:
        """The precision that `precision` and `mode` amount to, as `models.load_segmenter` takes it."""
        return self.precision if self.precision != "auto" else {"exact": "faithful", "fast": "auto"}[self.mode]

    @property
    def skip_void(self) -> bool:
        """Whether windows without content are skipped."""
        return self.mode == "fast"

    def digest_settings(self) -> dict[str, Any]:
        """Return the settings that a digest covers: `mode` enters by what it amounts to."""
        effective = {
            "mirrors": self.effective_mirrors,
            "precision": self.effective_precision,
            "skip_void": self.skip_void,
            "rescale": self.rescale if self.rescale is not None else self.mode,
        }
        return super().digest_settings() | effective
