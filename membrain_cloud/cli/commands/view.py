"""The verb view: one run in Neuroglancer, in the browser."""

from __future__ import annotations

import time
from typing import Any

import click

from membrain_cloud.cli.app import Program, Verb, config_argument, say, settings_options


def register(main: Program) -> None:
    main.add_command(view)


@click.command(cls=Verb)
@config_argument
@click.option("-r", "--run", required=True, metavar="RUN", help="The run to show.")
@settings_options
@click.option("--with", "extra", multiple=True, metavar="URI", help="Also show this segmentation or these picks.")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to serve on; the default is private.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page (default: any free one).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--stop-after", type=click.FloatRange(0), metavar="SECONDS", help="Stop by itself (default: Ctrl-C).")
def view(
    config: str,
    run: str,
    extra: tuple[str, ...],
    bind: str,
    port: int,
    no_browser: bool,
    stop_after: float | None,
    **chosen: Any,
) -> None:
    """Show a run in Neuroglancer: tomogram, mask, membranes with their meshes, picks.

    Everything is served from this machine, read from wherever the project lies; nothing is uploaded. Needs the extra
    `view`: pip install 'membrain_cloud[view]'.

    \b
    Examples:
      membrain-cloud view project/config.json -r TS_1
      membrain-cloud view project/config.json -r TS_1 --with membrane:alice/3@10.0 --with psii:expert/1
    """
    from membrain_cloud.cli.options import chosen_settings, make_plan
    from membrain_cloud.pipeline.reporting.neuroglancer import state_of_run
    from membrain_cloud.report.neuroglancer_page import NeuroglancerPage
    from membrain_cloud.store.projects.http_server import LayerServer
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    refs = make_plan(project, settings, (run,), chosen["stages"]).refs.get(run, {})
    with LayerServer(bind) as server:
        page = NeuroglancerPage(state_of_run(project, run, refs, extra, server), bind=bind, port=port)
        click.echo(page.url)
        say("serving until Ctrl-C" if stop_after is None else f"serving for {stop_after:g} s")
        if not no_browser:
            click.launch(page.url)
        _wait(stop_after)


def _wait(seconds: float | None) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        time.sleep(0.2)
