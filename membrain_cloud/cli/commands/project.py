"""Commands about projects: demo, project init, project manifest."""

from __future__ import annotations

import glob
from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, exit_failed, print_json, say
from membrain_cloud.cli.options import WorkersOptions, absolute, absolute_path, json_option, takes
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.cli.read_options import empty_chunks_option
from membrain_cloud.errors import MembrainCloudError, UsageError


@click.command(cls=Command)
@click.argument("folder", metavar="[DIR]", default="demo", callback=absolute_path)
@click.option("--small", is_flag=True, help="Simulate one tiny tomogram only, to test the installation.")
@takes(WorkersOptions)
@json_option
def demo(options: WorkersOptions, folder: str, *, small: bool, as_json: bool) -> None:
    """Run all stages on simulated tomograms with known truth.

    The results are scored against the truth. DIR gets a project, DIR/config.json, and a report.

    \b
    Example:
      membrain-cloud demo demo --small
    """
    from membrain_cloud.pipeline.projects import demo as steps
    from membrain_cloud.pipeline.runners import default_workers, open_runner

    count = options.workers or default_workers()
    project = steps.simulate_demo(folder, small=small, processes=count, report=say)
    with open_runner(workers=options.workers, scheduler=None, in_process=False) as runner:
        plan = steps.plan_demo(project, runner.memory_limits)
        with display.Progress(plan) as progress:
            outcomes = steps.run_demo(project, plan, runner, progress.observe)
        failed = any(outcome.state in ("failed", "blocked") for outcome in outcomes)
        scores = None if failed else steps.score_demo(project, plan, runner)
    page = steps.write_demo_report(project, plan.runs, scores)
    if as_json:
        print_json({"config": project.config, "report": page, "tables": plan.job.tables, "scores": scores})
    else:
        if scores is not None:
            display.show_scores(scores)
        display.show_summary(plan, outcomes)
        say(f"project: {project.config}\nreport: {page}")
    if failed:
        exit_failed()


@click.group()
def project() -> None:
    """Make copick projects, and manifests of them."""


@project.command("init", cls=Command)
@click.argument("folder", metavar="DIR", callback=absolute_path)
@click.option(
    "--tomograms",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Pattern of tomogram files, in quotes, e.g. 'data/*.mrc' (repeatable; default: an empty project).",
)
@click.option(
    "--voxel-spacing", type=float, metavar="A", help="Voxel spacing of the files in Å (default: from their headers)."
)
@click.option(
    "--tomogram-type",
    default="wbp",
    show_default=True,
    metavar="TYPE",
    help="Tomogram type in the project, e.g. wbp or denoised.",
)
@empty_chunks_option
def init(
    folder: str, *, patterns: tuple[str, ...], voxel_spacing: float | None, tomogram_type: str, empty_chunks: str
) -> None:
    """Make a copick project from tomogram files.

    The files are .mrc, .rec, .map, .tif, .npy or .zarr; each becomes a run of DIR/config.json. Without --tomograms the
    project is empty, ready for `membrain-cloud import`.

    \b
    Example:
      membrain-cloud project init project --tomograms 'data/*.mrc' --voxel-spacing 13.68
    """
    from membrain_cloud.store.projects.create import MEMBRANE_OBJECT, create_project, init_project

    if not patterns:
        click.echo(create_project(folder, objects=[MEMBRANE_OBJECT]).config)
        return
    # Path.glob refuses absolute patterns and matches hidden files.
    files = sorted({file for pattern in patterns for file in glob.glob(pattern)})  # noqa: PTH207 - see above
    failures: list[tuple[str, MembrainCloudError]] = []
    created = init_project(
        folder,
        files,
        voxel_spacing_angstrom=voxel_spacing,
        tomogram_type=tomogram_type,
        report=say,
        fill_empty_chunks=empty_chunks == "fill",
        on_failure=(lambda file, error: failures.append((file, error))) if len(files) > 1 else None,
    )
    click.echo(created.config)
    if failures:
        display.show_failed_files(failures, len(files))
        exit_failed()


@project.command("manifest", cls=Command)
@config_argument
@runs_option
@click.option("--output", required=True, metavar="FILE", help="Manifest to write, FILE.parquet (a path or URL).")
@click.option(
    "--tomogram-type", metavar="TYPE", help="Tomogram type to take of each run (default: the project's own choice)."
)
@click.option(
    "--voxel-spacing",
    type=float,
    metavar="A",
    help="Voxel spacing in Å to take of each run (default: the project's own choice).",
)
@click.option("--dataset", metavar="NAME", help="The `dataset=` partition of the tables (default: local).")
@json_option
def manifest(
    config: str,
    *,
    runs: tuple[str, ...],
    output: str,
    tomogram_type: str | None,
    voxel_spacing: float | None,
    dataset: str | None,
    as_json: bool,
) -> None:
    """Freeze a copick project into a manifest.

    It lists one tomogram of each run, with its grid and identity. A manifest of any number of tomograms is planned in
    seconds, since none is opened. Results go where the project's go, and what is done in the project counts as done.
    Make the manifest again when tomograms are added or replaced.

    \b
    Example:
      membrain-cloud project manifest project/config.json --output project/all.parquet
      membrain-cloud run project/all.parquet
    """
    from membrain_cloud.pipeline.settings import OutputSettings
    from membrain_cloud.store.projects.manifest import freeze
    from membrain_cloud.store.projects.open import open_project

    source, file = open_project(config), absolute(output)
    if not file.endswith(".parquet"):
        raise UsageError(f"{output}: a manifest is a Parquet file", "name it FILE.parquet")
    tomograms = source.tomograms(runs or None, tomogram_type, voxel_spacing)
    selection: dict[str, Any] = {"config": source.config, "runs": list(runs)}
    selection |= {"tomogram_type": tomogram_type, "voxel_spacing_angstrom": voxel_spacing}
    left_out = freeze(source, file, tomograms, dataset=dataset or OutputSettings().dataset, selection=selection)
    for run, error in left_out.items():
        say(f"{run} is left out: {error}")
    count = len(tomograms) - len(left_out)
    if as_json:
        print_json({"manifest": file, "tomograms": count, "left_out": {run: str(e) for run, e in left_out.items()}})
    else:
        click.echo(f"{count} tomograms -> {output}")
    if left_out:
        exit_failed()
