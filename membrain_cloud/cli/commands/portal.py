"""Verbs about the CryoET Data Portal: select."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Function, Program, Verb, absolute, json_option, print_json, say

if TYPE_CHECKING:
    from membrain_cloud.pipeline.settings import PortalSettings, Settings
    from membrain_cloud.store.portal.selection import PortalQuery, Selection

# As in store/portal.py, which the help must not import; a test holds them equal.
PROCESSINGS = ("denoised", "filtered", "filtered_even", "filtered_odd", "raw")
RECONSTRUCTIONS = ("Fourier_Space", "SART", "SIRT", "Unknown", "WBP")


def register(main: Program) -> None:
    main.add_command(portal)


@click.group()
def portal() -> None:
    """Tomograms of the CryoET Data Portal."""


def _query_options(function: Function) -> Function:
    options = [
        click.option("--dataset", "datasets", type=int, multiple=True, metavar="ID", help="Of these datasets."),
        click.option("--deposition", "depositions", type=int, multiple=True, metavar="ID", help="Of these."),
        click.option("--organism", "organisms", multiple=True, metavar="NAME", help="A part of the name is enough."),
        click.option("-r", "--run", "runs", multiple=True, metavar="RUN", help="Names or ids of runs."),
        click.option(
            "--voxel-spacing",
            type=(float, float),
            metavar="MIN MAX",
            help="Spacing of the full tomogram in Å, from and to.",
        ),
        click.option("--processing", "processings", type=click.Choice(PROCESSINGS), multiple=True),
        click.option("--reconstruction", "reconstructions", type=click.Choice(RECONSTRUCTIONS), multiple=True),
        click.option(
            "--visualization-default", is_flag=True, help="Only tomograms that the portal shows for their run."
        ),
        click.option("--unannotated", is_flag=True, help="Only runs without an annotation of membranes."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many runs."),
        click.option("--seed", type=int, help="With --limit: a random sample, the same for the same seed."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@portal.command(cls=Verb)
@click.argument("folder", metavar="DIR", callback=lambda _c, _p, value: absolute(value))
@_query_options
@click.option(
    "--overlay",
    metavar="URL",
    callback=lambda _c, _p, value: absolute(value) if value else None,
    help="Where results are to be written, on any store (default: DIR/overlay).",
)
@click.option("--overlay-option", "overlay_options", multiple=True, metavar="KEY=VALUE", help="Of its file system.")
@click.option("--settings", "settings_file", metavar="FILE", help="YAML file of settings (portal.endpoint and others).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set portal.spacing_angstrom=8.")
@click.option("--refresh", is_flag=True, help="Ask the portal again, whatever is kept on disk.")
@click.option("--dry-run", is_flag=True, help="Only say what would be selected.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in DIR.")
@json_option
def select(
    folder: str,
    voxel_spacing: tuple[float, float] | None,
    limit: int | None,
    seed: int | None,
    overlay: str | None,
    overlay_options: tuple[str, ...],
    settings_file: str | None,
    overrides: tuple[str, ...],
    refresh: bool,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Choose tomograms, one a run, and write the choice down: DIR/manifest.parquet, which `run` takes.

    DIR/config.json is a copick config over the same results, for napari, ChimeraX and every copick tool.

    \b
    Examples:
      membrain-cloud portal select chlamy --dataset 10302 --processing denoised
      membrain-cloud portal select sample --unannotated --limit 50 --seed 1 --overlay s3://bucket/sample
      membrain-cloud run chlamy/manifest.parquet
    """
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.store.portal.selection import PortalQuery
    from membrain_cloud.store.portal.write_selection import refuse_earlier, write_selection

    all_settings = load_settings(settings_file, overrides)
    settings = all_settings.portal
    low, high = voxel_spacing or (None, None)
    query = PortalQuery(**filters, voxel_spacing_min_angstrom=low, voxel_spacing_max_angstrom=high)
    if not dry_run and not overwrite:
        refuse_earlier(folder)
    found = _select(settings, query, refresh, limit, seed)
    written: dict[str, str] = {}
    if not dry_run:
        written = write_selection(
            folder,
            found,
            query,
            overlay=overlay or f"{folder}/overlay",
            overlay_fs_args=_options(overlay_options),
            source_fs_args=_source_options(settings),
            how={"endpoint": settings.endpoint, "limit": limit, "seed": seed, "spacing": settings.spacing_angstrom},
        )
    if as_json:
        print_json({**_numbers(found, all_settings), "left_out": dict(found.left_out), **written})
        return
    numbers = _numbers(found, all_settings)
    display.show_table("", ("selected", ""), [(key.replace("_", " "), value) for key, value in numbers.items()])
    say("GPU hours: of the segmentation, at stated operations a second; `plan` knows more once something was run")
    for reason, count in found.left_out.items():
        say(f"left out: {count} ({reason})")
    for file in written.values():
        click.echo(file)


def _select(
    settings: PortalSettings, query: PortalQuery, refresh: bool, limit: int | None, seed: int | None
) -> Selection:
    from membrain_cloud.store.portal.client import PortalClient
    from membrain_cloud.store.portal.selection import select as choose

    client = PortalClient(settings.endpoint, page=settings.page, cache_hours=settings.cache_hours, report=say)
    if refresh:
        client.forget()
    return choose(
        client,
        query,
        spacing_near_angstrom=settings.spacing_angstrom,
        bucket=settings.bucket,
        over_https=settings.https,
        limit=limit,
        seed=seed,
    )


def _numbers(found: Selection, settings: Settings) -> dict[str, Any]:
    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.planning.estimates import network_hours
    from membrain_cloud.pipeline.stages.registry import STAGES

    grids = [Grid(tomogram.shape, tomogram.voxel_spacing_angstrom) for tomogram in found.tomograms]
    return {
        "tomograms": len(found.tomograms),
        "datasets": len({tomogram.dataset_id for tomogram in found.tomograms}),
        "voxels": found.voxels,
        "bytes": found.bytes,
        "estimated_gpu_hours": network_hours(STAGES["segment"], settings, grids, "gpu"),
        "requests": found.requests,
    }


def _source_options(settings: PortalSettings) -> dict[str, Any]:
    if settings.https or not settings.bucket.startswith("s3"):
        return {}
    return {"anon": True} | ({"endpoint_url": settings.s3_endpoint} if settings.s3_endpoint else {})


def _options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`key=value`, values as JSON where they are, else as text."""
    import json

    from membrain_cloud.errors import UsageError

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--overlay-option {pair}: not of the form KEY=VALUE", "try profile=name")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
