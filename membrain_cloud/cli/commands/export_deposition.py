"""The verb export deposition: results for the CryoET Data Portal, with the config that describes them."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli.app import (
    Function,
    Verb,
    absolute,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
)

if TYPE_CHECKING:
    from membrain_cloud.store.portal.deposition import Deposited
    from membrain_cloud.store.projects.project import Project

_LINK_TYPES = ("documentation", "models_weights", "other", "source_code", "website")


def register(export: click.Group) -> None:
    export.add_command(deposition)


def _annotation_options(function: Function) -> Function:
    options = [
        click.option("--segmentation", multiple=True, metavar="URI", help="Masks, membrane:membrain/1a2b3c4d@10.0."),
        click.option("--instances", multiple=True, metavar="URI", help="Masks of instances, with ?instance=true."),
        click.option("--meshes", multiple=True, metavar="URI", help="Meshes, membrane:membrain/1a2b3c4d."),
        click.option("--picks", multiple=True, metavar="URI", help="Picks, psii:membrain/1a2b3c4d."),
        click.option(
            "--object", "objects", multiple=True, metavar="OBJECT=ID[,NAME]", help="Its GO or UniProtKB identifier."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _description_options(function: Function) -> Function:
    options = [
        click.option("--deposition-id", type=int, required=True, help="Given by the portal's curators."),
        click.option("--dataset", metavar="ID", help="The portal's dataset (default: the manifest's)."),
        click.option("--author", "authors", multiple=True, metavar="NAME[,ORCID]", help="First is primary; repeat."),
        click.option("--authors", "authors_file", metavar="FILE", help="YAML list of authors, in the schema's words."),
        click.option("--method", metavar="TEXT", help="How it was made (default: from this package's settings)."),
        click.option(
            "--method-type",
            type=click.Choice(["automated", "hybrid", "manual", "simulated"]),
            default="automated",
            show_default=True,
        ),
        click.option("--software", metavar="TEXT", help="Default: membrain_cloud and its version."),
        click.option(
            "--link",
            "links",
            multiple=True,
            metavar="TYPE=URL",
            help=f"TYPE: {', '.join(_LINK_TYPES)} (models_weights for the model).",
        ),
        click.option("--publication", "publications", multiple=True, metavar="DOI", help="DOI, EMPIAR or EMD number."),
        click.option("--deposition-date", metavar="DATE", help="YYYY-MM-DD (default: today)."),
        click.option("--release-date", metavar="DATE", help="YYYY-MM-DD (default: the deposition's)."),
        click.option("--precision", type=click.FloatRange(0, 100), help="In %."),
        click.option("--recall", type=click.FloatRange(0, 100), help="In %."),
        click.option("--source-prefix", default="membrain_cloud", show_default=True, help="Where you upload DIR to."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(cls=Verb)
@config_argument
@click.argument("folder", metavar="DIR", callback=lambda _c, _p, value: absolute(value))
@runs_option
@_annotation_options
@_description_options
@json_option
def deposition(config: str, folder: str, runs: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Copy results to DIR and write the CryoET Data Portal's ingestion config for them, one a dataset.

    The config is checked against the schema cdp-ingestion-config 1.1.0 (its part about annotations) before anything
    is copied.

    \b
    Example:
      membrain-cloud export deposition chlamy/manifest.parquet deposit --deposition-id 10303 \\
          --segmentation membrane:membrain/1a2b3c4d@10.0 --author "Alice Example,0000-0002-1825-0097" \\
          --link models_weights=https://example.org/model.ckpt
    """
    from membrain_cloud.pipeline.projects.deposit import deposited_runs
    from membrain_cloud.store.portal.deposition import About, write_deposition
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    about = About(chosen["deposition_id"], _metadata(chosen), chosen["source_prefix"])
    where = deposited_runs(project, runs, chosen["dataset"])
    written = write_deposition(project, folder, where, _annotations(project, chosen), about)
    if as_json:
        print_json({"configs": written.configs, "copied": written.copied, "missing": written.missing})
        return
    for missing in written.missing:
        say(f"{missing}: not there, left out")
    say(", ".join(f"{count} {kind}" for kind, count in written.copied.items()) + " copied")
    for file in written.configs:
        click.echo(file)


