"""Write a selection: a manifest that `run` takes, and a copick config over the same results."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.portal.selection import PortalQuery, Selection, copick_config
from membrain_cloud.store.projects.manifest import write_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_FILE, CONFIG_FILE = "manifest.parquet", "config.json"
"""Names of the two files."""
_SECRETS = {"key", "secret", "token", "password", "client_kwargs"}


def check_no_selection(folder: str) -> None:
    """Raise UsageError if a folder holds a selection already, which runs are resumed from.

    Parameters
    ----------
    folder : str
        Path or URL of the folder.
    """
    files = Files(folder)
    for name in (MANIFEST_FILE, CONFIG_FILE):
        if files.exists(name):
            raise UsageError(
                f"{files.url}/{name} is there already", "choose another folder, or allow it to be overwritten"
            )


def write_selection(
    folder: str,
    selection: Selection,
    query: PortalQuery,
    *,
    overlay: str,
    overlay_fs_args: Mapping[str, Any],
    source_fs_args: Mapping[str, Any],
    how: Mapping[str, Any],
) -> dict[str, str]:
    """Write manifest and config of a selection.

    Parameters
    ----------
    folder : str
        Path or URL of the folder.
    selection : Selection
        The tomograms.
    query : PortalQuery
        The filters that they were selected by; kept in the manifest.
    overlay : str
        Path or URL of the folder that results are written to.
    overlay_fs_args, source_fs_args : Mapping
        Arguments of fsspec for the overlay and for the tomograms.
    how : Mapping
        Further facts on the selection, kept in the manifest: endpoint, limit, seed, spacing.

    Returns
    -------
    dict
        Paths or URLs of `manifest` and `config`.

    Raises
    ------
    UsageError
        If the arguments of fsspec hold a secret.
    """
    secret = sorted(_SECRETS & {*overlay_fs_args, *source_fs_args})
    if secret:
        raise UsageError(
            f"option {secret[0]} would be written into the manifest",
            "leave secrets to the environment: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    files = Files(folder)
    files.make_folder()
    if "://" not in overlay:
        Files(overlay).make_folder("ExperimentRuns")
    config = copick_config(selection, overlay, overlay_fs_args, files.url.rsplit("/", 1)[-1])
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    asked = {key: value for key, value in asdict(query).items() if value not in ((), None, False)}
    files.write(CONFIG_FILE, json.dumps(config, indent=4).encode())
    write_manifest(
        f"{files.url}/{MANIFEST_FILE}",
        [tomogram.row() for tomogram in selection.tomograms],
        overlay_root=overlay,
        overlay_fs_args=dict(config["overlay_fs_args"]),
        source_fs_args=dict(source_fs_args),
        objects=config["pickable_objects"],
        copick_config=f"{files.url}/{CONFIG_FILE}",
        selection={"query": asked, **how, "when": when, "left_out": dict(selection.left_out)},
    )
    return {"manifest": f"{files.url}/{MANIFEST_FILE}", "config": f"{files.url}/{CONFIG_FILE}"}
