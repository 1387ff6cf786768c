"""Fixtures that all tests share."""

from __future__ import annotations

import os

# The networks of the tests are tiny: threads that wait for each other cost more than they compute, most on a busy
# machine. Libraries read this when they are loaded; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins.fault_proxy import FaultProxy
from standins.shapes import GRID, OPTIONS, Shapes

from membrain_cloud.statistics.measure import Membrane, Options, measure_membrane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from membrain_cloud.geometry import Mesh, Picks

# Packages whose tests run compiled kernels, and a number of tests from which some of them do.
WITH_KERNELS, MANY_TESTS = {"mesh", "picking", "segmentation", "statistics"}, 300
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compile numba's kernels before the first test: it takes about 40 s after a change of theirs, else nothing."""
    folders = {Path(item.path).relative_to(Path(__file__).parent).parts[0] for item in session.items}
    if not session.config.option.collectonly and (folders & WITH_KERNELS or len(session.items) >= MANY_TESTS):
        from standins.kernels import compile_once

        compile_once()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo what copick's import sets up for the logging of the process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of reference files made by other programs; skip where it is absent."""
    if not REFERENCE.is_dir():
        pytest.skip(f"reference files are absent: {REFERENCE}")
    return REFERENCE


@pytest.fixture(scope="session")
def lightning_checkpoint() -> Callable[..., Path]:
    """Return a function that writes a checkpoint of MemBrain-seg's kind: path, channels, seed -> path."""

    def write(path: Path, *, channels: Sequence[int] = (4, 8, 8, 8), seed: int = 0, residual: bool = True) -> Path:
        import torch
        from monai.networks.nets import DynUNet

        torch.manual_seed(seed)
        levels = len(channels)
        network = DynUNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(channels),
            res_block=residual,
            deep_supervision=True,
            deep_supr_num=2,
        )
        state = {f"_model.{name}": value for name, value in network.state_dict().items()}
        state["loss_function.loss_fn.dice_loss.loss.class_weight"] = torch.ones(1)
        content = {
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "2.0.4",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3)}},
            "optimizer_states": [],
            "lr_schedulers": [],
            "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        }
        torch.save(content, path)
        return path

    return write


@pytest.fixture(scope="session")
def portal_stub() -> ModuleType:
    """Return the module `standins.portal_stub`, a stand-in for the CryoET Data Portal."""
    pytest.importorskip("cryoet_data_portal")
    from standins import portal_stub

    return portal_stub


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """Yield an S3 server of this module behind a proxy that makes faults on request."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with FaultProxy(server.get_host_and_port()[1]) as proxy:
        yield proxy
    server.stop()


@pytest.fixture(scope="session")
def browser_kit() -> ModuleType:
    """Return the module `standins.browser`; skip the test where no Chromium is installed."""
    from standins import browser

    if browser.executable() is None:
        pytest.skip("no Chromium on this machine: pages are not looked at")
    return browser


@pytest.fixture(scope="session")
def shapes() -> Shapes:
    """Return the maker of meshes with closed forms."""
    return Shapes()


@pytest.fixture(scope="session")
def measure() -> Callable[..., dict[str, list[dict[str, Any]]]]:
    """Return `measure_membrane` with defaults: parameters, membrane fields and options are given by name."""

    def call(mesh: Mesh, picks: Picks | None, **changes: Any) -> dict[str, list[dict[str, Any]]]:
        options = {field.name: changes.pop(field.name) for field in fields(Options) if field.name in changes}
        border = changes.pop("border_vertices", np.zeros(len(mesh.vertices), bool))
        membrane = Membrane(mesh, picks, border, changes.pop("object_names", "protein"))
        return measure_membrane(membrane, **{"grid": GRID, **changes}, options=replace(OPTIONS, **options))

    return call


@pytest.fixture(scope="session")
def options() -> Options:
    """Return the options that `measure` uses by default."""
    return OPTIONS


@pytest.fixture(scope="session")
def measured_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `project/config.json` and the tables of `standins.measured_project`."""
    from standins.measured_project import write_project

    folder = tmp_path_factory.mktemp("measured")
    write_project(folder)
    return folder


@pytest.fixture(scope="session")
def measured_config(measured_project: Path) -> str:
    """Return the config of the measured project."""
    return str(measured_project / "project" / "config.json")
