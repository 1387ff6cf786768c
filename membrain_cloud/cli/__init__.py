"""The command line: verbs only. Each parses, calls, and prints; nothing heavy is imported before it is needed."""

from __future__ import annotations

from membrain_cloud.cli import (
    comparing,
    depositing,
    evaluating,
    files,
    installation,
    models,
    networks,
    patches,
    portal,
    preprocess,
    projects,
    run,
    running,
    tables,
    validating,
    viewing,
)
from membrain_cloud.cli.program import Program

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
