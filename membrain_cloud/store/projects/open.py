"""Opening a project of either kind: a copick config, or a manifest."""

from __future__ import annotations

import threading
from collections import OrderedDict

from membrain_cloud.store.objects.object_store import Files, ObjectInfo
from membrain_cloud.store.projects.manifest import SUFFIX
from membrain_cloud.store.projects.manifest_project import ManifestProject
from membrain_cloud.store.projects.project import Project

_KEPT = 4
_opened: OrderedDict[str, tuple[ObjectInfo | None, Project]] = OrderedDict()
_lock = threading.Lock()


def is_config(name: str) -> bool:
    """Whether a path or URL names a config or a manifest, rather than a folder."""
    return name.endswith((".json", SUFFIX))


def open_project(config: str) -> Project:
    """The project that a copick config or a manifest (`*.parquet`) describes: a path or an fsspec URL.

    What was opened is kept by the process and used again until the file changes: a worker reads a manifest once, not
    once a task. Errors as those of `Project.open` and `ManifestProject.open`.
    """
    config = str(config)
    folder, _, name = config.rpartition("/")
    info = Files(folder or ("/" if config.startswith("/") else ".")).info(name)
    with _lock:
        known = _opened.get(config)
        if known is not None and info is not None and known[0] == info:
            _opened.move_to_end(config)
            return known[1]
    project = ManifestProject.open(config) if config.endswith(SUFFIX) else Project.open(config)
    with _lock:
        _opened[config] = info, project
        while len(_opened) > _KEPT:
            _opened.popitem(last=False)
    return project