def _annotations(project: Project, chosen: dict[str, Any]) -> list[Deposited]:
    from membrain_cloud.errors import UsageError
    from membrain_cloud.store.portal.deposition import Deposited, Kind, deposited_object

    given: dict[str, tuple[str, str | None]] = {}
    for text in chosen["objects"]:
        name, equals, rest = text.partition("=")
        identifier, _, called = rest.partition(",")
        if not equals or not identifier:
            raise UsageError(f"--object {text}: not of the form OBJECT=ID", "try --object psii=GO:0009523")
        given[name] = (identifier, called or None)
    kinds: tuple[Kind, ...] = ("segmentation", "instances", "meshes", "picks")
    found = [
        Deposited(kind, uri, *deposited_object(project, kind, uri, given)) for kind in kinds for uri in chosen[kind]
    ]
    if not found:
        raise UsageError("nothing to deposit", "give --segmentation, --instances, --meshes or --picks")
    return found


def _metadata(chosen: dict[str, Any]) -> dict[str, Any]:
    """What is said of every annotation, in the schema's words; checked where the config is made."""
    import membrain_cloud

    software = chosen["software"] or f"membrain_cloud {membrain_cloud.__version__}"
    day = chosen["deposition_date"] or datetime.date.today().isoformat()
    release = chosen["release_date"] or day
    values: dict[str, Any] = {
        "annotation_method": chosen["method"] or f"Membranes segmented, separated, meshed and picked by {software}",
        "annotation_software": software,
        "method_type": chosen["method_type"],
        "authors": _authors(chosen["authors"], chosen["authors_file"]),
        "dates": {"deposition_date": day, "release_date": release, "last_modified_date": max(day, release)},
        "ground_truth_status": False,
        "version": 1.0,
    }
    links = [_link(text) for text in chosen["links"]]
    values |= {"method_links": links} if links else {}
    values |= {"annotation_publications": ", ".join(chosen["publications"])} if chosen["publications"] else {}
    confidence = {key: chosen[key] for key in ("precision", "recall") if chosen[key] is not None}
    return values | ({"confidence": confidence} if confidence else {})


def _authors(named: tuple[str, ...], file: str | None) -> list[dict[str, Any]]:
    from membrain_cloud.errors import UsageError

    found: list[dict[str, Any]] = []
    if file is not None:
        found += _authors_of(file)
    for text in named:
        name, _, orcid = (part.strip() for part in text.partition(","))
        first = not found
        author: dict[str, Any] = {"name": name, "primary_author_status": first, "corresponding_author_status": first}
        found.append(author | ({"ORCID": orcid} if orcid else {}))
    if not found:
        raise UsageError("a deposition needs authors", 'give --author "Name,0000-0000-0000-0000" or --authors FILE')
    return found


def _authors_of(file: str) -> list[dict[str, Any]]:
    import yaml

    from membrain_cloud.errors import UsageError

    try:
        with open(file, encoding="utf-8") as handle:
            content = yaml.safe_load(handle)
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"authors file {file} cannot be read ({error})", "give a YAML list of authors") from None
    if not isinstance(content, list) or not all(isinstance(author, dict) for author in content):
        raise UsageError(f"authors file {file} is no list of authors", "write `- name: ...` for each")
    return content


def _link(text: str) -> dict[str, str]:
    from membrain_cloud.errors import UsageError

    kind, equals, url = text.partition("=")
    if not equals or kind not in _LINK_TYPES:
        raise UsageError(f"--link {text}: not of the form TYPE=URL", f"TYPE is one of {', '.join(_LINK_TYPES)}")
    return {"link_type": kind, "link": url}
