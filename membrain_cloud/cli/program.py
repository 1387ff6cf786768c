"""The program `membrain-cloud`: all commands in their groups."""

from __future__ import annotations

from membrain_cloud.cli.app import Program
from membrain_cloud.cli.commands import (
    diff,
    doctor,
    evaluate,
    inspect,
    measure,
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

main.add_section("Run", project.demo, project.project, portal.portal, inspect.plan, run.run, measure.measure)
main.add_section("Look", inspect.status, inspect.failures, inspect.report, view.view, tables.tables)
main.add_section("Compare", evaluate.evaluate, diff.diff)
main.add_section("Annotations", import_files.import_, export_files.export, patches.patches, segment.thresholds)
main.add_section("Files", segment.segment, segment.components, segment.skeletonize, preprocess.preprocess)
main.add_section("Networks", group.train, models.models)
main.add_section("Maintenance", doctor.doctor, inspect.verify, inspect.clean, sbom.sbom)
