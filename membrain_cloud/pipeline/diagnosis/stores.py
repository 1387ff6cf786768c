"""Check the folder for temporary files, and that a project can be opened, listed and written."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from typing import TYPE_CHECKING

from membrain_cloud.errors import storage_error
from membrain_cloud.pipeline.diagnosis.check import Check, run_checks
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.objects.object_store import Files
    from membrain_cloud.store.projects.project import Project

_FREE_BYTES = 5 * GIB


def check_temporary_folder() -> Iterator[Check]:
    """Yield the check of the folder for temporary files: room and permission.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    folder = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"1")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(error, folder) from None
    detail = f"{folder}, {free / GIB:.0f} GiB free"
    if free < _FREE_BYTES:
        yield Check("temporary folder", "warning", detail, "free some space, or set TMPDIR to a folder with more")
        return
    yield Check("temporary folder", "ok", detail)


def check_project(project: Project) -> Iterator[Check]:
    """Yield checks of a project: its runs and tomograms, and writing to its overlay.

    Parameters
    ----------
    project : Project
        The project.

    Yields
    ------
    Check
        A run that cannot be processed is a warning; a small object is written to the overlay and removed again.

    Raises
    ------
    StorageError, TransientError
        If the project cannot be listed.
    """
    runs, bad = project.runs(), project.bad_runs()
    detail = f"{project.config}: {len(runs)} runs"
    if not runs:
        yield Check("project", "failed", detail, "add tomograms: membrain-cloud project init")
    elif bad:
        name, error = next(iter(bad.items()))
        detail += f"; {len(bad)} cannot be processed, e.g. {name!r}: {error.message}"
        yield Check("project", "warning", detail, error.next_step)
    else:
        yield Check("project", "ok", detail)
    yield from run_checks("results", lambda: check_writing(project.files, "results"))


def check_writing(files: Files, subject: str) -> Iterator[Check]:
    """Yield the check of a store that results go to: write, read, write only once, list and remove an object.

    Parameters
    ----------
    files : Files
        The store.
    subject : str
        The subject of the check.

    Raises
    ------
    StorageError, TransientError
        If an operation fails.
    """
    folder = f"membrain-cloud-doctor-{uuid.uuid4().hex[:12]}"
    name, content = f"{folder}/probe", uuid.uuid4().bytes
    try:
        files.write(name, content)
        faults = []
        if files.read(name) != content:
            faults.append("what was written is not what is read")
        if files.create(name, b"2") or files.read(name) != content:
            faults.append("an object that exists is replaced by a conditional write")
        if "probe" not in files.listing(folder):
            faults.append("an object that was written is not listed at once")
    finally:
        files.remove(folder)
    if faults:
        cure = "results may be lost where several runs work at once: use another store, or one run at a time"
        yield Check(subject, "failed", f"{files.url}: {'; '.join(faults)}", cure)
        return
    yield Check(subject, "ok", f"{files.url} can be written, read, listed and written conditionally")
