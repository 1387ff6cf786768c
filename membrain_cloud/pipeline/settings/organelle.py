"""The section `organelle`: which organelle each membrane belongs to."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.pipeline.settings.section import OptionalText, Section, split_list


class OrganelleSettings(Section):
    """The organelle of each membrane, from segmentations of organelles by any tool."""

    segmentations: OptionalText = Field(
        None,
        description="copick URIs of organelles, comma-separated: `mitochondrion:alice/1,er:alice/1` with one object "
        "each, or a volume of several labels, `organelles:alice/1`. Default: none, and the stage is left out.",
    )
    labels: OptionalText = Field(
        None,
        description="Organelles of the labels of a volume of several, `1=mitochondrion,2=er`. Default: the labels of "
        "the project's objects.",
    )
    reach_nm: float = Field(
        8.0, ge=0, description="Labels farther than this in nm along a membrane's normals do not count."
    )
    least_share: float = Field(
        0.5, gt=0, le=1, description="Minimum share of a membrane's area on an organelle's labels."
    )
    least_margin: float = Field(
        0.2, ge=0, le=1, description="Minimum difference of that share to the second largest; less is ambiguous."
    )
    least_enclosed: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Minimum share of a membrane's area inside an organelle, its holes filled, where labels on the "
        "membrane do not decide.",
    )

    @field_validator("segmentations")
    @classmethod
    def _are_uris(cls, value: str | None) -> str | None:
        for uri in split_list(value) if value is not None else ():
            if ":" not in uri:
                raise PydanticCustomError("uri", f"{uri} is no copick URI, name:user/session")
        return value

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: str | None) -> str | None:
        for pair in split_list(value) if value is not None else ():
            number, equals, name = pair.partition("=")
            if not equals or not number.strip().isdigit() or not int(number) or not name.strip():
                raise PydanticCustomError("labels", f"{pair} is not of the form 1=mitochondrion")
        return value

    @property
    def uris(self) -> tuple[str, ...]:
        """The copick URIs in `segmentations`, in their order."""
        return () if self.segmentations is None else split_list(self.segmentations)

    @property
    def names_of_labels(self) -> dict[int, str]:
        """The organelles in `labels` by label; empty if not set."""
        pairs = [] if self.labels is None else [pair.partition("=") for pair in split_list(self.labels)]
        return {int(number): name.strip() for number, _, name in pairs}
