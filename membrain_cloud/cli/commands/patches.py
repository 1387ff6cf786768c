"""Verbs about patches that people correct: propose, extract, merge, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    Function,
    Program,
    Verb,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
)

if TYPE_CHECKING:
    from membrain_cloud.pipeline.annotation.patch_set import Patch, PatchSet


def register(main: Program) -> None:
    main.add_command(patches)


@click.group()
def patches() -> None:
    """Patches for people to correct, and what they make of them."""


def _set_option(function: Function) -> Function:
    text = "Of the set of patches: one for each round of annotation."
    return click.option("--name", default="patches", show_default=True, metavar="NAME", help=text)(function)


def _chosen_option(function: Function) -> Function:
    text = "Only this one; may be repeated. Default: all of the set."
    return click.option("--patch", "chosen", multiple=True, metavar="PATCH", help=text)(function)


@patches.command("propose", cls=Verb)
@config_argument
@runs_option
@click.option("--settings", "settings_file", metavar="FILE", help="YAML file of settings: those of the run.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set segment.scores=uint8.")
@_set_option
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Patches of the set, in all.")
@click.option("--more", type=click.IntRange(1), metavar="N", help="Add so many, whatever there are.")
@click.option("--edge", type=int, default=160, show_default=True, help="Of a patch, in voxels: a multiple of 8.")
@click.option("--per-tomogram", type=click.IntRange(1), default=4, show_default=True, help="Patches at most.")
@click.option("--prediction", metavar="URI", help="A run's masks (default: what `segment` made with these settings).")
@json_option
def propose_patches(
    config: str,
    runs: tuple[str, ...],
    name: str,
    count: int,
    more: int | None,
    edge: int,
    per_tomogram: int,
    prediction: str | None,
    settings_file: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Propose patches for correction: those of all tomograms where the network is least sure, none overlapping.

    They are chosen by what a run has kept: the variance over the mirrors (segment.uncertainty=yes), else how near the
    scores are to the threshold (segment.scores=uint8). Written as Parquet and CSV to membrain-cloud/patches/NAME in the
    overlay. The same call again adds nothing.

    \b
    Examples:
      membrain-cloud run project/config.json --stages segment --set segment.scores=uint8
      membrain-cloud patches propose project/config.json --set segment.scores=uint8 --count 20
      membrain-cloud patches propose project/config.json --set segment.scores=uint8 --more 10
    """
    from membrain_cloud.cli.options import chosen_settings
    from membrain_cloud.pipeline.annotation.propose import Wish, predicted_uri, propose
    from membrain_cloud.store.projects.open import open_project

    settings = chosen_settings(settings_file, overrides)
    wish = Wish(count, more or 0, edge, per_tomogram)
    with display.Bar("tomograms") as bar:
        made = propose(
            open_project(config),
            runs,
            name,
            wish,
            prediction=prediction or predicted_uri(settings),
            progress=bar.update,
        )
    if as_json:
        rows = [patch.as_dict() for patch in made.patches]
        print_json({"name": name, "added": made.added, "patches": rows, "notes": list(made.notes)})
        return
    _show([*made.patches])
    for note in made.notes:
        say(note)
    say(f"{made.added} added, {len(made.patches)} in all; next: membrain-cloud patches extract {config} --name {name}")


def _show(found: list[Patch]) -> None:
    rows = [(p.patch, p.run, f"{p.z}, {p.y}, {p.x}", f"{p.doubt:.5f}", p.evidence, p.prediction) for p in found]
    display.show_table("", ("patch", "run", "first voxel z, y, x", "doubt", "by", "prediction"), rows)


@patches.command("extract", cls=Verb)
@config_argument
@_set_option
@_chosen_option
@click.option(
    "--border",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Voxels to be ignored on the sides where a patch was cut off.",
)
@click.option("--output", metavar="DIR", help="The patches' project (default: project/ in the set's own folder).")
@click.option("--folder", metavar="DIR", help="Also MemBrain-seg's folders: imagesCorr, labelsCorr, corrections.")
@json_option
def extract_patches(
    config: str,
    name: str,
    chosen: tuple[str, ...],
    border: int,
    output: str | None,
    folder: str | None,
    as_json: bool,
) -> None:
    """Make what annotators open: a copick project with a run a patch, which holds its crop and the prediction.

    Objects there: membrane (label 1), ignore (2), background (3). The prediction is a segmentation of several labels:
    napari-copick opens it, and saves what was painted under your own user and session.

    \b
    Example:
      membrain-cloud patches extract project/config.json --name round-1
    """
    from membrain_cloud.pipeline.annotation.extract import extract, extract_files
    from membrain_cloud.pipeline.annotation.patch_set import chosen_patches

    kept = _open(config, name)
    wanted = chosen_patches(kept.require_patches(), chosen)
    project, done = extract(kept, wanted, border=border, output=output)
    files = [] if folder is None else extract_files(kept, wanted, folder, border=border)
    if as_json:
        print_json({"project": project, "patches": [vars(one) for one in done], "files": files})
        return
    rows = [(one.patch, one.run, one.segmentation, one.state) for one in done]
    display.show_table("", ("patch", "of run", "prediction", "state"), rows)
    say(f"open {project} in napari-copick; then: membrain-cloud patches merge {config} --name {name}")


