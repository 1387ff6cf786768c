"""The command `train picking`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import TrainedModelOptions, integers, option, option_group, takes
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.pipeline.training.picker_data import PickerData


@option_group
class SourceOptions:
    """The membranes that a picker is trained on: of phantoms, a folder or a project."""

    phantoms: int | None = option(
        "--phantoms", type=click.IntRange(1), metavar="N", help="Number of simulated tomograms (default: 120)."
    )
    cluttered: float | None = option(
        "--cluttered",
        type=click.FloatRange(0, 1),
        metavar="FRACTION",
        help="Fraction of simulated tomograms with microtubules, filaments, gold and void, whose dark places "
        "are trained on as surfaces without particles (default: 0).",
    )
    classes: str | None = option(
        "--classes",
        metavar="NAME,NAME,...",
        help="Classes of particles to tell apart in simulated tomograms or --data (default: one class).",
    )
    data: str | None = option(
        "--data",
        metavar="DIR",
        help="Folder in MemBrain-pick's layout, train and val with .h5 and .star (default: simulated tomograms).",
    )
    voxel_spacing: float | None = option(
        "--voxel-spacing",
        type=click.FloatRange(0, min_open=True),
        metavar="A",
        help="Voxel spacing of the coordinates of --data in Å; needed if they count voxels (default: they are in Å).",
    )
    project: str | None = option(
        "--project",
        metavar="CONFIG",
        help="Copick config to train on, with --meshes and --picks (default: simulated tomograms).",
    )
    runs: tuple[str, ...] = option(
        "-r",
        "--run",
        multiple=True,
        metavar="RUN",
        help="Run of --project to train on (repeatable; default: all others with these annotations).",
    )
    validation_runs: tuple[str, ...] = option(
        "--validation-run",
        multiple=True,
        metavar="RUN",
        help="Run of --project that chooses the best epoch (repeatable; default: none).",
    )
    test_runs: tuple[str, ...] = option(
        "--test-run",
        multiple=True,
        metavar="RUN",
        help="Run of --project that scores rounds (repeatable; default: the validation runs).",
    )
    meshes: str | None = option("--meshes", metavar="URI", help="Meshes of --project, e.g. membrane:alice/1.")
    picks: tuple[str, ...] = option(
        "--picks",
        multiple=True,
        metavar="[NAME=]URI",
        help="Particles of --project, e.g. psii:alice/1 (repeatable, NAME=URI for each class).",
    )
    shapes: tuple[str, ...] = option(
        "--shape",
        multiple=True,
        metavar="X,Y,Z",
        help="Half axes of a class's particles in Å, from which target distances are computed (repeatable, in "
        "the order of --picks; default: distances from the centres).",
    )
    network: Literal["profiles", "subvolumes"] = option(
        "--network",
        type=click.Choice(["profiles", "subvolumes"]),
        default="profiles",
        show_default=True,
        help="Network: profiles as in MemBrain-pick, or with --project and few membranes subvolumes as in MemBrain v1.",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of `--classes`; empty for a single class."""
        return () if self.classes is None else tuple(self.classes.split(","))

    @property
    def source(self) -> Literal["phantoms", "data", "project"]:
        """Where the membranes come from."""
        return "data" if self.data is not None else "project" if self.project is not None else "phantoms"

    def check(self, *, incremental: bool) -> None:
        """Check that the options belong to the chosen source, since others would be ignored.

        Parameters
        ----------
        incremental : bool
            Whether `--incremental` is given.

        Raises
        ------
        UsageError
            An option belongs to another source, or one that the source needs is absent.
        """
        if self.data is not None and self.project is not None:
            raise UsageError("--data and --project exclude each other", "give one of them")
        annotations = (self.runs, self.validation_runs, self.test_runs, self.meshes, self.picks, self.shapes)
        if self.source != "project" and (self.network != "profiles" or any(annotations)):
            raise UsageError(
                "--network subvolumes, --meshes, --picks, --shape and runs are for a project", "add --project"
            )
        if self.source != "data" and self.voxel_spacing is not None:
            raise UsageError("--voxel-spacing is for a folder in MemBrain-pick's layout", "add --data")
        for name, value in (("--phantoms", self.phantoms), ("--cluttered", self.cluttered)):
            if value is not None and (self.source != "phantoms" or incremental):
                raise UsageError(f"{name} is for training on simulated tomograms", "leave it out")
        if self.source == "project" and self.classes is not None:
            raise UsageError("--classes is for simulated tomograms and --data", "name the classes by --picks NAME=URI")
        if self.source == "project" and (self.meshes is None or not self.picks):
            raise UsageError("training on a project needs meshes and picks", "add --meshes URI and --picks URI")

    def material(self, work: Path) -> PickerData:
        """Return the membranes of the source.

        Parameters
        ----------
        work : Path
            Folder that keeps simulated tomograms.

        Returns
        -------
        PickerData
            Membranes to train, validate and test on.

        Raises
        ------
        UsageError
            A shape is not three lengths, or classes have no names of their own.
        """
        from membrain_cloud.pipeline.training import picker_data

        if self.data is not None:
            return picker_data.folder_data(
                self.data, voxel_spacing_angstrom=self.voxel_spacing, classes=self.class_names
            )
        if self.project is None or self.meshes is None:
            return picker_data.phantom_data(work, classes=self.class_names, progress=say)
        return picker_data.project_data(
            self.project,
            runs=picker_data.RunSplit(self.runs, self.validation_runs, self.test_runs),
            meshes=self.meshes,
            picks=_named(self.picks),
            network=self.network,
            shapes=[_half_axes(shape) for shape in self.shapes],
            progress=say,
        )


