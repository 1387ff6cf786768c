"""Check cores, memory and GPUs: a forward pass of the default network on each device."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.pipeline.diagnosis.check import Check
from membrain_cloud.pipeline.runners.host_resources import default_workers, total_memory_bytes, worker_memory_bytes
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.networks.segmentation.segmenter import Segmenter

_DRIVER_SECONDS = 20
# A tomogram of 1000 x 1000 x 300 voxels needs about this much for its largest task (docs/sizing.md).
_ORDINARY_TASK_BYTES = 6 * GIB


def check_devices(model: str) -> Iterator[Check]:
    """Yield checks of the memory, the CPU and each GPU.

    Parameters
    ----------
    model : str
        Segmentation model for the forward passes, as in `segment.model`.

    Yields
    ------
    Check
        A GPU that the driver lists and torch does not see is a failure; a machine without a GPU is none.

    Raises
    ------
    ModelError
        If the model cannot be loaded.
    """
    yield _check_memory()
    yield _forward_pass(model, "cpu", "CPU")
    yield from _check_gpus(model)


def _check_memory() -> Check:
    workers, total = default_workers(), total_memory_bytes()
    each = worker_memory_bytes(workers)
    detail = f"{total / GIB:.1f} GiB; a run starts {workers} workers with {each / GIB:.1f} GiB each"
    if worker_memory_bytes() < _ORDINARY_TASK_BYTES:
        cure = f"small tomograms fit; 1000 x 1000 x 300 voxels need about {_ORDINARY_TASK_BYTES / GIB:.0f} GiB"
        return Check("memory", "warning", detail, cure)
    return Check("memory", "ok", detail)


def _check_gpus(model: str) -> Iterator[Check]:
    import torch

    listed, built_for = _listed_gpus(), torch.version.cuda
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and not listed:
        yield Check("GPU", "absent", "this machine has none: networks run on the CPU", "none is required")
        return
    if count == 0 and built_for is None:
        cure = "install a build of torch for CUDA, see pytorch.org/get-started"
        yield Check("GPU", "failed", f"{listed[0]} is there, torch {torch.__version__} is built for CPUs alone", cure)
        return
    if count == 0:
        cure = f"update the driver to one for CUDA {built_for}; in a container, check its runtime and LD_LIBRARY_PATH"
        yield Check("GPU", "failed", f"{listed[0]} is there, torch (CUDA {built_for}) cannot use it", cure)
        return
    for number in range(count):
        yield _forward_pass(model, f"cuda:{number}", f"GPU {number}", torch.cuda.get_device_name(number))


def _listed_gpus() -> list[str]:
    """Return the names of the GPUs that NVIDIA's driver lists, whether torch can use them or not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_DRIVER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _seconds(segmenter: Segmenter, window: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    segmenter.predict(window)
    return time.perf_counter() - start


def _forward_pass(model: str, device: str, subject: str, name: str = "") -> Check:
    """Return the check of one window through the network on a device, timed after a first one."""
    from membrain_cloud.pipeline.models import load_segmenter

    segmenter = load_segmenter(model, device=device)
    edge = segmenter.window
    window = np.random.default_rng(0).standard_normal((1, 1, edge, edge, edge), np.float32)
    try:
        logits = segmenter.predict(window)
        seconds = min(_seconds(segmenter, window) for _ in range(2))
    except RuntimeError as error:  # torch's, an allocation that failed among them
        cause = " ".join(str(error).split())[:200]
        return Check(subject, "failed", f"{name or device}: {cause}", "check the driver, and what else uses the device")
    if not np.isfinite(logits).all():
        cure = "the device computes wrong numbers: do not use it"
        return Check(subject, "failed", f"{name or device}: logits of noise are not finite", cure)
    detail = f"{name + ': ' if name else ''}{model} takes {1000 * seconds:.0f} ms for a window of {edge}³ voxels"
    return Check(subject, "ok", detail)