@patches.command("merge", cls=Verb)
@config_argument
@_set_option
@click.option("--border", type=click.IntRange(0), help="Voxels to be ignored there (default: as extracted).")
@click.option(
    "--from",
    "annotators",
    multiple=True,
    metavar="USER[/SESSION]",
    help="Whose words count, in this order; may be repeated. Default: everybody's in the patches' project.",
)
@click.option(
    "--corrections",
    "folders",
    multiple=True,
    metavar="DIR",
    help="That of `extract --folder`, with Add, Remove and Ignore files.",
)
@click.option(
    "--rule",
    type=click.Choice(["agree", "majority", "last"]),
    default="agree",
    show_default=True,
    help="Where several have looked at one patch.",
)
@click.option(
    "--unmarked",
    type=click.Choice(["background", "ignore"]),
    default="background",
    show_default=True,
    help="What an annotator's 0 says within a patch.",
)
@click.option("--user", default="corrected", show_default=True, help="Of the merged segmentation.")
@click.option("--session", help="Of the merged segmentation (default: the set's name).")
@click.option("--training-folder", metavar="DIR", help="Also write imagesTr and labelsTr there.")
@json_option
def merge_patches(
    config: str,
    name: str,
    border: int | None,
    annotators: tuple[str, ...],
    folders: tuple[str, ...],
    rule: Any,
    unmarked: str,
    user: str,
    session: str | None,
    training_folder: str | None,
    as_json: bool,
) -> None:
    """Merge what people made of patches into one segmentation a tomogram, to train on.

    Its values: 1 membrane, 2 ignore, 3 background, and 0 outside of the patches that anybody has looked at. Rules:
    `agree`: what all say, and ignore where they differ; `majority`: what more say; `last`: the last one who does not
    say ignore. Nobody's own files are written. A second call redoes patches that were edited, and nothing else.

    Those named by --from are also looked for in the tomograms' own project: their masks are read within the patches.

    \b
    Examples:
      membrain-cloud patches merge project/config.json --name round-1
      membrain-cloud patches merge project/config.json --name round-1 --from alice/1 --from bob --rule last
    """
    from membrain_cloud.errors import ProjectError
    from membrain_cloud.pipeline.annotation.annotators import Sources, parse_annotator
    from membrain_cloud.pipeline.annotation.extract import open_patch_project
    from membrain_cloud.pipeline.annotation.merge import Output, merge
    from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND

    kept = _open(config, name)
    wanted = kept.require_patches()
    said = MARKED_BACKGROUND if unmarked == "background" else IGNORE
    sources = Sources([parse_annotator(text) for text in annotators], folders, said, border)
    try:
        project = open_patch_project(kept)
    except ProjectError:
        if not (annotators or folders):
            raise
        project = None
    made = merge(kept, wanted, project, sources, rule, Output(user, session or name), training_folder=training_folder)
    if as_json:
        print_json([vars(one) for one in made])
        return
    if not made:
        say("nobody has corrected any of these patches yet")
        return
    rows = [(m.run, m.segmentation, m.state, m.patches, ", ".join(m.changed), ", ".join(m.sources)) for m in made]
    display.show_table("", ("run", "segmentation", "state", "patches", "changed", "from"), rows)


@patches.command("list", cls=Verb)
@config_argument
@_set_option
@json_option
def list_patches(config: str, name: str, as_json: bool) -> None:
    """List the patches of a set: where they are, whether they are extracted, who has looked at them.

    \b
    Example:
      membrain-cloud patches list project/config.json --name round-1
    """
    from membrain_cloud.pipeline.annotation.annotators import standing

    rows = standing(_open(config, name))
    if as_json:
        print_json(rows)
        return
    cells = [(r["patch"], r["run"], r["doubt"], r["extracted"], ", ".join(r["annotators"])) for r in rows]
    display.show_table("", ("patch", "run", "doubt", "extracted", "looked at by"), cells)


def _open(config: str, name: str) -> PatchSet:
    from membrain_cloud.pipeline.annotation.patch_set import PatchSet
    from membrain_cloud.store.projects.open import open_project

    return PatchSet(open_project(config), name)
