"""The command line: verbs only. Each parses, calls, and prints; nothing heavy is imported before it is needed."""

from __future__ import annotations

from membrain_cloud.cli.app import Program
from membrain_cloud.cli.commands import diff as comparing
from membrain_cloud.cli.commands import evaluate as evaluating
from membrain_cloud.cli.commands import export_deposition as depositing
from membrain_cloud.cli.commands import inspect as running
from membrain_cloud.cli.commands import models, patches, portal, preprocess, run, tables
from membrain_cloud.cli.commands import project as projects
from membrain_cloud.cli.commands import sbom as installation
from membrain_cloud.cli.commands import segment as files
from membrain_cloud.cli.commands import train as networks
from membrain_cloud.cli.commands import train_validation as validating
from membrain_cloud.cli.commands import view as viewing

main = Program(
    "membrain-cloud",
    help="""Membranes in cryo-electron tomograms: segmented, separated, meshed, picked and measured.

    \b
    Examples:
      membrain-cloud demo
      membrain-cloud project init DIR --tomograms 'data/*.mrc'
      membrain-cloud run DIR/config.json
      membrain-cloud report DIR/config.json
    """,
)
depositing.register(projects.export)
for verbs in (
    projects,
    run,
    running,
    comparing,
    evaluating,
    portal,
    files,
    networks,
    patches,
    models,
    preprocess,
    tables,
    validating,
    viewing,
    installation,
):
    verbs.register(main)

__all__ = ["main"]
