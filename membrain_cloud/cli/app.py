"""What all verbs share: one line an error, exit codes, `--debug`, and the options that many verbs take.

Exit codes: 0 all done, 1 something failed, 2 bad usage or input, 3 interrupted.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

import membrain_cloud
from membrain_cloud.errors import InputError, MembrainCloudError, ModelError, UsageError
from membrain_cloud.redaction import without_keys

Function = TypeVar("Function", bound=Callable[..., Any])

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 3


class Program(click.Group):
    """The top of the command line; it turns errors into one line `what -> next step`."""

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help=help, params=[_debug_option()], context_settings=_CONTEXT)
        click.version_option(membrain_cloud.__version__, prog_name=name)(self)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MembrainCloudError as error:
            _complain(ctx, str(error))
            bad_input = isinstance(error, UsageError | InputError | ModelError)
            ctx.exit(BAD_INPUT if bad_input else FAILED)
        except KeyboardInterrupt:
            _complain(ctx, "interrupted -> run the same command again: finished tasks are kept")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            ctx.exit(FAILED)
        except Exception as error:
            what = " ".join(str(error).split())
            _complain(ctx, f"{type(error).__name__}: {what} -> this is a bug: please report it, with --debug's output")
            ctx.exit(FAILED)


class Verb(click.Command):
    """A command that knows `--debug` too, wherever it is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or []), _debug_option()]
        kwargs.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Click's ranges let nan through: it is below and above nothing."""
        for param in self.params:
            given = ctx.params.get(param.name or "")
            if any(isinstance(v, float) and math.isnan(v) for v in (given if isinstance(given, tuple) else [given])):
                raise click.BadParameter("nan is no number", ctx, param)
        return super().invoke(ctx)


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().meta["debug"] = True

    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=remember, help="Show tracebacks of errors."
    )


def debugging() -> bool:
    return bool(click.get_current_context().find_root().meta.get("debug"))


def _complain(ctx: click.Context, line: str) -> None:
    if ctx.find_root().meta.get("debug"):
        click.echo(without_keys(traceback.format_exc()), err=True)
    click.echo(f"error: {without_keys(line)}", err=True)


def say(line: str) -> None:
    """A line for people, beside the output proper."""
    click.echo(line, err=True)


def print_json(value: Any) -> None:
    """JSON for scripts. Long lists are written an entry a line, so that a hundred thousand take seconds."""
    if not isinstance(value, dict) or not any(_is_long(part) for part in value.values()):
        json.dump(value, sys.stdout, indent=1, sort_keys=True, default=str)
        sys.stdout.write("\n")
        return
    lead = "{"
    for key, part in sorted(value.items()):
        sys.stdout.write(f"{lead}\n {json.dumps(key)}: ")
        if _is_long(part):
            lines = (json.dumps(entry, sort_keys=True, default=str) for entry in part)
            sys.stdout.write("[\n  " + next(lines))
            sys.stdout.writelines(f",\n  {line}" for line in lines)
            sys.stdout.write("\n ]")
        else:
            sys.stdout.write(json.dumps(part, sort_keys=True, default=str))
        lead = ","
    sys.stdout.write("\n}\n")


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1000


def absolute(path: str) -> str:
    """Workers may stand elsewhere: a local path as an absolute one; URLs stay."""
    return path if "://" in path else os.path.abspath(path)


def config_argument(function: Function) -> Function:
    return click.argument("config", metavar="CONFIG", callback=lambda _c, _p, value: absolute(value))(function)


def runs_option(function: Function) -> Function:
    text = "A run (tomogram) of the project; repeat for several. All, without it."
    return click.option("-r", "--run", "runs", multiple=True, metavar="RUN", help=text)(function)


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def settings_options(function: Function) -> Function:
    """--settings, --set and --tables, and --stages: what a plan depends on."""
    options = [
        click.option("--stages", metavar="A,B,...", help="Only these stages: segment,separate,mesh,pick,measure."),
        click.option("--settings", "settings_file", metavar="FILE", help="YAML file of settings."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set pick.threshold=7."),
        click.option("--tables", metavar="URL", help="Where the Parquet tables are kept (default: the project's)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function
