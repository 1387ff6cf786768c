"""Open a project of either kind: from a copick config, or from a manifest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.manifest import SUFFIX
from membrain_cloud.store.projects.stored_project import CopickProject, ManifestProject

if TYPE_CHECKING:
    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.projects.project import Project

_KEPT = 4
_opened: OrderedDict[str, tuple[ObjectInfo | None, Project]] = OrderedDict()
_lock = threading.Lock()


def is_config(name: str) -> bool:
    """Return whether a path or URL names a config or a manifest, rather than a folder.

    Parameters
    ----------
    name : str
        A path, or a URL.
    """
    return name.endswith((".json", SUFFIX))


def open_project(config: str, *, checked: bool = False) -> Project:
    """Open the project that a copick config or a manifest describes.

    The last four projects are kept by the process and returned again until their file changes: a worker reads a
    manifest once, not once per task.

    Parameters
    ----------
    config : str
        Path or fsspec URL of a copick config, or of a manifest (`*.parquet`).
    checked : bool
        Whether the process that planned has checked the config before, as for a worker. Default: False.

    Returns
    -------
    Project
        The project.

    Raises
    ------
    ProjectError
        If there is no such file, or it describes no project that can be opened.
    """
    config = str(config)
    folder, _, name = config.rpartition("/")
    info = Files(folder or ("/" if config.startswith("/") else ".")).info(name)
    with _lock:
        kept = _opened.get(config)
        if kept is not None and info is not None and kept[0] == info:
            _opened.move_to_end(config)
            return kept[1]
    is_manifest = config.endswith(SUFFIX)
    project: Project = ManifestProject.open(config) if is_manifest else CopickProject.open(config, checked)
    with _lock:
        _opened[config] = info, project
        while len(_opened) > _KEPT:
            _opened.popitem(last=False)
    return project
