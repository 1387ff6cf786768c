"""Commands about model files: list, info, verify, fetch, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import json_option, output_exists
from membrain_cloud.errors import UsageError

model_argument = click.argument("model", metavar="MODEL")


@click.group()
def models() -> None:
    """List, inspect, check, fetch and convert model files.

    MODEL is a built-in name, a path, a URL (https://, s3://; `#sha256=HEX` at its end pins the content) or a name of
    the registry: a YAML file at ~/.config/membrain_cloud/models.yaml, or the path in MEMBRAIN_CLOUD_MODELS. Downloads
    are kept in ~/.cache/membrain_cloud/models, or in the folder of MEMBRAIN_CLOUD_CACHE.

    \b
    A registry, with the sha256 that `sha256sum FILE` prints:
      models:
        membrain-seg-v10:
          url: https://files.example.org/MemBrain_seg_v10_alpha.ckpt
          sha256: <64 hex digits>
          description: MemBrain-seg's v10
          license: as its authors say
    """


@models.command("list", cls=Command)
@json_option
def list_models(*, as_json: bool) -> None:
    """List the built-in models and those of the registry.

    \b
    Example:
      membrain-cloud models list
    """
    from membrain_cloud.pipeline.models import list_models as registered_models

    entries = registered_models()
    if as_json:
        print_json(entries)
        return
    rows = [
        (e["name"], e["origin"], str(e.get("task", "")), _size(e), e["sha256"][:12], e.get("description", ""))
        for e in entries
    ]
    display.show_table("", ("name", "origin", "task", "size", "sha256", "description"), rows)


@models.command(cls=Command)
@model_argument
@json_option
def info(model: str, *, as_json: bool) -> None:
    """Show what a model is, what it was trained on, and its validation scores.

    \b
    Examples:
      membrain-cloud models info membrain-cloud-small
      membrain-cloud models info MemBrain_seg_v10_alpha.ckpt
    """
    from membrain_cloud.pipeline.models import model_facts

    _show(model_facts(model), as_json)


@models.command(cls=Command)
@model_argument
@json_option
def verify(model: str, *, as_json: bool) -> None:
    """Check a model file.

    Checked are its sha256 where one is pinned, every weight, and one small window through the network. The exit code is
    2 for a bad model and 1 for one that cannot be fetched.

    \b
    Examples:
      membrain-cloud models verify MemBrain_seg_v10_alpha.ckpt
      membrain-cloud models verify https://files.example.org/model.ckpt#sha256=HEX
    """
    from membrain_cloud.pipeline.models import verify as verify_model

    _show(verify_model(model), as_json)


@models.command(cls=Command)
@click.argument("models_", metavar="NAME=MODEL...", nargs=-1, required=True)
@click.option("--directory", metavar="DIR", required=True, help="Folder for the files; each becomes DIR/NAME.")
def fetch(models_: tuple[str, ...], *, directory: str) -> None:
    """Fetch models with pinned sha256 into a folder.

    A run that takes its models from there needs no network.

    \b
    Example:
      membrain-cloud models fetch --directory /models mine.safetensors=https://files.example.org/m.safetensors#sha256=HEX
    """
    from membrain_cloud.pipeline.models import install_model

    for text in models_:
        name, equals, source = text.partition("=")
        if not equals:
            raise UsageError(f"{text}: no name", "give NAME=MODEL, for instance mine.safetensors=https://...")
        model = install_model(directory, name, source)
        say(f"{model.path}: sha256 {model.sha256}")


@models.command(cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Data type of the weights: float32 keeps every result, float16 halves the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
@json_option
def convert(source: str, output: str, *, precision: str, overwrite: bool, as_json: bool) -> None:
    """Convert a segmentation model to .safetensors.

    SOURCE is a MemBrain-seg checkpoint or another model. The file that is written describes itself.

    \b
    Example:
      membrain-cloud models convert MemBrain_seg_v10_alpha.ckpt membrain-seg-v10.safetensors
    """
    from membrain_cloud.pipeline.models import convert as convert_model

    if Path(output).exists() and not overwrite:
        raise output_exists(output)
    _show(convert_model(source, output, precision=precision, overwrite=overwrite), as_json)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    display.show_table(str(facts["name"]), ("what", "value"), list(facts.items()))


def _size(facts: dict[str, Any]) -> str:
    return f"{facts['bytes'] / 1e6:.1f} MB" if "bytes" in facts else "not fetched"
