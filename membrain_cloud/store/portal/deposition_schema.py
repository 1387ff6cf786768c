"""The part of the portal's ingestion configs (`cdp-ingestion-config` 1.1.0) that annotations need.

It follows the published rules: which keys exist, which are required, and which patterns values must have. Keys of other
kinds of data (tilt series, frames, tomograms) are left out, because this package deposits annotations only. Class and
field names are the portal's.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "cdp-ingestion-config 1.1.0"
"""Name and version of the portal's schema."""

_REFERENCE = r"(EMPIAR-[0-9]{5}|EMD-[0-9]{4,5}|(doi:)?10\.[0-9]{4,9}/[-._;()/:a-zA-Z0-9]+|pdb[0-9a-zA-Z]{4,8})"
Publications = Annotated[str, StringConstraints(pattern=rf"^{_REFERENCE}(\s*,\s*{_REFERENCE})*$")]
ObjectId = Annotated[
    str,
    StringConstraints(
        pattern=r"^(GO:[0-9]{7}|UniProtKB:([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9]([A-Z][A-Z0-9]{2}[0-9]){1,2}))$"
    ),
]
Orcid = Annotated[str, StringConstraints(pattern=r"[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{3}[0-9X]$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
LinkType = Literal["documentation", "models_weights", "other", "source_code", "website"]
MethodType = Literal["manual", "automated", "hybrid", "simulated"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Author(_Part):
    """An author of the annotations."""

    name: Text
    ORCID: Orcid | None = None
    email: str | None = None
    affiliation_name: str | None = None
    affiliation_address: str | None = None
    affiliation_identifier: str | None = None
    corresponding_author_status: bool | None = None
    primary_author_status: bool | None = None
    kaggle_id: str | None = None


class Dates(_Part):
    """Dates of an annotation; the release is not before the deposition."""

    deposition_date: datetime.date
    release_date: datetime.date
    last_modified_date: datetime.date

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.release_date < self.deposition_date:
            raise PydanticCustomError("dates", "the release cannot be before the deposition")
        return self


class MethodLink(_Part):
    """A link to documentation, code or weights of the method."""

    link: Annotated[str, StringConstraints(pattern=r"^(https?|s3)://\S+$")]
    link_type: LinkType
    custom_name: str | None = None


class Confidence(_Part):
    """Measured precision and recall, in percent."""

    precision: Percent | None = None
    recall: Percent | None = None
    ground_truth_used: str | None = None


class AnnotationObject(_Part):
    """The object that is annotated."""

    id: ObjectId
    name: Text
    description: str | None = None
    state: str | None = None


class AnnotationMetadata(_Part):
    """The metadata of one annotation."""

    annotation_ingest_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]+$")]
    annotation_method: Text
    annotation_object: AnnotationObject
    method_type: MethodType
    dates: Dates
    authors: Annotated[list[Author], Field(min_length=1)]
    annotation_software: str | None = None
    annotation_publications: Publications | None = None
    confidence: Confidence | None = None
    ground_truth_status: bool | None = None
    is_curator_recommended: bool | None = None
    method_links: list[MethodLink] | None = None
    object_count: Annotated[int, Field(ge=0)] | None = None
    version: Annotated[float, Field(ge=0)] | None = None


class SourceFile(_Part):
    """The files of one shape; `{run_name}` in the globs stands for the portal's name of the run."""

    file_format: Text
    glob_string: str | None = None
    glob_strings: list[str] | None = None
    is_portal_standard: bool | None = None
    is_visualization_default: bool | None = None

    @model_validator(mode="after")
    def _has_a_glob(self) -> Self:
        if (self.glob_string is None) == (self.glob_strings is None):
            raise PydanticCustomError("glob", "exactly one of glob_string and glob_strings is needed")
        return self


class MaskFile(SourceFile):
    """The files of a semantic segmentation."""

    file_format: Literal["zarr", "mrc"]
    mask_label: int | None = None
    rescale: bool | None = None
    threshold: float | None = None


class InstanceMaskFile(SourceFile):
    """The files of an instance segmentation."""

    file_format: Literal["zarr", "mrc"]
    rescale: bool | None = None


class PointFile(SourceFile):
    """The files of points.

    Attributes
    ----------
    binning : float or None
        Divisor that turns positions into voxels: the spacing in Å for positions in Å.
    """

    binning: Annotated[float, Field(ge=0)] | None = None
    columns: str | None = None
    delimiter: str | None = None
    filter_value: str | None = None


class OrientedPointFile(SourceFile):
    """The files of points with orientations."""

    binning: Annotated[float, Field(ge=0)] | None = None
    filter_value: str | None = None
    order: str | None = None
    mesh_source_path: str | None = None


class MeshFile(SourceFile):
    """The files of triangle meshes."""

    file_format: Literal["glb", "obj", "stl", "vtk"]
    scale_factor: Annotated[float, Field(ge=0)] | None = None


class Parents(_Part):
    """Names of the parents of an annotation."""

    dataset: list[str] | None = None
    deposition: list[str] | None = None
    run: list[str] | None = None
    voxel_spacing: list[str] | None = None


class ParentFilters(_Part):
    """The parents that a source is included in or excluded from."""

    include: Parents | None = None
    exclude: Parents | None = None


_SHAPES = ("SemanticSegmentationMask", "InstanceSegmentationMask", "Point", "OrientedPoint", "TriangularMesh")


class AnnotationSource(_Part):
    """The files of one shape of an annotation."""

    SemanticSegmentationMask: MaskFile | None = None
    InstanceSegmentationMask: InstanceMaskFile | None = None
    Point: PointFile | None = None
    OrientedPoint: OrientedPointFile | None = None
    TriangularMesh: MeshFile | None = None
    parent_filters: ParentFilters | None = None
    exclude: list[str] | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if sum(getattr(self, shape) is not None for shape in _SHAPES) != 1:
            raise PydanticCustomError("shape", f"a source has exactly one of {', '.join(_SHAPES)}")
        return self


class Annotation(_Part):
    """One annotation: its metadata and its files."""

    metadata: AnnotationMetadata
    sources: Annotated[list[AnnotationSource], Field(min_length=1)]


class Literally(_Part):
    """Values that are listed in the config."""

    value: Annotated[list[str | int | float], Field(min_length=1)]


class LiteralSource(_Part):
    """A source that lists its values in the config."""

    literal: Literally


class Listed(_Part):
    """Datasets, depositions, runs or voxel spacings that the portal has already, by name."""

    sources: Annotated[list[LiteralSource], Field(min_length=1)]


class Standardization(_Part):
    """The deposition that the config belongs to."""

    deposition_id: int
    source_prefix: Text
    run_data_map_file: str | None = None


class IngestionConfig(_Part):
    """A config of annotations for one dataset of the portal."""

    depositions: Annotated[list[Listed], Field(min_length=1)]
    datasets: Annotated[list[Listed], Field(min_length=1)]
    runs: Annotated[list[Listed], Field(min_length=1)]
    voxel_spacings: Annotated[list[Listed], Field(min_length=1)]
    annotations: Annotated[list[Annotation], Field(min_length=1)]
    standardization_config: Standardization

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [annotation.metadata.annotation_ingest_id for annotation in self.annotations]
        if len(set(ids)) != len(ids):
            raise PydanticCustomError("ids", "annotation_ingest_id must be unique in a config")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the config as JSON values, without those that are None."""
        return self.model_dump(mode="json", exclude_none=True)


def validated(content: Mapping[str, Any], what: str) -> IngestionConfig:
    """Check a config against the portal's rules.

    Parameters
    ----------
    content : Mapping
        Content of the config.
    what : str
        The config, for the message.

    Returns
    -------
    IngestionConfig
        The config.

    Raises
    ------
    UsageError
        If a value breaks a rule; the message names the first one.
    """
    try:
        return IngestionConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        value = re.sub(r"\s+", " ", repr(first.get("input")))[:80]
        raise UsageError(f"{what} breaks {SCHEMA}: {where}: {first['msg']} (given: {value})", "correct it") from None
