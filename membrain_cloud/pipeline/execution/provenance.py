"""What a receipt says: of what, by what, with which settings an output was made, and how to tell that it is whole."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import platform
import resource
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import membrain_cloud
from membrain_cloud.pipeline.tasks import Ref, ref_as_dict
from membrain_cloud.redaction import all_without_keys, without_keys
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION

if TYPE_CHECKING:
    from membrain_cloud.pipeline.stages.base import Stage, TaskContext
    from membrain_cloud.store.objects.io_meter import Meter

Objects = Mapping[str, tuple[int, str]]


def make_receipt(
    context: TaskContext,
    stage: Stage,
    counts: Mapping[str, Any],
    meters: Mapping[str, Meter],
    *,
    seconds: float,
    attempt: int,
) -> dict[str, Any]:
    """The receipt of the task at `context`, whose work is done.

    meters : what went through the stores "project" and "tables". Sizes and checksums are those of the bytes that were
    written; what lies in the store is compared with them by `verify`.
    """
    task = context.task
    places = [] if task.output is None else [*output_paths(task.output), *class_pick_paths(task.output, counts)]
    objects = _objects(context, meters[stage.keeps_receipts_in], places)
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
        "paths": places or sorted(objects),
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
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # of the process so far
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
    }


def _model(source: str | None, sha256: str | None) -> dict[str, str | None] | None:
    return None if sha256 is None else {"source": without_keys(source or ""), "sha256": sha256}


def output_paths(output: Ref) -> list[str]:
    """Where an annotation may lie in the project."""
    return [output.mesh_path, output.picks_path] if isinstance(output, ObjectRef) else [output.path]


def class_pick_paths(output: Ref, counts: Mapping[str, Any]) -> list[str]:
    """Where the picks of each kind lie that `pick` writes beside all of them: its counts name the kinds."""
    if not isinstance(output, ObjectRef):
        return []
    return [replace(output, name=name).picks_path for name in sorted(counts.get("classes", ()))]


def content_checksum(objects: Objects) -> str:
    """One checksum of several objects: BLAKE2b over their names, sizes and checksums, by name."""
    lines = "\n".join(f"{name}\t{size}\t{summed}" for name, (size, summed) in sorted(objects.items()))
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


def _objects(context: TaskContext, meter: Meter, places: Sequence[str]) -> dict[str, tuple[int, str]]:
    """What the output consists of: of the last of several parts all of it, of another part what it wrote itself."""
    task = context.task
    if not task.completes or task.output is None:
        return dict(meter.objects)
    found: dict[str, tuple[int, str]] = {}
    if task.part != "whole":
        parts = context.receipts.parts(task.address)
        for part in sorted(parts, key=lambda name: (name != "prepare", name)):
            found |= {name: (size, summed) for name, (size, summed) in parts[part].get("objects", {}).items()}
    found |= meter.objects
    return {name: entry for name, entry in found.items() if any(_is_below(name, place) for place in places)}


def _is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


@functools.cache
def _accelerator() -> str | None:
    """The GPU's name; None where the work was done without one."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


@functools.cache
def versions() -> dict[str, str]:
    """Versions that bear on results."""
    found = {"membrain_cloud": membrain_cloud.__version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "copick", "zarr", "connected-components-3d"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
