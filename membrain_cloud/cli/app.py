"""The program and its command class: one line for each error, exit codes, `--debug`, and output to the terminal.

Exit codes: 0 all done, 1 something failed, 2 bad usage or input, 3 interrupted.
"""

from __future__ import annotations

import json
import math
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import click

from membrain_cloud.errors import InputError, MembrainCloudError, ModelError, UsageError
from membrain_cloud.extras import missing_package
from membrain_cloud.redaction import without_keys
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 3
# Longer than any first sentence of a command's help.
_UNCUT = 200


class Program(click.Group):
    """The top of the command line. It prints every error as one line, `what: cause -> next step`."""

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help=help, params=[_debug_option()], context_settings=_CONTEXT)
        click.version_option(__version__, prog_name=name)(self)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands, which the help lists together under a title.

        Parameters
        ----------
        title : str
            The title, e.g. `Files`.
        *commands : click.Command
            The commands, in the order of the help.
        """
        for command in commands:
            self.add_command(command)
            self.sections.setdefault(title, []).append(str(command.name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands by section, with lines that are never cut.

        Parameters
        ----------
        ctx : click.Context
            Not used.
        formatter : click.HelpFormatter
            Takes the lines.
        """
        width = max(map(len, self.commands))
        for title, names in self.sections.items():
            with formatter.section(title):
                lines = [(name, self.commands[name].get_short_help_str(_UNCUT)) for name in names]
                formatter.write_dl([(name.ljust(width), text) for name, text in lines])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and end with the exit code of the error that it raises.

        Parameters
        ----------
        ctx : click.Context
            The parsed command line.

        Returns
        -------
        Any
            What the command returns.
        """
        try:
            return super().invoke(ctx)
        except MembrainCloudError as error:
            _print_error(ctx, error_line(error, ctx))
            bad_input = isinstance(error, UsageError | InputError | ModelError)
            ctx.exit(BAD_INPUT if bad_input else FAILED)
        except KeyboardInterrupt:
            _print_error(ctx, "interrupted -> run the same command again: finished tasks are kept")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except ImportError as error:
            missing = missing_package(error)
            if missing is None:
                self._report_bug(ctx, error)
            _print_error(ctx, error_line(missing, ctx))
            ctx.exit(BAD_INPUT)
        except BrokenPipeError:
            ctx.exit(FAILED)
        except OSError as error:  # the system's, not a bug of ours
            _print_error(ctx, f"{_system_error(error)} -> check the path, its permissions and the disk")
            ctx.exit(BAD_INPUT)
        except Exception as error:
            self._report_bug(ctx, error)

    @staticmethod
    def _report_bug(ctx: click.Context, error: Exception) -> NoReturn:
        message = " ".join(str(error).split())
        next_step = "this is a bug: please report it, with the output of --debug"
        _print_error(ctx, f"{type(error).__name__}: {message} -> {next_step}")
        ctx.exit(FAILED)


def _system_error(error: OSError) -> str:
    """Return an error of the system in words: the file, and why."""
    words = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename else words


class Command(click.Command):
    """A command that takes `--debug` as well, and refuses NaN as the value of any option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or []), _debug_option()]
        kwargs.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command after a check for NaN, which passes click's ranges because every comparison is false.

        The command is remembered, so that an error can name its options.

        Parameters
        ----------
        ctx : click.Context
            The parsed options and arguments.

        Returns
        -------
        Any
            What the command returns.

        Raises
        ------
        click.BadParameter
            An option is NaN.
        """
        ctx.find_root().meta["command"] = self
        for param in self.params:
            value = ctx.params.get(param.name or "")
            values = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and math.isnan(number) for number in values):
                raise click.BadParameter("nan is no number", ctx, param)
        return super().invoke(ctx)


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().meta["debug"] = True

    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=remember, help="Print the traceback of an error."
    )


def debugging() -> bool:
    """Return whether `--debug` was given to the running command."""
    return bool(click.get_current_context().find_root().meta.get("debug"))


def error_line(error: MembrainCloudError, ctx: click.Context | None = None) -> str:
    """Return an error as one line, with the running command's options in place of parameters of functions.

    The packages below name parameters, e.g. `give voxel_spacing_angstrom`: here they become `give --voxel-spacing`.

    Parameters
    ----------
    error : MembrainCloudError
        The error.
    ctx : click.Context, optional
        The context of the program or of the command; by default the current one.

    Returns
    -------
    str
        `what: cause -> next step`.
    """
    context = ctx or click.get_current_context(silent=True)
    next_step = options_for_parameters(error.next_step, context.find_root().meta if context else {})
    return f"{error.message} -> {next_step}" if next_step else error.message


def options_for_parameters(text: str, meta: Mapping[str, Any]) -> str:
    """Replace names of parameters by options of the command that runs.

    Parameters
    ----------
    text : str
        The next step of an error. Replaced are names with an underscore, with or without `_angstrom` at the end, and a
        flag after the word `set`. Settings such as `segment.window` stay.
    meta : mapping
        The root context's `meta`.

    Returns
    -------
    str
        The text for a user of the command line.
    """
    command = meta.get("command")
    for param in command.params if isinstance(command, click.Command) else ():
        for option in (name for name in param.opts if name.startswith("--")):
            name = option.removeprefix("--").replace("-", "_")
            unit = "(_angstrom)?" if "_" in name else "_angstrom"
            text = re.sub(rf"(?<![\w.-]){name}{unit}(?![\w.])", option, text)
            text = re.sub(rf"\bset {name}(?![\w.])", f"add {option}", text)
    return text


def _print_error(ctx: click.Context, line: str) -> None:
    if ctx.find_root().meta.get("debug"):
        click.echo(without_keys(traceback.format_exc()), err=True)
    click.echo(f"error: {without_keys(line)}", err=True)


def say(line: str) -> None:
    """Print a message for the user to standard error, where it does not mix with the command's results.

    Parameters
    ----------
    line : str
        The message.
    """
    click.echo(line, err=True)


def exit_failed() -> NoReturn:
    """End the running command with the exit code for failures."""
    click.get_current_context().exit(FAILED)


def print_json(value: Any) -> None:
    """Print a value as JSON to standard output.

    Parameters
    ----------
    value : Any
        What `json` can write; other objects are written as text. In a dictionary, lists of more than 1000 entries are
        written one entry a line, so that 100,000 entries take seconds.
    """
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
