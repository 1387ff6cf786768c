"""Verbs about model files: list, info, verify, fetch, convert."""

from __future__ import annotations

from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Program, Verb, json_option, print_json, say
from membrain_cloud.errors import UsageError


def register(main: Program) -> None:
    main.add_command(models)


model_argument = click.argument("model", metavar="MODEL")


@click.group()
def models() -> None:
    """Model files: built-in ones, yours, MemBrain-seg's, and those of a registry.

    MODEL is a built-in name, a path, an URL (https://, s3://; `#sha256=HEX` at its end pins the content) or a name of
    the registry: a YAML file at ~/.config/membrain_cloud/models.yaml, or where MEMBRAIN_CLOUD_MODELS says. Downloads
    are kept in ~/.cache/membrain_cloud/models, or where MEMBRAIN_CLOUD_CACHE says.

    \b
    A registry, with the sha256 that `sha256sum FILE` prints:
      models:
        membrain-seg-v10:
          url: https://files.example.org/MemBrain_seg_v10_alpha.ckpt
          sha256: <64 hex digits>
          description: MemBrain-seg's v10
          license: as its authors say
    """


@models.command("list", cls=Verb)
@json_option
def list_models(as_json: bool) -> None:
    """List the built-in models and those of the registry.

    \b
    Example:
      membrain-cloud models list
    """
    from membrain_cloud.pipeline.models import list_models

    found = list_models()
    if as_json:
        print_json(found)
        return
    rows = [(f["name"], f["origin"], _task(f), _size(f), f["sha256"][:12], f.get("description", "")) for f in found]
    display.show_table("", ("name", "origin", "task", "size", "sha256", "description"), rows)


@models.command(cls=Verb)
@model_argument
@json_option
def info(model: str, as_json: bool) -> None:
    """Say what a model is, what it was trained on, and how well it did.

    \b
    Examples:
      membrain-cloud models info membrain-cloud-small
      membrain-cloud models info MemBrain_seg_v10_alpha.ckpt
    """
    from membrain_cloud.pipeline.models import model_facts

    _show(model_facts(model), as_json)


@models.command(cls=Verb)
@model_argument
@json_option
def verify(model: str, as_json: bool) -> None:
    """Check a model: its sha256 where one is promised, every weight, and one small window through the network.

    Exit code 2 for a model that is not what it should be, 1 where it could not be fetched.

    \b
    Examples:
      membrain-cloud models verify MemBrain_seg_v10_alpha.ckpt
      membrain-cloud models verify https://files.example.org/model.ckpt#sha256=HEX
    """
    from membrain_cloud.pipeline.models import verify as verify_model

    _show(verify_model(model), as_json)


@models.command(cls=Verb)
@click.argument("models_", metavar="NAME=MODEL...", nargs=-1, required=True)
@click.option("--directory", metavar="DIR", required=True, help="Where the files are put, as DIR/NAME.")
def fetch(models_: tuple[str, ...], directory: str) -> None:
    """Fetch models, each with its sha256 pinned, and put them where settings name them: before a run, on every machine.

    \b
    Example:
      membrain-cloud models fetch --directory /models mine.safetensors=https://files.example.org/m.safetensors#sha256=HEX
    """
    from membrain_cloud.pipeline.models import install_model

    for given in models_:
        name, equals, source = given.partition("=")
        if not equals:
            raise UsageError(f"{given}: no name", "give NAME=MODEL, for instance mine.safetensors=https://...")
        model = install_model(directory, name, source)
        say(f"{model.path}: sha256 {model.sha256}")


@models.command(cls=Verb)
@click.argument("source", metavar="SOURCE")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the weights: float32 keeps every result as it is, float16 halves the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT where it is there.")
@json_option
def convert(source: str, output: str, precision: str, overwrite: bool, as_json: bool) -> None:
    """Write a segmentation model, such as a MemBrain-seg checkpoint, as .safetensors that say what they are.

    \b
    Example:
      membrain-cloud models convert MemBrain_seg_v10_alpha.ckpt membrain-seg-v10.safetensors
    """
    from membrain_cloud.pipeline.models import convert as convert_model

    _show(convert_model(source, output, precision=precision, overwrite=overwrite), as_json)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    display.show_table(str(facts["name"]), ("what", "value"), list(facts.items()))


def _task(facts: dict[str, Any]) -> str:
    return str(facts.get("task", ""))


def _size(facts: dict[str, Any]) -> str:
    return f"{facts['bytes'] / 1e6:.1f} MB" if "bytes" in facts else "not fetched"
