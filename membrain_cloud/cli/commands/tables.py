"""Verbs about tables: list, describe, check, compact, and the import of folders of membrain-stats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import FAILED, Function, Program, Verb, absolute, json_option, print_json, say
from membrain_cloud.cli.commands import project as projects

if TYPE_CHECKING:
    from membrain_cloud.store.tables.parquet_tables import Tables


def register(main: Program) -> None:
    main.add_command(tables)
    projects.import_.add_command(import_statistics)


@click.group()
def tables() -> None:
    """The Parquet tables of a run: what there is, and what each column means."""


def _url_argument(function: Function) -> Function:
    return click.argument("url", metavar="URL", callback=lambda _c, _p, value: absolute(value))(function)


@tables.command("list", cls=Verb)
@_url_argument
@json_option
def list_tables(url: str, as_json: bool) -> None:
    """List the tables below URL (a folder, or a copick config for the project's own), with their numbers of rows.

    \b
    Example:
      membrain-cloud tables list project/config.json
    """
    found = _open(url)
    rows = []
    for name in found.known():
        parts = found.parts(name)
        rows.append((name, found.count_rows(name), len(parts), len({dataset for dataset, _ in parts})))
    columns = ("table", "rows", "parts", "datasets")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        display.show_table(found.url, columns, rows)


@tables.command(cls=Verb)
@_url_argument
@click.argument("table", required=False)
@json_option
def describe(url: str, table: str | None, as_json: bool) -> None:
    """Say what the columns of a table (or of all) hold, and in which unit.

    \b
    Example:
      membrain-cloud tables describe project/config.json membranes
    """
    from membrain_cloud.errors import UsageError

    found = _open(url)
    names = found.names()
    if table is not None and table not in names:
        raise UsageError(f"no table {table!r} below {found.url}", f"there are: {', '.join(names) or 'none'}")
    described = {name: found.describe(name) for name in ([table] if table else names)}
    if as_json:
        keys = ("column", "type", "unit", "description")
        print_json({name: [dict(zip(keys, row, strict=True)) for row in rows] for name, rows in described.items()})
        return
    for name, rows in described.items():
        display.show_table(name, ("column", "type", "unit", "what"), rows)


@tables.command(cls=Verb)
@_url_argument
@json_option
def check(url: str, as_json: bool) -> None:
    """Read every part of the tables below URL and say what would make a sum or a join wrong.

    Looked for are torn and missing parts, columns of other types and units, rows that stand there twice, rows of other
    settings in one dataset, and rows that belong to no membrane or tomogram. Exit code 1 if any is found.

    \b
    Example:
      membrain-cloud tables check project/config.json
    """
    from membrain_cloud.store.tables.check import check_tables

    found = _open(url)
    problems = check_tables(found)
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        print_json([problem.as_dict() for problem in problems])
    else:
        for problem in problems:
            click.echo(problem.line())
        parts = sum(len(found.parts(name)) for name in found.known())
        verdict = f"{errors} errors" if errors else "nothing is wrong"
        click.echo(f"{found.url}: {parts} parts read, {verdict}")
    if errors:
        click.get_current_context().exit(1)


@tables.command(cls=Verb)
@_url_argument
@click.argument("target", required=False, callback=lambda _c, _p, value: value and absolute(value))
@json_option
def compact(url: str, target: str | None, as_json: bool) -> None:
    """Copy the tables below URL into few large files, for faster queries: one a table and dataset, in URL/compact.

    The parts stay, so others may read, and a run may write, meanwhile. What a run replaces afterwards is read from the
    new part, until the next `compact` renews the copy; files that are current are left alone. With TARGET the copy is
    written there instead, to be passed on.

    \b
    Examples:
      membrain-cloud tables compact project/config.json
      membrain-cloud tables compact s3://bucket/tables published-tables
    """
    from membrain_cloud.store.tables.parquet_tables import Tables

    found, copy = _open(url), None if target is None else Tables(target)
    counts = found.compact(copy)
    if as_json:
        print_json(counts)
        return
    rows = [(name, *(counts[name][key] for key in ("parts", "rows", "files"))) for name in counts]
    title = copy.url if copy else f"{found.url}/compact"
    display.show_table(title, ("table", "parts", "rows copied", "files written"), rows)


@click.command("statistics", cls=Verb)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--tables", "url", required=True, metavar="URL", help="Where the Parquet tables are written.")
@click.option("--dataset", default="local", show_default=True, help="Their `dataset=` partition.")
@click.option("--pixel-size-multiplier", type=float, metavar="A", help="Å in a unit of the meshes.")
@click.option("--pixel-size-multiplier-positions", type=float, metavar="A", help="Å in a unit of the particles.")
@click.option("--particles", type=click.Path(exists=True), metavar="FILE", help="A STAR file with all particles.")
@click.option("--object", "object_name", default="particle", show_default=True, help="What the particles are.")
@click.option("--class", "classes", multiple=True, metavar="N=NAME", help="What those of class number N are.")
@click.option("--inverse-angles", is_flag=True, help="Angles turn particles into the tomogram (not as RELION's do).")
@click.option("--settings", "settings_file", metavar="FILE", help="YAML file of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set measure.cutoff_nm=60.")
@json_option
def import_statistics(
    folder: str,
    url: str,
    pixel_size_multiplier: float | None,
    pixel_size_multiplier_positions: float | None,
    settings_file: str | None,
    overrides: tuple[str, ...],
    classes: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a folder of meshes and particles, as membrain_stats reads it, into Parquet tables.

    FOLDER has an .h5 or .obj a membrane, and its particles in <stem>_clusters.star (or <stem>.star, or
    <stem>_surforama.star) beside it, in the .h5 itself, or in one RELION file for all (--particles; its rlnTomoName is
    the part of a mesh's name before _mb1). Coordinates are taken for Å unless the STAR file names its pixel size or a
    multiplier is given. All statistics of `measure` are made; membranes measured before are not measured again.

    \b
    Example:
      membrain-cloud import statistics meshes --tables statistics --pixel-size-multiplier-positions 14.08
    """
    from membrain_cloud.pipeline.projects.measure_folder import (
        FolderOptions,
        MeasuredRun,
        measure_folder,
        parse_classes,
    )
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.store.formats.membrain_stats import Units
    from membrain_cloud.store.tables.parquet_tables import Tables

    def tell(run: MeasuredRun) -> None:
        left = f", {run.left_out} particles on no membrane" if run.left_out else ""
        bad = f" ({run.bad_membranes} could not be measured: see `error` in membranes)" if run.bad_membranes else ""
        what = run.message or f"{run.membranes} membranes{bad}, {run.particles} particles{left}"
        say(f"{run.run}: {run.state} in {run.seconds:.1f} s: {what}")

    found = measure_folder(
        folder,
        Tables(absolute(url)),
        load_settings(settings_file, overrides),
        FolderOptions(
            units=Units(pixel_size_multiplier, pixel_size_multiplier_positions),
            objects=parse_classes(classes),
            **options,
        ),
        report=tell,
    )
    if as_json:
        print_json([vars(run) for run in found])
    else:
        click.echo(absolute(url))
    if any(run.state == "failed" for run in found):
        click.get_current_context().exit(FAILED)


def _open(url: str) -> Tables:
    from membrain_cloud.store.projects.open import is_config, open_project
    from membrain_cloud.store.tables.open import open_tables
    from membrain_cloud.store.tables.parquet_tables import Tables

    if is_config(url):
        return open_tables(open_project(url))
    return Tables(url)
