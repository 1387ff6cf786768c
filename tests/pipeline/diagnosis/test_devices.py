"""Checks of memory and devices; a GPU that torch cannot use is a failure, not a silent fall back to the CPU."""

from pathlib import Path

import pytest
import torch

from membrain_cloud.errors import ModelError
from membrain_cloud.pipeline.diagnosis import devices
from membrain_cloud.pipeline.diagnosis.check import Check
from membrain_cloud.units import GIB

MODEL = "membrain-cloud-small"


def by_subject() -> dict[str, Check]:
    return {check.subject: check for check in devices.check_devices(MODEL)}


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def list_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.usefixtures("_no_gpu")
def test_a_machine_without_a_gpu_is_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = by_subject()
    assert checks["GPU"].state == "absent"
    assert checks["CPU"].state == "ok"
    assert "for a window of 64³ voxels" in checks["CPU"].detail


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(("cuda", "cure"), [(None, "build of torch for CUDA"), ("13.0", "driver to one for CUDA 13.0")])
def test_a_gpu_that_torch_cannot_use_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str | None, cure: str
) -> None:
    list_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    checks = list(devices._check_gpus(MODEL))
    assert [check.state for check in checks] == ["failed"]
    assert "NVIDIA H200" in checks[0].detail
    assert cure in checks[0].cure


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "worker_memory_bytes", lambda workers=1: 4 * GIB)
    check = devices._check_memory()
    assert check.state == "warning"
    assert "6 GiB" in check.cure


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="membrain-cloud-tiny"):
        list(devices.check_devices("membrain-cloud-tiny"))
