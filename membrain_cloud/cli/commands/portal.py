"""Commands about the CryoET Data Portal: select."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import SettingsOptions, absolute_path, json_option, option, option_group, takes
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.pipeline.settings import PortalSettings, Settings
    from membrain_cloud.store.portal.selection import PortalQuery, Selection

# As in store/portal, which the help must not import; a test compares them.
PROCESSINGS = ("denoised", "filtered", "filtered_even", "filtered_odd", "raw")
RECONSTRUCTIONS = ("Fourier_Space", "SART", "SIRT", "Unknown", "WBP")


@click.group()
def portal() -> None:
    """Select tomograms of the CryoET Data Portal."""


@option_group
class QueryOptions:
    """Which tomograms are selected; without an option, those of the whole portal."""

    datasets: tuple[int, ...] = option(
        "--dataset", type=int, multiple=True, metavar="ID", help="Only tomograms of this dataset (repeatable)."
    )
    depositions: tuple[int, ...] = option(
        "--deposition", type=int, multiple=True, metavar="ID", help="Only tomograms of this deposition (repeatable)."
    )
    organisms: tuple[str, ...] = option(
        "--organism",
        multiple=True,
        metavar="NAME",
        help="Only tomograms of this organism; a part of its name is enough (repeatable).",
    )
    runs: tuple[str, ...] = option(
        "-r", "--run", multiple=True, metavar="RUN", help="Only this run, by name or number (repeatable)."
    )
    voxel_spacing: tuple[float, float] | None = option(
        "--voxel-spacing",
        type=(float, float),
        metavar="MIN MAX",
        help="Smallest and largest voxel spacing of the full tomogram, in Å (default: any).",
    )
    processings: tuple[str, ...] = option(
        "--processing",
        type=click.Choice(PROCESSINGS),
        multiple=True,
        help="Only tomograms processed this way (repeatable).",
    )
    reconstructions: tuple[str, ...] = option(
        "--reconstruction",
        type=click.Choice(RECONSTRUCTIONS),
        multiple=True,
        help="Only tomograms of this reconstruction method (repeatable).",
    )
    visualization_default: bool = option(
        "--visualization-default", is_flag=True, help="Only tomograms that the portal shows by default for their run."
    )
    unannotated: bool = option("--unannotated", is_flag=True, help="Only runs without an annotation of membranes.")

    def query(self) -> PortalQuery:
        """Return the query for the portal."""
        from membrain_cloud.store.portal.selection import PortalQuery

        low, high = self.voxel_spacing or (None, None)
        return PortalQuery(
            datasets=self.datasets,
            depositions=self.depositions,
            organisms=self.organisms,
            runs=self.runs,
            voxel_spacing_min_angstrom=low,
            voxel_spacing_max_angstrom=high,
            processings=self.processings,
            reconstructions=self.reconstructions,
            visualization_default=self.visualization_default,
            unannotated=self.unannotated,
        )


@option_group
class SampleOptions:
    """How many of the tomograms are taken, and where the selection is written."""

    limit: int | None = option(
        "--limit", type=click.IntRange(1), metavar="N", help="Largest number of runs (default: all)."
    )
    seed: int | None = option(
        "--seed",
        type=int,
        metavar="N",
        help="Seed of a random sample of --limit runs (default: the first runs by number).",
    )
    overlay: str | None = option(
        "--overlay",
        metavar="URL",
        callback=absolute_path,
        help="Folder or URL for the results, on any store (default: DIR/overlay).",
    )
    overlay_options: tuple[str, ...] = option(
        "--overlay-option",
        multiple=True,
        metavar="KEY=VALUE",
        help="Parameter of the overlay's file system, e.g. profile=name (repeatable).",
    )
    refresh: bool = option("--refresh", is_flag=True, help="Query the portal again instead of using kept answers.")
    dry_run: bool = option("--dry-run", is_flag=True, help="Only print what would be selected.")
    overwrite: bool = option("--overwrite", is_flag=True, help="Replace an earlier selection in DIR.")


@portal.command(cls=Command)
@click.argument("folder", metavar="DIR", callback=absolute_path)
@takes(QueryOptions, SampleOptions, SettingsOptions)
@json_option
def select(
    query_options: QueryOptions, sample: SampleOptions, settings_options: SettingsOptions, folder: str, *, as_json: bool
) -> None:
    """Select tomograms of the CryoET Data Portal.

    One tomogram of each run is written to DIR/manifest.parquet, which `run` takes. DIR/config.json is a copick config
    for the same results, for napari, ChimeraX and every copick tool. The settings portal.* name the endpoint and the
    voxel spacing, e.g. --set portal.spacing_angstrom=8.

    \b
    Examples:
      membrain-cloud portal select chlamy --dataset 10302 --processing denoised
      membrain-cloud portal select sample --unannotated --limit 50 --seed 1 --overlay s3://bucket/sample
      membrain-cloud run chlamy/manifest.parquet
    """
    from membrain_cloud.store.portal.write_selection import check_no_selection, write_selection

    settings = settings_options.load()
    query = query_options.query()
    if not sample.dry_run and not sample.overwrite:
        check_no_selection(folder)
    selection = _select(settings.portal, query, sample)
    written: dict[str, str] = {}
    if not sample.dry_run:
        written = write_selection(
            folder,
            selection,
            query,
            overlay=sample.overlay or f"{folder}/overlay",
            overlay_fs_args=_parameters(sample.overlay_options),
            source_fs_args=_source_parameters(settings.portal),
            how={
                "endpoint": settings.portal.endpoint,
                "limit": sample.limit,
                "seed": sample.seed,
                "spacing": settings.portal.spacing_angstrom,
            },
        )
    numbers = _numbers(selection, settings)
    if as_json:
        print_json({**numbers, "left_out": dict(selection.left_out), **written})
        return
    display.show_table("", ("selected", ""), [(key.replace("_", " "), value) for key, value in numbers.items()])
    say(
        "GPU hours: of the segmentation, by the network's operations; `plan` uses measured times once something has run"
    )
    for reason, count in selection.left_out.items():
        say(f"left out: {count} ({reason})")
    for file in written.values():
        click.echo(file)


def _select(settings: PortalSettings, query: PortalQuery, sample: SampleOptions) -> Selection:
    from membrain_cloud.store.portal.client import PortalClient
    from membrain_cloud.store.portal.selection import select as select_tomograms

    client = PortalClient(settings.endpoint, page=settings.page, cache_hours=settings.cache_hours, report=say)
    if sample.refresh:
        client.forget()
    return select_tomograms(
        client,
        query,
        spacing_near_angstrom=settings.spacing_angstrom,
        bucket=settings.bucket,
        over_https=settings.https,
        limit=sample.limit,
        seed=sample.seed,
    )


def _numbers(selection: Selection, settings: Settings) -> dict[str, Any]:
    """Return the size of a selection, and the estimated time to segment it."""
    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.planning.estimates import network_hours
    from membrain_cloud.pipeline.stages.registry import STAGES

    grids = [Grid(tomogram.shape, tomogram.voxel_spacing_angstrom) for tomogram in selection.tomograms]
    return {
        "tomograms": len(selection.tomograms),
        "datasets": len({tomogram.dataset_id for tomogram in selection.tomograms}),
        "voxels": selection.voxels,
        "bytes": selection.bytes,
        "estimated_gpu_hours": network_hours(STAGES["segment"], settings, grids, "gpu"),
        "requests": selection.requests,
    }


def _source_parameters(settings: PortalSettings) -> dict[str, Any]:
    """Return the parameters of the file system that the tomograms are read from."""
    if settings.https or not settings.bucket.startswith("s3"):
        return {}
    return {"anon": True} | ({"endpoint_url": settings.s3_endpoint} if settings.s3_endpoint else {})


def _parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `key=value` pairs as a dictionary; values are JSON, or else text."""
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--overlay-option {pair}: not of the form KEY=VALUE", "try profile=name")
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    return parameters
