"""The sections `separate` and `mesh`: from a segmentation to one mesh for each membrane."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.pipeline.settings.section import OptionalText, Section


class SeparateSettings(Section):
    """Separation of a segmentation into numbered membranes (instances)."""

    excluded_from_digest = ("segmentation",)

    min_voxels: int = Field(
        1000,
        ge=1,
        description="Minimum size of a membrane in voxels. Smaller connected components are dropped, and no "
        "component is split into smaller parts.",
    )
    split: bool = Field(
        True,
        description="Split connected components where membranes touch or cross, by their mid-surfaces. Without it "
        "touching membranes are one.",
    )
    drop_border: bool = Field(False, description="Drop membranes that the border of the tomogram cuts.")
    split_voxels: int = Field(
        2**29,
        ge=1,
        description="Maximum bounding box of a component that is split, in voxels; splitting takes about 14 bytes a "
        "voxel. Lower it to bound the memory for large tomograms.",
    )
    region: OptionalText = Field(
        None,
        description="Keep only membrane voxels inside this region: copick URI of a segmentation "
        "(`cell:alice/1@10.0`) or of closed meshes (`cell:alice/1`), or two corners of a box in Å, "
        "`x0,y0,z0,x1,y1,z1`. Default: the whole tomogram.",
    )
    segmentation: OptionalText = Field(
        None,
        description="copick URI of a segmentation to start from in place of the stage segment, e.g. "
        "`membrane:alice/3@10.0`. With `?instance=true` its instances are meshed as they are. Default: segment's.",
    )

    @property
    def region_box(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The region's low and high corners, xyz in Å; None where it is no box."""
        if self.region is None or ":" in self.region:
            return None
        numbers = tuple(float(part) for part in self.region.split(","))
        return numbers[:3], numbers[3:]

    @field_validator("region")
    @classmethod
    def _is_region(cls, region: str | None) -> str | None:
        if region is not None and ":" not in region:
            try:
                numbers = [float(part) for part in region.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != 6 or any(a > b for a, b in zip(numbers[:3], numbers[3:], strict=True)):
                raise ValueError("write x0,y0,z0,x1,y1,z1 in Å, or the URI of a segmentation")
        return region

    @property
    def starts_from_instances(self) -> bool:
        """Whether `segmentation` names instances, so that the stage separate is left out."""
        return self.segmentation is not None and "instance=true" in self.segmentation.lower()


class MeshSettings(Section):
    """Triangle meshes of the membranes."""

    vertex_area_angstrom2: float = Field(
        400.0, gt=0, description="Mean surface area for each vertex in Å²; smaller values give finer meshes."
    )
    smoothing_angstrom: float = Field(
        10.0, ge=0, description="Standard deviation in Å of the Gaussian that smooths the mask before meshing."
    )
    surface: Literal["shell", "side", "midsurface"] = Field(
        "shell",
        description="`shell`: closed surface around the slab, so that it has both leaflets (as MemBrain-pick's and "
        "the built-in picker expect). `side`: the part of the shell on one side. `midsurface`: the surface midway "
        "between the leaflets, with normals towards one side.",
    )
    seed: OptionalText = Field(
        None,
        description="Point in Å, `x,y,z`, on the wanted side of the membranes, for `side` and `midsurface`. "
        "Default: the outer side of a closed membrane, the larger side of others.",
    )
    thickest_angstrom: float = Field(
        150.0, gt=0, description="Upper limit of a membrane's thickness in Å, for telling its two sides apart."
    )

    @property
    def seed_point(self) -> tuple[float, ...] | None:
        """The point `seed`, xyz in Å."""
        return None if self.seed is None else tuple(float(part) for part in self.seed.split(","))

    @field_validator("seed")
    @classmethod
    def _is_point(cls, seed: str | None) -> str | None:
        if seed is not None:
            try:
                numbers = [float(part) for part in seed.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != 3 or not all(abs(number) < 1e9 for number in numbers):
                raise ValueError("write x,y,z in Å")
        return seed

    @model_validator(mode="after")
    def _seed_has_a_use(self) -> Self:
        if self.seed is not None and self.surface == "shell":
            raise PydanticCustomError(
                "seed", "a shell has both sides: set mesh.surface=side or midsurface with mesh.seed"
            )
        return self
