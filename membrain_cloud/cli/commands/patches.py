"""Commands about patches for annotators to correct: propose, extract, merge, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import Function, SettingsOptions, json_option, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument, runs_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.annotation.annotators import Sources
    from membrain_cloud.pipeline.annotation.patch_set import AnnotationPatch, PatchSet
    from membrain_cloud.store.projects.project import Project


@click.group()
def patches() -> None:
    """Propose patches for correction, and merge corrections."""


def _name_option(function: Function) -> Function:
    text = "Name of the set of patches; use one for each round of annotation."
    return click.option("--name", default="patches", show_default=True, metavar="NAME", help=text)(function)


@option_group
class ProposalOptions:
    """How many patches of which size are proposed."""

    count: int = option(
        "--count",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        metavar="N",
        help="Number of patches that the set shall hold.",
    )
    more: int | None = option(
        "--more",
        type=click.IntRange(1),
        metavar="N",
        help="Number of patches to add to the set (default: as many as --count lacks).",
    )
    edge: int = option(
        "--edge",
        type=int,
        default=160,
        show_default=True,
        metavar="VOXELS",
        help="Edge of a patch in voxels, a multiple of 8.",
    )
    per_tomogram: int = option(
        "--per-tomogram",
        type=click.IntRange(1),
        default=4,
        show_default=True,
        metavar="N",
        help="Largest number of patches in one tomogram.",
    )
    prediction: str | None = option(
        "--prediction", metavar="URI", help="Masks to correct (default: those of `segment` with these settings)."
    )


@patches.command("propose", cls=Command)
@config_argument
@runs_option
@_name_option
@takes(SettingsOptions, ProposalOptions)
@json_option
def propose_patches(
    settings_options: SettingsOptions,
    options: ProposalOptions,
    config: str,
    *,
    runs: tuple[str, ...],
    name: str,
    as_json: bool,
) -> None:
    """Propose patches where the network is least certain.

    They are taken from all tomograms and do not overlap. The uncertainty is taken from what a run kept: the variance
    over the mirrors (segment.uncertainty=yes), else how near the scores are to the threshold (segment.scores=uint8).
    The set is written as Parquet and CSV to membrain-cloud/patches/NAME in the overlay. Repeating the command adds
    nothing.

    \b
    Examples:
      membrain-cloud run project/config.json --stages segment --set segment.scores=uint8
      membrain-cloud patches propose project/config.json --set segment.scores=uint8 --count 20
      membrain-cloud patches propose project/config.json --set segment.scores=uint8 --more 10
    """
    from membrain_cloud.pipeline.annotation.propose import ProposalSettings, predicted_uri, propose
    from membrain_cloud.store.projects.open import open_project

    settings = settings_options.load()
    proposal_settings = ProposalSettings(options.count, options.more or 0, options.edge, options.per_tomogram)
    with display.Bar("tomograms") as bar:
        proposal = propose(
            open_project(config),
            runs,
            name,
            proposal_settings,
            prediction=options.prediction or predicted_uri(settings),
            progress=bar.update,
        )
    if as_json:
        rows = [patch.as_dict() for patch in proposal.patches]
        print_json({"name": name, "added": proposal.added, "patches": rows, "notes": list(proposal.notes)})
        return
    _show(proposal.patches)
    for note in proposal.notes:
        say(note)
    total = len(proposal.patches)
    say(f"{proposal.added} added, {total} in all; next: membrain-cloud patches extract {config} --name {name}")


def _show(proposed: Sequence[AnnotationPatch]) -> None:
    rows = [(p.patch, p.run, f"{p.z}, {p.y}, {p.x}", f"{p.doubt:.5f}", p.evidence, p.prediction) for p in proposed]
    display.show_table("", ("patch", "run", "first voxel z, y, x", "uncertainty", "measured by", "prediction"), rows)


@patches.command("extract", cls=Command)
@config_argument
@_name_option
@click.option(
    "--patch", "names", multiple=True, metavar="PATCH", help="Only this patch (repeatable; default: all of the set)."
)
@click.option(
    "--border",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    metavar="VOXELS",
    help="Width of the margin to ignore on the sides where a patch was cut out of a tomogram, in voxels.",
)
@click.option("--output", metavar="DIR", help="Folder of the patches' project (default: project/ in the set's folder).")
@click.option(
    "--folder",
    metavar="DIR",
    help="Also write MemBrain-seg's folders imagesCorr, labelsCorr and corrections there (default: not written).",
)
@json_option
def extract_patches(
    config: str,
    *,
    name: str,
    names: tuple[str, ...],
    border: int,
    output: str | None,
    folder: str | None,
    as_json: bool,
) -> None:
    """Make the copick project that annotators open.

    It has a run for each patch, with the crop of the tomogram and the prediction. Objects in it: membrane (label 1),
    ignore (2), background (3). The prediction is a multi-label segmentation: napari-copick opens it, and saves
    corrections under the annotator's own user and session.

    \b
    Example:
      membrain-cloud patches extract project/config.json --name round-1
    """
    from membrain_cloud.pipeline.annotation.extract import extract, extract_files
    from membrain_cloud.pipeline.annotation.patch_set import select_patches

    patch_set = _open(config, name)
    selected = select_patches(patch_set.require_patches(), names)
    project, extracted = extract(patch_set, selected, border=border, output=output)
    files = [] if folder is None else extract_files(patch_set, selected, folder, border=border)
    if as_json:
        print_json({"project": project, "patches": [vars(patch) for patch in extracted], "files": files})
        return
    rows = [(patch.patch, patch.run, patch.segmentation, patch.state) for patch in extracted]
    display.show_table("", ("patch", "of run", "prediction", "state"), rows)
    say(f"open {project} in napari-copick; then: membrain-cloud patches merge {config} --name {name}")


@option_group
class MergeOptions:
    """Whose corrections are merged, and by which rules."""

    border: int | None = option(
        "--border",
        type=click.IntRange(0),
        metavar="VOXELS",
        help="Width of the margin to ignore where a patch was cut out, in voxels (default: as extracted).",
    )
    annotators: tuple[str, ...] = option(
        "--from",
        multiple=True,
        metavar="USER[/SESSION]",
        help="Annotator to merge, in this order (repeatable; default: all annotators in the patches' project).",
    )
    folders: tuple[str, ...] = option(
        "--corrections",
        multiple=True,
        metavar="DIR",
        help="Folder of `patches extract --folder` with Add, Remove and Ignore files (repeatable).",
    )
    rule: Literal["agree", "majority", "last"] = option(
        "--rule",
        type=click.Choice(["agree", "majority", "last"]),
        default="agree",
        show_default=True,
        help="How several annotators' labels of one voxel are combined.",
    )
    unmarked: str = option(
        "--unmarked",
        type=click.Choice(["background", "ignore"]),
        default="background",
        show_default=True,
        help="Meaning of an annotator's label 0 inside a patch.",
    )

    def sources(self) -> Sources:
        """Return the annotators and folders whose corrections are merged."""
        from membrain_cloud.pipeline.annotation.annotators import Sources, parse_annotator
        from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND

        label = MARKED_BACKGROUND if self.unmarked == "background" else IGNORE
        return Sources([parse_annotator(text) for text in self.annotators], self.folders, label, self.border)


@option_group
class MergedOptions:
    """Where the merged segmentations are written."""

    user: str = option(
        "--user", default="corrected", show_default=True, metavar="NAME", help="User of the merged segmentation."
    )
    session: str | None = option(
        "--session", metavar="NAME", help="Session of the merged segmentation (default: the set's name)."
    )
    training_folder: str | None = option(
        "--training-folder",
        metavar="DIR",
        help="Also write the folders imagesTr and labelsTr there, to train on (default: not written).",
    )


@patches.command("merge", cls=Command)
@config_argument
@_name_option
@takes(MergeOptions, MergedOptions)
@json_option
def merge_patches(options: MergeOptions, target: MergedOptions, config: str, *, name: str, as_json: bool) -> None:
    """Merge corrections of patches into segmentations.

    Each tomogram gets one segmentation, to train on. Its values: 1 membrane, 2 ignore, 3 background, and 0 outside the
    patches that are annotated. Rules: `agree`: the label that all annotators give, ignore where they differ;
    `majority`: the label that most give; `last`: the label of the last annotator who does not say ignore. Annotators'
    own files are not changed. Repeating the command merges only patches that were edited since.

    Annotators named by --from are also searched in the tomograms' own project: their masks are read inside the patches.

    \b
    Examples:
      membrain-cloud patches merge project/config.json --name round-1
      membrain-cloud patches merge project/config.json --name round-1 --from alice/1 --from bob --rule last
    """
    from membrain_cloud.pipeline.annotation.merge import MergeOutput, merge

    patch_set = _open(config, name)
    merged = merge(
        patch_set,
        patch_set.require_patches(),
        _patch_project(patch_set, options),
        options.sources(),
        rule=options.rule,
        output=MergeOutput(target.user, target.session or name),
        training_folder=target.training_folder,
    )
    if as_json:
        print_json([vars(tomogram) for tomogram in merged])
        return
    if not merged:
        say("no patch of this set has been corrected yet")
        return
    rows = [(m.run, m.segmentation, m.state, m.patches, ", ".join(m.changed), ", ".join(m.sources)) for m in merged]
    display.show_table("", ("run", "segmentation", "state", "patches", "changed", "from"), rows)


def _patch_project(patch_set: PatchSet, options: MergeOptions) -> Project | None:
    """Return the patches' project, or None where it is absent and corrections come from elsewhere."""
    from membrain_cloud.errors import ProjectError
    from membrain_cloud.pipeline.annotation.extract import open_patch_project

    try:
        return open_patch_project(patch_set)
    except ProjectError:
        if not (options.annotators or options.folders):
            raise
        return None


@patches.command("list", cls=Command)
@config_argument
@_name_option
@json_option
def list_patches(config: str, *, name: str, as_json: bool) -> None:
    """List the patches of a set and their annotators.

    \b
    Example:
      membrain-cloud patches list project/config.json --name round-1
    """
    from membrain_cloud.pipeline.annotation.annotators import patch_states

    rows = patch_states(_open(config, name))
    if as_json:
        print_json(rows)
        return
    cells = [(r["patch"], r["run"], r["doubt"], r["extracted"], ", ".join(r["annotators"])) for r in rows]
    display.show_table("", ("patch", "run", "uncertainty", "extracted", "annotated by"), cells)


def _open(config: str, name: str) -> PatchSet:
    from membrain_cloud.pipeline.annotation.patch_set import PatchSet
    from membrain_cloud.store.projects.open import open_project

    return PatchSet(open_project(config), name)
