"""The section `pick`: particles on the meshes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from membrain_cloud.pipeline.settings.section import Name, OptionalText, OrNull, Section


class PickSettings(Section):
    """Particle picking on the meshes: a network scores the vertices, clustering makes picks of the scores."""

    excluded_from_digest = ("model", "cache")

    model: str = Field(
        "membrain-cloud-picker",
        description="Picker: a built-in name, a path, a URL, or a name of the model registry.",
    )
    bandwidth_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, OrNull] = Field(
        None,
        description="Bandwidth in Å of the mean shift that gathers vertices into picks, about the particle's radius. "
        "Default: the value that `train picking` stored in the picker's file, else 70.",
    )
    threshold: Annotated[Annotated[float, Field(gt=0, le=10)] | None, OrNull] = Field(
        None,
        description="Vertices with a score below this are clustered. A score is the predicted distance to the nearest "
        "particle centre, 0 (centre) to 10 (far). Default: the value in the picker's file, else 7.",
    )
    max_iterations: int = Field(150, ge=1, description="Maximum iterations of the mean shift.")
    min_samples: int = Field(
        5, ge=1, description="Minimum number of shifted vertices in a neighbourhood to form a cluster (DBSCAN)."
    )
    partition_vertices: Annotated[Annotated[int, Field(ge=100)] | None, OrNull] = Field(
        None,
        description="Target number of vertices of the overlapping patches into which larger meshes are cut for the "
        "network. Default: as in the picker's training.",
    )
    average_shifts: Annotated[bool | None, OrNull] = Field(
        None,
        description="Average the scores over every window that the sampled profile along the normal allows, as in the "
        "MemBrain v2 paper; `false` uses the middle one only. Default: as the picker was trained.",
    )
    largest_nm2: Annotated[Annotated[float, Field(gt=0)] | None, OrNull] = Field(
        200.0,
        description="Maximum surface area of one cluster in nm²; larger ones (crowded particles) are clustered again "
        "with lower thresholds. `null`: never.",
    )
    min_distance_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, OrNull] = Field(
        70.0,
        description="Minimum distance in Å between two picks along the membrane; of two nearer ones the better score "
        "stays. `null`: all stay.",
    )
    least_elongation: float = Field(
        1.5,
        ge=1,
        description="Minimum anisotropy of the scores around a pick for reporting its in-plane angle: ratio of the "
        "scores' slopes across and along the long axis.",
    )
    refine: bool = Field(
        True,
        description="Move each pick along the membrane to the lowest scores around it. MemBrain-pick does not.",
    )
    center_offset_angstrom: Annotated[float | None, OrNull] = Field(
        None,
        description="Shift of picks along the outward normal in Å; negative values move into the membrane. Default: "
        "to the middle of the membrane, by the local thickness of its mesh.",
    )
    cache: OptionalText = Field(
        None,
        description="Local folder for the surface operators of the mesh patches, the most expensive part of picking. "
        "Later runs on the same meshes, also with other models, reuse them. Default: no cache.",
    )
    object: Name = Field("membrane-protein", description="Name of the copick object under which picks are stored.")
