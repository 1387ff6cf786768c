"""Output on the terminal: tables, progress bars, plans and outcomes. It imports `cli.app`, and `rich` in functions."""

from membrain_cloud.cli.display.checks import show_check
from membrain_cloud.cli.display.outcomes import (
    run_as_dict,
    show_activity,
    show_failures,
    show_findings,
    show_status,
    show_summary,
    status_grid,
)
from membrain_cloud.cli.display.plan import plan_as_dict, show_plan
from membrain_cloud.cli.display.progress import Bar, Bars, Progress
from membrain_cloud.cli.display.tables import show_failed_files, show_scores, show_table

__all__ = [
    "Bar",
    "Bars",
    "Progress",
    "plan_as_dict",
    "run_as_dict",
    "show_activity",
    "show_check",
    "show_failed_files",
    "show_failures",
    "show_findings",
    "show_plan",
    "show_scores",
    "show_status",
    "show_summary",
    "show_table",
    "status_grid",
]
