"""Verbs that train networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Program, Verb, print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping


def register(main: Program) -> None:
    main.add_command(train)


@click.group()
def train() -> None:
    """Train networks, on simulated tomograms or on your own."""


def _training_options(function: Any) -> Any:
    options = [
        click.option("--output", required=True, metavar="FILE", help="The model to write (.safetensors)."),
        click.option("--work", required=True, metavar="DIR", help="Keeps data and state: a stopped training goes on."),
        click.option("--seed", type=int, help="Of everything that is drawn."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@train.command("segmentation", cls=Verb)
@_training_options
@click.option("--data", metavar="SOURCE", help="A folder with imagesTr and labelsTr, or a copick config.")
@click.option("--labels", multiple=True, metavar="URI", help="Of a project: e.g. membrane:alice/1@10; a later wins.")
@click.option("-r", "--run", "runs", multiple=True, help="Of a project; may be repeated. Default: all with labels.")
@click.option("--validation", metavar="SOURCE", help="A folder, runs (TS_1,TS_2), or `simulated`. Default: held back.")
@click.option("--from", "base", metavar="MODEL", help="Go on from this model: ours, or MemBrain-seg's .ckpt.")
@click.option("--teacher", metavar="MODEL", help="Learn this model's answers too, beside the labels.")
@click.option("--teacher-weight", type=click.FloatRange(0), help="Of its answers, beside 1 of the labels.")
@click.option("--teacher-part", type=click.FloatRange(0, 1), help="Of the steps, in which it is listened to.")
@click.option("--teacher-looks", type=click.IntRange(1, 2), help="2: it answers the mean of a patch and of a mirror.")
@click.option(
    "--recipe",
    type=click.Choice(["built-in", "membrain-seg"]),
    default="built-in",
    show_default=True,
    help="Where the values come from that are not given.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the data.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps, in place of epochs.")
@click.option("--channels", metavar="N,N,...", help="Of each level of the network, finest first.")
@click.option("--window", type=click.IntRange(16), help="Edge of the patches, in voxels.")
@click.option("--batch", type=click.IntRange(1), help="Patches a step.")
@click.option("--views", type=click.IntRange(1), help="Steps that each patch is trained on: where making them is slow.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="SGD has Nesterov's momentum of 0.99.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Where the schedule begins.")
@click.option(
    "--surface-dice", type=click.FloatRange(0), help="Weight of the Surface-Dice loss beside 1 of the others."
)
@click.option(
    "--mirror-symmetric/--no-mirror-symmetric",
    default=None,
    help="Weights tied so that a mirrored patch has the mirrored answer.",
)
@click.option("--mirror-loss", type=click.FloatRange(0), help="Weight of patch and mirror image giving one answer.")
@click.option("--deep-supervision/--no-deep-supervision", default=None, help="Loss at half and quarter resolution too.")
@click.option("--augmentations", type=click.Choice(["simulated", "membrain-seg", "none"]), help="All, by a name.")
@click.option("--augment", multiple=True, metavar="NAME=CHANCE", help="One of them, e.g. fourier_amplitude=0.5.")
@click.option("--patience", type=click.IntRange(0), help="Stop after so many validations without a better Dice.")
@click.option("--validate-every", type=click.IntRange(1), help="Steps between validations.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="Of the arithmetic.")
@click.option("--specimens", type=click.IntRange(1), help="Simulated specimens to train on.")
@click.option("--coarse", type=click.IntRange(1), help="Times as often those of 11 Å or more are drawn.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the network.")
@click.option("--workers", type=click.IntRange(0), help="Processes that prepare patches.")
@click.option("--device", help="cpu or cuda (default: cuda where there is one).")
def train_segmentation(
    output: str,
    work: str,
    data: str | None,
    labels: tuple[str, ...],
    runs: tuple[str, ...],
    validation: str | None,
    base: str | None,
    teacher: str | None,
    recipe: str,
    epochs: int | None,
    channels: str | None,
    deep_supervision: bool | None,
    augmentations: str | None,
    augment: tuple[str, ...],
    device: str | None,
    **chosen: Any,
) -> None:
    """Train a segmentation network, or fine-tune one with --from.

    Without --data, on simulated specimens. Options that are not given take the values of the recipe.

    \b
    Examples:
      membrain-cloud train segmentation --output model.safetensors --work training --steps 4500
      membrain-cloud train segmentation --output model.safetensors --work training --data patches --recipe membrain-seg
      membrain-cloud train segmentation --output tuned.safetensors --work tuning --from membrain-cloud-small \\
          --data project/config.json --labels membrane:alice/1@10 --labels membrane:bob/1@10
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.pipeline.training.segmentation import TrainingData, TrainingPlan, train_segmentation

    values: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if epochs is not None and "steps" in values:
        raise UsageError("--epochs and --steps say the same in two ways", "give one of them")
    if channels is not None:
        try:
            values["channels"] = tuple(int(number) for number in channels.split(","))
        except ValueError:
            raise UsageError(f"--channels {channels}: expected numbers", "try --channels 16,32,64") from None
    if deep_supervision is not None:
        values["heads"] = (1.0, 0.5, 0.25) if deep_supervision else (1.0,)
    plan = TrainingPlan(recipe, values, base, epochs, augmentations, _chances(augment), teacher)
    told = TrainingData(data or "", labels, runs, validation or "")
    click.echo(
        train_segmentation(output, work, plan, told, device=device, progress=lambda n, line: say(f"{n}: {line}"))
    )


