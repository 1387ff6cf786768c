"""The sections `output`, `run`, `plan` and `portal`: names of results, limits, prices, the CryoET Data Portal."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from membrain_cloud.pipeline.settings.section import Name, OptionalText, Section


class OutputSettings(Section):
    """Names under which results are stored."""

    user: Name = Field("membrain", description="copick user of the annotations.")
    session: Name = Field(
        "auto",
        description="copick session of the annotations. `auto`: for each stage a digest of its settings, model and "
        "given inputs, so that results of other settings are never overwritten.",
    )
    replace: bool = Field(
        False,
        description="Replace results of other settings in a named session. Without it such a run is refused.",
    )
    dataset: Name = Field(
        "local", description="The `dataset=` partition of the tables, for runs to which the project gives none."
    )
    chunk: int = Field(
        256, ge=8, description="Edge of the chunks of segmentations in voxels. Blocks are made of whole chunks."
    )
    format: Literal["0.4", "0.5"] = Field(
        "0.4",
        description="OME-Zarr version of segmentations and score maps. `0.4` (Zarr 2) is read by every copick and by "
        "the portal. `0.5` (Zarr 3) stores chunks of at most 128 voxels in shards of `output.chunk`, with checksums.",
    )
    tables: OptionalText = Field(
        None,
        description="URL of the tables. Default: beside the annotations, `{overlay}/membrain-cloud/tables`.",
    )


class RunSettings(Section):
    """Limits of a run: when a task is stopped, retried or given up. They do not affect results."""

    task_hours: float = Field(
        24.0, gt=0, description="Time limit of a task in hours; a task that takes longer is stopped and has failed."
    )
    silent_minutes: float = Field(
        10.0, gt=0, description="Time in minutes without a heartbeat after which a working worker is replaced."
    )
    lease_minutes: float = Field(
        5.0,
        gt=0,
        description="Time in minutes without a renewal after which another run's lease on a task is taken over.",
    )
    deaths: int = Field(
        3,
        ge=1,
        description="A task is given up after this many worker processes died while it was all they did. Later runs "
        "leave it out until a retry of such tasks is asked for.",
    )
    losses: int = Field(
        6, ge=1, description="A task is given up likewise after this many machines were lost while they worked on it."
    )
    requeues: int = Field(
        2,
        ge=0,
        description="Maximum number of times a task with a transient error is queued again, after three attempts on "
        "its worker.",
    )


class PlanSettings(Section):
    """Assumptions of the estimates of time and cost. They do not affect results."""

    gpu_workers: int = Field(1, ge=0, description="Number of GPU workers; with 0 the CPU workers do everything.")
    cpu_workers: int = Field(4, ge=1, description="Number of CPU workers.")
    gpu_hour_price: float = Field(
        3.0,
        ge=0,
        description="Price of a GPU worker for an hour, in `currency`. The default is an on-demand price of 2026 for "
        "a data centre GPU with its share of a machine.",
    )
    cpu_hour_price: float = Field(
        0.05,
        ge=0,
        description="Price of a CPU worker for an hour, in `currency`. The default is an on-demand price of 2026 for "
        "one core with its memory.",
    )
    currency: Name = Field("USD", description="Currency of the prices.")


class PortalSettings(Section):
    """How tomograms of the CryoET Data Portal are selected and read."""

    endpoint: str = Field(
        "https://graphql.cryoetdataportal.czscience.com/graphql", description="URL of the portal's GraphQL interface."
    )
    bucket: str = Field(
        "s3://cryoet-data-portal-public",
        pattern=r"^[a-z0-9]+://.|^/.",
        description="URL or path that replaces `s3://cryoet-data-portal-public` in what is read, for a mirror.",
    )
    s3_endpoint: OptionalText = Field(
        None, description="Endpoint of the object store, for a mirror outside AWS. Default: AWS."
    )
    https: bool = Field(False, description="Read over the portal's HTTPS address in place of S3.")
    spacing_angstrom: float = Field(
        10.0, gt=0, description="Wanted voxel spacing in Å; the nearest level of a tomogram's pyramid is read."
    )
    page: int = Field(1000, ge=1, le=10000, description="Number of tomograms in one request.")
    cache_hours: float = Field(
        24.0, ge=0, description="Time in hours for which answers of the portal are kept on disk. 0: not at all."
    )
