"""The section `context`: the membranes around any particles."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.pipeline.settings.section import OptionalText, Section


class ContextSettings(Section):
    """The membranes around any particles: the nearest one, the particle's side of it, and what is local there."""

    picks: OptionalText = Field(
        None,
        description="copick URI of the particles, e.g. `ribosome:alice/1`. Default: none, and the stage is left out.",
    )
    meshes: OptionalText = Field(
        None,
        description="copick URI of the membranes' meshes, e.g. `membrane:alice/1`. Default: those of the stage mesh.",
    )
    reach_nm: float = Field(
        100.0, gt=0, description="Membranes farther than this in nm from a particle's centre are not considered."
    )
    bilayer: bool = Field(
        True,
        description="Measure the bilayer's thickness of membranes near particles in the tomogram, where there is one.",
    )

    @field_validator("picks", "meshes")
    @classmethod
    def _is_one_uri(cls, value: str | None) -> str | None:
        if value is not None and ("," in value or ":" not in value):
            raise PydanticCustomError("uri", "expected one copick URI, name:user/session")
        return value
