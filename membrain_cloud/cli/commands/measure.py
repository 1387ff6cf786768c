"""The group `measure`: particles of any program in the context of the project's membranes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, exit_failed, print_json, say
from membrain_cloud.cli.options import (
    PlacementOptions,
    SettingsOptions,
    TablesOptions,
    absolute,
    json_option,
    option,
    option_group,
    takes,
)
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.projects.measure_picks import StarOptions
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Outcome


@click.group()
def measure() -> None:
    """Measure particles of any program beside the project's membranes."""


@option_group
class ParticleOptions:
    """How particles are read, and where their rows are written beside the tables."""

    outputs: tuple[str, ...] = option(
        "--output",
        multiple=True,
        metavar="FILE",
        help="Also write the particles with their new columns to this .star, .parquet or .csv; an existing file is "
        "replaced (repeatable; default: the tables alone).",
    )
    voxel_spacing: float | None = option(
        "--voxel-spacing",
        type=click.FloatRange(0, min_open=True),
        metavar="A",
        help="Size of the pixels that a STAR file's coordinates count, in Å (default: from the file).",
    )
    origin: tuple[float, float, float] = option(
        "--origin",
        nargs=3,
        type=float,
        default=(0.0, 0.0, 0.0),
        show_default=True,
        metavar="X Y Z",
        help="Origin that a STAR file's positions are relative to, in Å; it is subtracted.",
    )
    inverse_angles: bool = option(
        "--inverse-angles",
        is_flag=True,
        help="A STAR file's angles rotate the particle into the tomogram (default: the inverse, as RELION's do).",
    )
    run_of: tuple[str, ...] = option(
        "--run-of",
        multiple=True,
        metavar="NAME=RUN",
        help="Run of the tomogram NAME of a STAR file, where the names differ (repeatable).",
    )
    object_name: str | None = option(
        "--object", metavar="NAME", help="Object of the picks stored from a STAR file (default: from the file's name)."
    )
    user: str = option(
        "--user", default="imported", show_default=True, metavar="NAME", help="User of the picks stored from a file."
    )

    def star_options(self) -> StarOptions:
        """Return how a STAR file is read.

        Raises
        ------
        UsageError
            A run is not of the form NAME=RUN.
        """
        from membrain_cloud.pipeline.projects.measure_picks import StarOptions

        pairs = [text.rpartition("=") for text in self.run_of]
        for text, (name, _, run) in zip(self.run_of, pairs, strict=True):
            if not name or not run:
                raise UsageError(f"--run-of {text}: not of the form NAME=RUN", "write for example tomo1.mrc=TS_1")
        return StarOptions(
            self.voxel_spacing,
            self.origin,
            self.inverse_angles,
            {name: run for name, _, run in pairs},
            self.object_name,
            self.user,
        )


@option_group
class ContextOptions(TablesOptions, SettingsOptions):
    """The settings of the run, which say whose meshes are taken, and the place of the tables."""

    reach: float | None = option(
        "--reach",
        type=click.FloatRange(0, min_open=True),
        metavar="NM",
        help="Membranes farther than this from a particle are not considered, in nm (default: 100).",
    )

    def load(self, *more: str) -> Settings:
        """Return the checked settings.

        Parameters
        ----------
        *more : str
            Settings `stage.key=value` that replace those of `--set`.

        Returns
        -------
        Settings
            Defaults, then the file, then `--set`, then the options of their own.
        """
        reach = () if self.reach is None else (f"context.reach_nm={self.reach}",)
        return super().load(*more, *reach, *self.tables_setting())


