"""The command `view`: one run in Neuroglancer, in the browser."""

from __future__ import annotations

import time

import click

from membrain_cloud.cli.app import Command, say
from membrain_cloud.cli.options import PlanOptions, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument


@option_group
class ServerOptions:
    """How the page is served."""

    bind: str = option(
        "--bind",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        help="Network address to serve on; the default is reachable from this machine only.",
    )
    port: int = option(
        "--port",
        type=click.IntRange(0, 65535),
        default=0,
        metavar="PORT",
        help="Port of the page (default: a free one).",
    )
    no_browser: bool = option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
    stop_after: float | None = option(
        "--stop-after",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Stop after this many seconds (default: at Ctrl-C).",
    )


@click.command(cls=Command)
@config_argument
@click.option("-r", "--run", required=True, metavar="RUN", help="The run (tomogram) to show.")
@takes(PlanOptions, ServerOptions)
@click.option(
    "--with",
    "more",
    multiple=True,
    metavar="URI",
    help="Also show this segmentation or these picks, e.g. psii:expert/1 (repeatable).",
)
def view(options: PlanOptions, server: ServerOptions, config: str, *, run: str, more: tuple[str, ...]) -> None:
    """Show a run in Neuroglancer, in the browser.

    Tomogram, mask, membranes with their meshes, and picks are shown. The data are served from this machine, which reads
    them from the project's store; nothing is uploaded. The command needs the extra `view`: pip install
    'membrain_cloud[view]'.

    \b
    Examples:
      membrain-cloud view project/config.json -r TS_1
      membrain-cloud view project/config.json -r TS_1 --with membrane:alice/3@10.0 --with psii:expert/1
    """
    from membrain_cloud.pipeline.reporting.neuroglancer import state_of_run
    from membrain_cloud.report.neuroglancer_page import NeuroglancerPage
    from membrain_cloud.store.projects.http_server import LayerServer
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    refs = options.plan(project, options.load(), (run,)).refs.get(run, {})
    with LayerServer(server.bind) as layers:
        state = state_of_run(project, run, refs, more, layers)
        page = NeuroglancerPage(state, bind=server.bind, port=server.port)
        click.echo(page.url)
        say("serving until Ctrl-C" if server.stop_after is None else f"serving for {server.stop_after:g} s")
        if not server.no_browser:
            click.launch(page.url)
        _wait(server.stop_after)


def _wait(seconds: float | None) -> None:
    """Sleep for a time, or for ever."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        time.sleep(0.2)
