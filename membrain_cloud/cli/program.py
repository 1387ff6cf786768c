"""The program `membrain-cloud`: all commands in their groups."""

from __future__ import annotations

from membrain_cloud.cli.app import Program
from membrain_cloud.cli.commands import (
    diff,
    evaluate,
    inspect,
    models,
    patches,
    portal,
    preprocess,
    project,
    run,
    sbom,
    segment,
    tables,
    view,
)
from membrain_cloud.cli.commands.exchange import export_deposition, export_files, import_files
from membrain_cloud.cli.commands.train import group, picking, segmentation, validation

main = Program(
    "membrain-cloud",
    help="""Segment membranes in cryo-electron tomograms, separate and mesh them, and pick and measure particles.

    \b
    Examples:
      membrain-cloud demo
      membrain-cloud project init DIR --tomograms 'data/*.mrc'
      membrain-cloud run DIR/config.json
      membrain-cloud report DIR/config.json
    """,
)

for subcommand in (
    segmentation.train_segmentation,
    picking.train_picking,
    validation.cross_validate,
    validation.rounds,
):
    group.train.add_command(subcommand)
export_files.export.add_command(export_deposition.deposition)
for command in (
    project.demo,
    project.project,
    import_files.import_,
    export_files.export,
    run.run,
    inspect.plan,
    inspect.status,
    inspect.failures,
    inspect.verify,
    inspect.clean,
    inspect.report,
    diff.diff,
    evaluate.evaluate,
    portal.portal,
    segment.segment,
    segment.thresholds,
    segment.components,
    segment.skeletonize,
    group.train,
    patches.patches,
    models.models,
    preprocess.preprocess,
    tables.tables,
    view.view,
    sbom.sbom,
):
    main.add_command(command)