@option_group
class PickerOptions(TrainedModelOptions):
    """How a picker is trained, and where it is written."""

    epochs: int | None = option(
        "--epochs",
        type=click.IntRange(1),
        metavar="N",
        help="Passes over the membranes (default: more if there are few membranes).",
    )
    base: str | None = option(
        "--base",
        metavar="MODEL|none",
        help="Start from the weights of this picker, or with none from random weights (default: for one or two "
        "membranes the built-in picker, where its network is the same; not with --data, --shape or several --picks).",
    )
    incremental: str | None = option(
        "--incremental",
        metavar="N,N,...",
        help="Train on 1, 2, 5 ... membranes, and score each picker on the same other membranes (default: train "
        "once on all).",
    )

    def values(self) -> dict[str, int]:
        """Return the given values that replace the defaults."""
        values = {"epochs": self.epochs, "seed": self.seed}
        return {name: value for name, value in values.items() if value is not None}


@click.command("picking", cls=Command)
@takes(PickerOptions, SourceOptions)
@click.option("--json", "as_json", is_flag=True, help="Print the table of --incremental as JSON, for scripts.")
def train_picking(options: PickerOptions, source: SourceOptions, *, as_json: bool) -> None:
    """Train a network that picks particles on membranes.

    Options that are left out take the values of the built-in picker. With membranes to validate on, scores are written
    to WORK/*.csv after each epoch and the best weights are kept.

    \b
    Examples:
      membrain-cloud train picking --output picker.safetensors --work training --phantoms 120
      membrain-cloud train picking --output psii.safetensors --work training --data folder --voxel-spacing 14.08
      membrain-cloud train picking --output psii.safetensors --work training --project project/config.json \\
          --meshes membrane:alice/1 --picks psii=psii:alice/1 --picks b6f=b6f:alice/1 --network subvolumes
      membrain-cloud train picking --output best.safetensors --work rounds --incremental 1,2,5,10,25
    """
    source.check(incremental=options.incremental is not None)
    if source.source == "phantoms" and options.incremental is None:
        print_json(_train_on_phantoms(options, source))
        return
    material = source.material(Path(options.work))
    from membrain_cloud.pipeline.training.picker import train_in_rounds, train_on_membranes

    output, work, base = options.output, options.work, options.base
    if options.incremental is None:
        print_json(train_on_membranes(material, output, work, options.values(), base=base, progress=say))
        return
    counts = integers("--incremental", options.incremental, "1,2,5")
    rows = train_in_rounds(material, counts, output, work, options.values(), base=base, progress=say)
    if as_json:
        print_json(rows)
    else:
        names = [name for name in rows[0] if name != "model"]
        display.show_table("", [name.replace("_", " ") for name in names], [[row[n] for n in names] for row in rows])


def _train_on_phantoms(options: PickerOptions, source: SourceOptions) -> dict[str, Any]:
    from membrain_cloud.pipeline.training.picker_defaults import train_picking

    return train_picking(
        options.output,
        options.work,
        options.values() | ({} if source.phantoms is None else {"phantoms": source.phantoms}),
        classes=source.class_names,
        cluttered=source.cluttered or 0.0,
        base=options.base,
        progress=say,
    )


def _named(picks: tuple[str, ...]) -> dict[str, str]:
    """Return the URI of each class; a single URI may come without a name, which is then empty."""
    pairs = [text.rpartition("=") for text in picks]
    uris = {name: uri for name, _, uri in pairs}
    if len(uris) < len(picks) or ("" in uris and len(picks) > 1):
        raise UsageError("several classes of particles need different names", "write --picks NAME=URI for each")
    return uris


def _half_axes(text: str) -> tuple[float, float, float]:
    """Return the half axes of a particle, x, y and z in Å."""
    try:
        x, y, z = (float(number) for number in text.split(","))
    except ValueError:
        x = y = z = 0.0
    if not min(x, y, z) > 0:
        raise UsageError(f"--shape {text}: expected three lengths above 0", "try --shape 80,40,40")
    return x, y, z