def _chances(augment: tuple[str, ...]) -> dict[str, float]:
    from membrain_cloud.errors import UsageError

    found = {}
    for text in augment:
        name, _, chance = text.partition("=")
        try:
            found[name] = float(chance)
        except ValueError:
            raise UsageError(f"--augment {text}: expected NAME=CHANCE", "try --augment fourier_amplitude=0.5") from None
    return found


@train.command("picking", cls=Verb)
@_training_options
@click.option("--phantoms", type=click.IntRange(1), help="Simulated tomograms to train on.")
@click.option(
    "--cluttered",
    type=click.FloatRange(0, 1),
    help="Share of them with microtubules, filaments, gold and void, where dark places are trained on as having no "
    "particles.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the membranes. Default: more of fewer membranes.")
@click.option("--classes", metavar="NAME,NAME,...", help="Kinds of particles to tell apart, of phantoms or --data.")
@click.option("--data", metavar="FOLDER", help="Train on MemBrain-pick's layout: train and val with .h5 and .star.")
@click.option("--voxel-spacing", type=click.FloatRange(0, min_open=True), help="Of the voxels that --data counts, Å.")
@click.option("--project", metavar="CONFIG", help="Train on this project's membranes in place of phantoms.")
@click.option("-r", "--run", "runs", multiple=True, help="Of the project; may be repeated. Default: others with these.")
@click.option("--validation-run", "validation_runs", multiple=True, help="Of the project: chooses the best epoch.")
@click.option("--test-run", "test_runs", multiple=True, help="Of the project: scores rounds. Default: validation runs.")
@click.option("--meshes", metavar="URI", help="The project's meshes, e.g. membrane:alice/1.")
@click.option("--picks", multiple=True, metavar="[NAME=]URI", help="Particles, once for each kind, e.g. psii:alice/1.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="X,Y,Z", help="Half axes of each kind in Å: its distances follow."
)
@click.option(
    "--network",
    type=click.Choice(["profiles", "subvolumes"]),
    default="profiles",
    show_default=True,
    help="MemBrain-pick's, or for few membranes MemBrain v1's (with --project).",
)
@click.option(
    "--base",
    metavar="MODEL|none",
    help="Begin with this picker's weights; it stays as it is. none: random ones. Default: for one or two membranes "
    "the built-in picker's, where it is of the same make (not with --data, --shape or several --picks).",
)
@click.option(
    "--incremental", metavar="N,N,...", help="Train on 1, 2, 5 ... membranes, and score all on the same others."
)
@click.option("--json", "as_json", is_flag=True, help="The table of --incremental as JSON.")
def train_picking(
    output: str, work: str, data: str | None, project: str | None, as_json: bool, incremental: str | None, **given: Any
) -> None:
    """Train a picker. Options that are not given take the values of the built-in model.

    With membranes to validate with, scores are written to WORK/*.csv after each epoch and the best weights are kept.

    \b
    Examples:
      membrain-cloud train picking --output picker.safetensors --work training --phantoms 120
      membrain-cloud train picking --output psii.safetensors --work training --data folder --voxel-spacing 14.08
      membrain-cloud train picking --output psii.safetensors --work training --project project/config.json \\
          --meshes membrane:alice/1 --picks psii=psii:alice/1 --picks b6f=b6f:alice/1 --network subvolumes
      membrain-cloud train picking --output best.safetensors --work rounds --incremental 1,2,5,10,25
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.pipeline.training.picker_defaults import train_picking

    if data is not None and project is not None:
        raise UsageError("--data and --project are two sources", "give one of them")
    values = {name: given[name] for name in ("epochs", "seed") if given[name] is not None}
    source = "--data" if data is not None else "--project" if project is not None else "phantoms"
    _refuse_misplaced(given, source, rounds=incremental is not None)
    kinds = () if given["classes"] is None else tuple(given["classes"].split(","))
    if source == "phantoms" and incremental is None:
        if given["phantoms"] is not None:
            values["phantoms"] = given["phantoms"]
        share, base = given["cluttered"] or 0.0, given["base"]
        print_json(train_picking(output, work, values, classes=kinds, cluttered=share, base=base, progress=say))
        return
    material = _material(data, project, work, kinds, given)
    base = given["base"]
    from membrain_cloud.pipeline.training.picker import train_in_rounds, train_on

    if incremental is None:
        print_json(train_on(material, output, work, values, base=base, progress=say))
        return
    rows = train_in_rounds(material, _counts(incremental), output, work, values, base=base, progress=say)
    if as_json:
        print_json(rows)
    else:
        names = [name for name in rows[0] if name != "model"]
        display.show_table("", [name.replace("_", " ") for name in names], [[row[n] for n in names] for row in rows])


_OF_A_PROJECT = ("runs", "validation_runs", "test_runs", "meshes", "picks", "shapes")


def _refuse_misplaced(given: Mapping[str, Any], source: str, *, rounds: bool) -> None:
    """UsageError for options of another source of membranes, which would go unheeded."""
    from membrain_cloud.errors import UsageError

    if source != "--project" and (given["network"] != "profiles" or any(given[name] for name in _OF_A_PROJECT)):
        raise UsageError("--network subvolumes, --meshes, --picks, --shape and runs are for a project", "add --project")
    if source != "--data" and given["voxel_spacing"] is not None:
        raise UsageError("--voxel-spacing is for a folder of MemBrain-pick's", "add --data")
    for option in ("phantoms", "cluttered"):
        if given[option] is not None and (source != "phantoms" or rounds):
            raise UsageError(f"--{option} is for the built-in model's training", "leave it out")
    if source == "--project" and given["classes"] is not None:
        raise UsageError("--classes is for phantoms and --data", "name kinds by --picks NAME=URI")
    if source == "--project" and (given["meshes"] is None or not given["picks"]):
        raise UsageError("a project is trained on with meshes and picks", "add --meshes URI and --picks URI")


def _material(
    data: str | None, project: str | None, work: str, kinds: tuple[str, ...], given: Mapping[str, Any]
) -> Any:
    from pathlib import Path

    from membrain_cloud.pipeline.training import picker_data

    if data is not None:
        return picker_data.folder_material(data, voxel_spacing_angstrom=given["voxel_spacing"], classes=kinds)
    if project is None:
        return picker_data.phantom_material(Path(work), classes=kinds, progress=say)
    return picker_data.project_material(
        project,
        runs=given["runs"],
        validation_runs=given["validation_runs"],
        test_runs=given["test_runs"],
        meshes=given["meshes"],
        picks=_named(given["picks"]),
        network=given["network"],
        shapes=[_half_axes(shape) for shape in given["shapes"]],
        progress=say,
    )


def _counts(text: str) -> tuple[int, ...]:
    from membrain_cloud.errors import UsageError

    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--incremental {text}: expected numbers of membranes", "try --incremental 1,2,5") from None


def _named(picks: tuple[str, ...]) -> dict[str, str]:
    """`NAME=URI` or `URI` -> name (the empty one for a URI alone) and URI."""
    from membrain_cloud.errors import UsageError

    parted = [text.rpartition("=") for text in picks]
    named = {name: uri for name, _, uri in parted}
    if len(named) < len(picks) or ("" in named and len(picks) > 1):
        raise UsageError("several kinds of particles need names of their own", "write --picks NAME=URI for each")
    return named


def _half_axes(text: str) -> tuple[float, float, float]:
    from membrain_cloud.errors import UsageError

    try:
        x, y, z = (float(number) for number in text.split(","))
    except ValueError:
        x = y = z = 0.0
    if not min(x, y, z) > 0:
        raise UsageError(f"--shape {text}: expected three lengths above 0", "try --shape 80,40,40")
    return x, y, z
