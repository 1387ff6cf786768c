"""The command `export deposition`: results for the CryoET Data Portal, with the config that describes them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import absolute_path, json_option, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.errors import UsageError
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from membrain_cloud.store.portal.deposition import DepositedAnnotation
    from membrain_cloud.store.projects.project import Project

_LINK_TYPES = ("documentation", "models_weights", "other", "source_code", "website")


@option_group
class AnnotationOptions:
    """The annotations to deposit."""

    segmentation: tuple[str, ...] = option(
        "--segmentation", multiple=True, metavar="URI", help="Masks, e.g. membrane:membrain/1a2b3c4d@10.0 (repeatable)."
    )
    instances: tuple[str, ...] = option(
        "--instances",
        multiple=True,
        metavar="URI",
        help="Instance masks, e.g. membrane:membrain/1a2b3c4d@10.0?instance=true (repeatable).",
    )
    meshes: tuple[str, ...] = option(
        "--meshes", multiple=True, metavar="URI", help="Meshes, e.g. membrane:membrain/1a2b3c4d (repeatable)."
    )
    picks: tuple[str, ...] = option(
        "--picks", multiple=True, metavar="URI", help="Picks, e.g. psii:membrain/1a2b3c4d (repeatable)."
    )
    objects: tuple[str, ...] = option(
        "--object",
        multiple=True,
        metavar="OBJECT=ID[,NAME]",
        help="GO or UniProtKB identifier of an object, e.g. psii=GO:0009523 (repeatable; default: the config's).",
    )

    def annotations(self, project: Project) -> list[DepositedAnnotation]:
        """Return the annotations with the identifiers of their objects.

        Parameters
        ----------
        project : Project
            Its config names the identifiers that `--object` leaves out.

        Returns
        -------
        list of DepositedAnnotation
            Segmentations, instances, meshes and picks, in this order.

        Raises
        ------
        UsageError
            No annotation is given, or an `--object` has no identifier.
        """
        from membrain_cloud.store.portal.deposition import DepositedAnnotation, Kind, deposited_object

        uris: dict[Kind, tuple[str, ...]] = {
            "segmentation": self.segmentation,
            "instances": self.instances,
            "meshes": self.meshes,
            "picks": self.picks,
        }
        objects = self._identifiers()
        annotations = [
            DepositedAnnotation(kind, uri, *deposited_object(project, kind, uri, objects))
            for kind, kind_uris in uris.items()
            for uri in kind_uris
        ]
        if not annotations:
            raise UsageError("nothing to deposit", "give --segmentation, --instances, --meshes or --picks")
        return annotations

    def _identifiers(self) -> dict[str, tuple[str, str | None]]:
        """Return the identifier, and the name or None, of each object of `--object`."""
        identifiers: dict[str, tuple[str, str | None]] = {}
        for text in self.objects:
            name, equals, value = text.partition("=")
            identifier, _, label = value.partition(",")
            if not equals or not identifier:
                raise UsageError(f"--object {text}: not of the form OBJECT=ID", "try --object psii=GO:0009523")
            identifiers[name] = (identifier, label or None)
        return identifiers


@option_group
class DescriptionOptions:
    """The description of the deposition, in the terms of the portal's schema."""

    deposition_id: int = option(
        "--deposition-id",
        type=int,
        required=True,
        metavar="ID",
        help="Deposition number that the portal's curators assigned.",
    )
    dataset: str | None = option(
        "--dataset", metavar="ID", help="Portal dataset of the runs (default: from a portal manifest)."
    )
    authors: tuple[str, ...] = option(
        "--author",
        multiple=True,
        metavar="NAME[,ORCID]",
        help="Author of the annotations (repeatable; the first is the primary author).",
    )
    authors_file: str | None = option(
        "--authors",
        metavar="FILE",
        help="YAML list of authors with the keys of the portal's schema (default: only --author).",
    )
    method: str | None = option(
        "--method", metavar="TEXT", help="How the annotations were made (default: a sentence that names the software)."
    )
    method_type: str = option(
        "--method-type",
        type=click.Choice(["automated", "hybrid", "manual", "simulated"]),
        default="automated",
        show_default=True,
        help="Kind of the method.",
    )
    software: str | None = option(
        "--software", metavar="TEXT", help="Software that made the annotations (default: membrain_cloud, its version)."
    )
    links: tuple[str, ...] = option(
        "--link",
        multiple=True,
        metavar="TYPE=URL",
        help=f"Link of a type: {', '.join(_LINK_TYPES)} (repeatable; the model is models_weights).",
    )
    publications: tuple[str, ...] = option(
        "--publication", multiple=True, metavar="ID", help="DOI, EMPIAR or EMD number of a publication (repeatable)."
    )
    deposition_date: str | None = option(
        "--deposition-date", metavar="DATE", help="Date of the deposition, YYYY-MM-DD (default: today)."
    )
    release_date: str | None = option(
        "--release-date", metavar="DATE", help="Date of the release, YYYY-MM-DD (default: the deposition's date)."
    )
    precision: float | None = option(
        "--precision",
        type=click.FloatRange(0, 100),
        metavar="PERCENT",
        help="Measured precision of the annotations in % (default: not stated).",
    )
    recall: float | None = option(
        "--recall",
        type=click.FloatRange(0, 100),
        metavar="PERCENT",
        help="Measured recall of the annotations in % (default: not stated).",
    )
    source_prefix: str = option(
        "--source-prefix",
        metavar="PATH",
        default="membrain_cloud",
        show_default=True,
        help="Place on the portal's side to which you upload DIR.",
    )

    def metadata(self) -> dict[str, Any]:
        """Return what the config says of every annotation, with the schema's keys.

        Returns
        -------
        dict
            Not checked against the schema yet.

        Raises
        ------
        UsageError
            There is no author, or a link has no known type.
        """
        software = self.software or f"membrain_cloud {__version__}"
        day = self.deposition_date or datetime.date.today().isoformat()
        release = self.release_date or day
        values: dict[str, Any] = {
            "annotation_method": self.method or f"Membranes segmented, separated, meshed and picked by {software}",
            "annotation_software": software,
            "method_type": self.method_type,
            "authors": _authors(self.authors, self.authors_file),
            "dates": {"deposition_date": day, "release_date": release, "last_modified_date": max(day, release)},
            "ground_truth_status": False,
            "version": 1.0,
        }
        links = [_link(text) for text in self.links]
        values |= {"method_links": links} if links else {}
        values |= {"annotation_publications": ", ".join(self.publications)} if self.publications else {}
        scores = {"precision": self.precision, "recall": self.recall}
        confidence = {key: value for key, value in scores.items() if value is not None}
        return values | ({"confidence": confidence} if confidence else {})