@measure.command(cls=Command)
@config_argument
@click.argument("particles", metavar="PARTICLES")
@runs_option
@takes(ParticleOptions, ContextOptions, PlacementOptions)
@json_option
def picks(
    reading: ParticleOptions,
    options: ContextOptions,
    placement: PlacementOptions,
    config: str,
    particles: str,
    *,
    runs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Describe the membranes around any particles.

    PARTICLES is a STAR file (RELION, Warp) of one or many tomograms, or the URI of picks, name:user/session. Each
    particle gets the distance to the nearest membrane, its number, the particle's side of it, depth, angle to the
    normal, local curvature and thickness, and the distances to the membrane's edge and to the next membrane: as rows of
    the table particle_context, and with --output as columns mbc_* of a copy of the STAR file. The particles of a file
    are stored as picks of the runs that its tomograms name. The membranes are those of the meshes that a run with the
    same settings has made, or of --set context.meshes=URI. The exit code is 1 if a run fails.

    \b
    Examples:
      membrain-cloud measure picks project/config.json ribosomes.star --output ribosomes-context.star
      membrain-cloud measure picks project/config.json ribosome:alice/1 --reach 50 --output ribosomes.parquet
      membrain-cloud measure picks project/config.json m.star --run-of 240801_01.tomostar=TS_1 \\
          --scheduler tcp://scheduler:8786
    """
    from membrain_cloud.pipeline.execution.driver import execute_plan
    from membrain_cloud.pipeline.planning.plan import plan
    from membrain_cloud.pipeline.projects import measure_picks as work
    from membrain_cloud.pipeline.runners import open_runner
    from membrain_cloud.pipeline.stages.registry import STAGES
    from membrain_cloud.store.projects.open import open_project
    from membrain_cloud.store.tables.open import open_tables

    placement.check()
    star_options, settings = reading.star_options(), options.load()
    outputs = [absolute(output) for output in reading.outputs]
    for output in outputs:
        work.check_target(output, particles)
    project = open_project(config)
    if Path(particles).exists() or particles.lower().endswith(".star"):
        listed = work.store_star(project, absolute(particles), star_options, runs or None)
    else:
        listed = work.list_picks(project, particles, runs or None)
    settings = listed.settings(settings)
    open_placed = open_runner(workers=placement.workers, scheduler=placement.scheduler, in_process=placement.in_process)
    with open_placed as runner:
        memory = runner.memory_limits
        made = plan(project, settings, STAGES, runs=listed.runs, stages=["context"], worker_memory_bytes=memory)
        with display.Progress(made, runner.snapshot) as progress:
            outcomes = execute_plan(project, settings, made, runner, STAGES, progress.observe)
    tables = open_tables(project, settings.output.tables)
    rows = work.context_rows(project, tables, settings, listed, outcomes)
    for output in outputs:
        work.write_context(output, project, listed, rows)
    states = Counter(row["status"] for row in rows)
    failed = [outcome for outcome in outcomes if outcome.state not in ("done", "skipped")]
    if as_json:
        print_json(
            {
                "picks": listed.uri,
                "runs": list(listed.runs),
                "particles": len(rows),
                "status": dict(sorted(states.items())),
                "without_run": dict(listed.without_run),
                "tables": tables.url,
                "outputs": outputs,
                "outcomes": [outcome.as_dict() for outcome in outcomes],
            }
        )
    else:
        meanings = [(state, _MEANINGS[state], count) for state, count in sorted(states.items())]
        display.show_table(f"{len(rows)} particles of {listed.uri}", ("status", "meaning", "particles"), meanings)
        for output in outputs:
            say(f"wrote {os.path.relpath(output)}")
    _say_what_is_missing(listed.without_run, failed)
    if failed:
        exit_failed()


_MEANINGS = {
    "measured": "a membrane in reach",
    "no_membrane": "no membrane in reach",
    "outside": "outside of the tomogram",
    "no_position": "the position is not a number",
    "no_run": "its tomogram is no run of the project",
    "failed": "its run failed",
}


def _say_what_is_missing(without_run: Mapping[str, int], failed: Sequence[Outcome]) -> None:
    """Print which tomograms are no runs, and why runs failed."""
    if without_run:
        names = ", ".join(f"{name} ({count})" for name, count in list(without_run.items())[:5])
        more = f" and {len(without_run) - 5} more" if len(without_run) > 5 else ""
        say(f"particles of {len(without_run)} tomograms that are not measured: {names}{more} -> give --run-of NAME=RUN")
    for outcome in failed[:5]:
        say(f"failed: {outcome.line()}")
    if any("output of mesh" in outcome.message for outcome in failed):
        say(
            "no meshes for these settings -> run `membrain-cloud run` with them first, or give --set context.meshes=URI"
        )
