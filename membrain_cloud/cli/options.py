"""Groups of options that commands share, and what they are turned into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.cli.app import absolute

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project


def chosen_settings(settings_file: str | None, overrides: tuple[str, ...], tables: str | None = None) -> Settings:
    from membrain_cloud.pipeline.settings import load_settings

    extra = () if tables is None else (f"output.tables={absolute(tables)}",)
    return load_settings(settings_file, (*overrides, *extra))


def make_plan(
    project: Project, settings: Settings, runs: tuple[str, ...], stages: str | None, memory: int | None = None
) -> Plan:
    from membrain_cloud.pipeline.planning.plan import plan
    from membrain_cloud.pipeline.stages.registry import STAGES

    chosen = [name.strip() for name in stages.split(",") if name.strip()] if stages else None
    return plan(project, settings, STAGES, runs=runs or None, stages=chosen, worker_memory_bytes=memory)
