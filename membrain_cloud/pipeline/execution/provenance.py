"""Make the receipt of a task: inputs, settings, model, versions, and the checksums of what was written."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import platform
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.tasks import Ref, ref_as_dict
from membrain_cloud.redaction import all_without_keys, without_keys
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from membrain_cloud.pipeline.stages.base import Stage, TaskContext
    from membrain_cloud.store.objects.io_meter import Meter

Objects = Mapping[str, tuple[int, str]]
"""Name of an object -> its size in bytes and its checksum."""


def make_receipt(
    context: TaskContext,
    stage: Stage,
    counts: Mapping[str, Any],
    meters: Mapping[str, Meter],
    *,
    seconds: float,
    attempt: int,
) -> dict[str, Any]:
    """Make the receipt of a task whose work is done.

    Sizes and checksums are those of the bytes that were written; `verify` compares the store with them.

    Parameters
    ----------
    context : TaskContext
        The task and its stores.
    stage : Stage
        Its stage.
    counts : mapping of str to Any
        What the stage has counted.
    meters : mapping of str to Meter
        What went through the stores "project" and "tables".
    seconds : float
        Time that the last attempt took.
    attempt : int
        Number of the last attempt, from 1.

    Returns
    -------
    dict of str to Any
        The receipt, as values for JSON.
    """
    task = context.task
    paths = [] if task.output is None else [*output_paths(task.output), *class_pick_paths(task.output, counts)]
    objects = _objects(context, meters[stage.keeps_receipts_in], paths)
    return {
        "receipt_version": RECEIPT_VERSION,
        "digest": task.digest,
        "stage": task.stage,
        "run": task.run,
        "part": task.part,
        "place": task.place,
        "link": task.stage_digest,
        "inputs": all_without_keys(
            {
                role: ref_as_dict(ref) | {"uri": ref.key, "identity": task.identities.get(role)}
                for role, ref in task.inputs.items()
            }
        ),
        "output": None if task.output is None else ref_as_dict(task.output) | {"uri": task.output.key},
        "output_identity": context.project.identity(task.output) if task.output and task.completes else None,
        "output_checksum": content_checksum(objects),
        "paths": paths or sorted(objects),
        "objects": {name: list(entry) for name, entry in sorted(objects.items())},
        "settings": stage.digest_settings(context.settings),
        "model": _model(stage.model(context.settings), task.model_sha256),
        "versions": versions(),
        "host": socket.gethostname(),
        "accelerator": _accelerator() if stage.needs_gpu else None,
        "seconds": round(seconds, 3),
        "voxels": task.voxels,
        "bytes_read": sum(meter.bytes_read for meter in meters.values()),
        "bytes_written": sum(meter.bytes_written for meter in meters.values()),
        "attempt": attempt,
        "peak_memory_bytes": _peak_memory_bytes(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
    }


def _peak_memory_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _model(source: str | None, sha256: str | None) -> dict[str, str | None] | None:
    return None if sha256 is None else {"source": without_keys(source or ""), "sha256": sha256}


def output_paths(output: Ref) -> list[str]:
    """Return the paths in the project at which an annotation may lie.

    Parameters
    ----------
    output : Ref
        The annotation.

    Returns
    -------
    list of str
        One path; for an object those of its meshes and its picks.
    """
    return [output.mesh_path, output.picks_path] if isinstance(output, ObjectRef) else [output.path]


def class_pick_paths(output: Ref, counts: Mapping[str, Any]) -> list[str]:
    """Return the paths of the picks of single classes that `pick` writes beside all picks.

    Parameters
    ----------
    output : Ref
        The stage's output.
    counts : mapping of str to Any
        What the stage has counted; "classes" names the classes.

    Returns
    -------
    list of str
        Paths in the project; empty without classes.
    """
    if not isinstance(output, ObjectRef):
        return []
    return [replace(output, name=name).picks_path for name in sorted(counts.get("classes", ()))]


def content_checksum(objects: Objects) -> str:
    """Return one checksum of several objects: BLAKE2b over their names, sizes and checksums, sorted by name.

    Parameters
    ----------
    objects : mapping
        Name -> size in bytes and checksum.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    lines = "\n".join(f"{name}\t{size}\t{checksum}" for name, (size, checksum) in sorted(objects.items()))
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


def _objects(context: TaskContext, meter: Meter, paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return the objects of which the output consists.

    The last of several parts lists the whole output, any other part what it has written itself.
    """
    task = context.task
    if not task.completes or task.output is None:
        return dict(meter.objects)
    objects: dict[str, tuple[int, str]] = {}
    if task.part != "whole":
        parts = context.receipts.parts(task.address)
        for part in sorted(parts, key=lambda name: (name != "prepare", name)):
            written = parts[part].get("objects", {}).items()
            objects |= {name: (size, checksum) for name, (size, checksum) in written}
    objects |= meter.objects
    return {name: entry for name, entry in objects.items() if any(_is_below(name, path) for path in paths)}


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}/")


@functools.cache
def _accelerator() -> str | None:
    """Return the name of the GPU; None without one."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that affect results."""
    result = {"membrain_cloud": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "copick", "zarr", "connected-components-3d"):
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result