@click.command(cls=Command)
@config_argument
@click.argument("folder", metavar="DIR", callback=absolute_path)
@runs_option
@takes(AnnotationOptions, DescriptionOptions)
@json_option
def deposition(
    annotations: AnnotationOptions,
    description: DescriptionOptions,
    config: str,
    folder: str,
    *,
    runs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy annotations to DIR and write the CryoET Data Portal's ingestion config for them, one for each dataset.

    The config is checked against the schema cdp-ingestion-config 1.1.0 (its part about annotations) before anything
    is copied.

    \b
    Example:
      membrain-cloud export deposition chlamy/manifest.parquet deposit --deposition-id 10303 \\
          --segmentation membrane:membrain/1a2b3c4d@10.0 --author "Alice Example,0000-0002-1825-0097" \\
          --link models_weights=https://example.org/model.ckpt
    """
    from membrain_cloud.pipeline.projects.deposit import deposited_runs
    from membrain_cloud.store.portal.deposition import Description, write_deposition
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    about = Description(description.deposition_id, description.metadata(), description.source_prefix)
    deposited = deposited_runs(project, runs, description.dataset)
    written = write_deposition(project, folder, deposited, annotations.annotations(project), about)
    if as_json:
        print_json({"configs": written.configs, "copied": written.copied, "missing": written.missing})
        return
    for missing in written.missing:
        say(f"{missing}: absent, left out")
    say(", ".join(f"{count} {kind}" for kind, count in written.copied.items()) + " copied")
    for file in written.configs:
        click.echo(file)


def _authors(names: tuple[str, ...], file: str | None) -> list[dict[str, Any]]:
    """Return the authors of the file, then those of `--author`, with the schema's keys."""
    authors: list[dict[str, Any]] = []
    if file is not None:
        authors += _read_authors(file)
    for text in names:
        name, _, orcid = (part.strip() for part in text.partition(","))
        first = not authors
        author: dict[str, Any] = {"name": name, "primary_author_status": first, "corresponding_author_status": first}
        authors.append(author | ({"ORCID": orcid} if orcid else {}))
    if not authors:
        raise UsageError("a deposition needs authors", 'give --author "Name,0000-0000-0000-0000" or --authors FILE')
    return authors


def _read_authors(file: str) -> list[dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"authors file {file} cannot be read ({error})", "give a YAML list of authors") from None
    if not isinstance(content, list) or not all(isinstance(author, dict) for author in content):
        raise UsageError(f"authors file {file} is no list of authors", "write `- name: ...` for each author")
    return content


def _link(text: str) -> dict[str, str]:
    kind, equals, url = text.partition("=")
    if not equals or kind not in _LINK_TYPES:
        raise UsageError(f"--link {text}: not of the form TYPE=URL", f"TYPE is one of {', '.join(_LINK_TYPES)}")
    return {"link_type": kind, "link": url}
