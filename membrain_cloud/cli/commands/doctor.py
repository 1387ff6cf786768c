"""The command `doctor`: check an installation, and what a run depends on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, exit_failed, print_json, say
from membrain_cloud.cli.options import SettingsOptions, json_option, takes
from membrain_cloud.cli.project_options import config_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.diagnosis.check import Check
    from membrain_cloud.pipeline.settings import Settings


@click.command(cls=Command)
@click.argument("config", metavar="[CONFIG]", required=False, callback=config_path)
@takes(SettingsOptions)
@click.option("--scheduler", metavar="ADDRESS", help="Check this Dask scheduler and its workers (default: none).")
@json_option
def doctor(options: SettingsOptions, config: str | None, *, scheduler: str | None, as_json: bool) -> None:
    """Check the installation, devices, stores and a scheduler.

    Each line that is not in order names its cure. With CONFIG the project is opened and a small object is written to
    its results, and removed again. Exit codes: 0 all in order, 1 something failed.

    \b
    Examples:
      membrain-cloud doctor
      membrain-cloud doctor project/config.json
      membrain-cloud doctor s3://bucket/config.json --scheduler tcp://scheduler:8786
    """
    settings = options.load()
    checks = []
    for check in _checks(settings, config, scheduler):
        checks.append(check)
        if not as_json:
            display.show_check(check)
    if as_json:
        print_json([asdict(check) for check in checks])
    failed = sum(check.state == "failed" for check in checks)
    if failed:
        say(f"{failed} of {len(checks)} checks failed")
        exit_failed()


def _checks(settings: Settings, config: str | None, scheduler: str | None) -> Iterator[Check]:
    """Yield all checks, each as it is done; the imports of a part that lacks a package fail alone."""
    from membrain_cloud.pipeline.diagnosis.check import run_checks
    from membrain_cloud.pipeline.diagnosis.installation import check_installation

    yield from run_checks("packages", check_installation)

    def devices() -> Iterator[Check]:
        from membrain_cloud.pipeline.diagnosis.devices import check_devices

        yield from check_devices(settings.segment.model)

    def models() -> Iterator[Check]:
        from membrain_cloud.pipeline.diagnosis.check import Check
        from membrain_cloud.pipeline.models import verify

        for model in dict.fromkeys((settings.segment.model, settings.pick.model)):
            if model:
                verify(model)
                yield Check(f"model {model}", "ok", "loads, and its weights are finite")

    def stores() -> Iterator[Check]:
        from membrain_cloud.pipeline.diagnosis.stores import check_project, check_temporary_folder

        yield from check_temporary_folder()
        if config is not None:
            from membrain_cloud.store.projects.open import open_project

            yield from check_project(open_project(config))

    def services() -> Iterator[Check]:
        if scheduler is not None:
            from membrain_cloud.pipeline.diagnosis.services import check_scheduler

            yield from check_scheduler(scheduler)

    yield from run_checks("devices", devices)
    yield from run_checks("models", models)
    yield from run_checks("stores", stores)
    yield from run_checks("scheduler", services)
