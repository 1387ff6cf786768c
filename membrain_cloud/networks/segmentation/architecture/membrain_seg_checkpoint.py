"""Read MemBrain-seg's Lightning checkpoints: select the entries that are the network, and derive its architecture.

A checkpoint of MemBrain-seg (v9 ... v10, the FA and MW variants) holds a `state_dict` and no hyper-parameters. Of its
keys

    _model.NAME                          the network: MONAI's DynUNet, whose names are the same from MONAI 1.0 to 1.6
    _model.skip_layers.NAME              the same tensors again: DynUNet registers each of its layers twice
    _model.deep_supervision_heads.NAME   outputs at coarser levels, used by the training only
    loss_function.NAME, others           buffers of the loss, which MONAI 1.3 added to, so that older files no longer
                                         loaded strictly (MemBrain-seg's pull request 41)

only the first kind is needed. Every entry below `_model.` must be known, and none may be missing.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "membrain-seg"
# Such a file does not say what it was made for; all that were published were trained in this way.
WINDOW = 160
VOXEL_SPACING_ANGSTROM = 10.0

# `module.` and `_orig_mod.` come from DataParallel and torch.compile.
_WRAPPERS = r"(?:module\.|_orig_mod\.)*"
_OF_NETWORK = re.compile(rf"{_WRAPPERS}_model\.{_WRAPPERS}(?P<name>.+)")
_ALIAS = re.compile(
    r"skip_layers\.(?P<deeper>(?:next_layer\.)*)(?P<layer>downsample|upsample|super_head)\.(?P<rest>.+)"
)
_ALIAS_PREFIX, _HEADS_PREFIX = "skip_layers.", "deep_supervision_heads."
_GET_IT_AGAIN = "get the file again, and compare its size and sha256 with its source"
_NOT_OURS = "give a MemBrain-seg .ckpt, or a model made by `membrain-cloud train segmentation`"
_RESAVE = "get it from its authors; of a checkpoint of your own, save the entry `state_dict` alone"

State = dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> tuple[UNetArchitecture, State]:
    """Read a MemBrain-seg checkpoint.

    The tensors are mapped from the file, on the CPU: no weight is read before it is used.

    Parameters
    ----------
    path : Path
        The checkpoint.

    Returns
    -------
    UNetArchitecture
        The architecture of its network.
    dict of str to Tensor
        The weights of inference, by DynUNet's names.

    Raises
    ------
    ModelError
        If the file cannot be read, contains code, or is not exactly such a network.
    """
    state = _network_state(path, _stored(path))
    weights = {name: value for name, value in state.items() if not name.startswith((_ALIAS_PREFIX, _HEADS_PREFIX))}
    architecture = _architecture(path, weights)
    _require(path, weights, expected_shapes(architecture))
    _require_true_aliases(path, state, levels=len(architecture.channels))
    # MemBrain-seg's arrays are xyz, ours zyx: its kernels are turned once, so that no window ever has to be.
    return architecture, {k: v.permute(0, 1, 4, 3, 2) if v.ndim == 5 else v for k, v in weights.items()}


def expected_shapes(architecture: UNetArchitecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of `build_unet(architecture)`, without building it.

    Parameters
    ----------
    architecture : UNetArchitecture
        The architecture.

    Returns
    -------
    dict of str to tuple of int
        Name to shape.
    """
    channels = architecture.channels
    shapes: dict[str, tuple[int, ...]] = {}

    def block(name: str, taken: int, made: int, *, residual: bool) -> None:
        kernels = [("1", (made, taken, 3, 3, 3)), ("2", (made, made, 3, 3, 3))]
        if residual:
            kernels.append(("3", (made, taken, 1, 1, 1)))
        for number, shape in kernels:
            shapes[f"{name}.conv{number}.conv.weight"] = shape
            shapes[f"{name}.norm{number}.weight"] = shapes[f"{name}.norm{number}.bias"] = (made,)

    # The first block keeps the resolution: with one channel, its input needs no convolution to be added.
    block("input_block", 1, channels[0], residual=architecture.residual and channels[0] != 1)
    for level, (taken, made) in enumerate(itertools.pairwise(channels)):
        last = level == len(channels) - 2
        block("bottleneck" if last else f"downsamples.{level}", taken, made, residual=architecture.residual)
        up = f"upsamples.{len(channels) - 2 - level}"
        shapes[f"{up}.transp_conv.conv.weight"] = (made, taken, 2, 2, 2)
        block(f"{up}.conv_block", 2 * taken, taken, residual=False)
    shapes["output_block.conv.conv.weight"] = (1, channels[0], 1, 1, 1)
    shapes["output_block.conv.conv.bias"] = (1,)
    return shapes


def _stored(path: Path) -> Mapping[str, Any]:
    """Return the checkpoint's `state_dict`; only tensors and plain values are unpickled."""
    try:
        with path.open("rb") as opened:
            is_zip = opened.read(4) == b"PK\x03\x04"  # what torch writes since 1.6, and all that can be mapped
            # By this ending torch takes it for safetensors, whatever is in it.
            misnamed = path.suffix == ".safetensors"
            opened.seek(0)
            source, mapped = (opened, False) if misnamed else (path, is_zip)
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ModelError(f"model {path}: not a checkpoint ({_first_line(error)})", _NOT_OURS) from None
        cause = f"it holds more than weights ({found.group(1)}), which is not loaded since it could run code"
        raise ModelError(f"model {path}: {cause}", _RESAVE) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"model {path}: damaged or cut short ({_first_line(error)})", _GET_IT_AGAIN) from None
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if state is None and isinstance(content, Mapping) and any(_OF_NETWORK.fullmatch(str(key)) for key in content):
        state = content  # saved alone, as `_RESAVE` says
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ModelError(f"model {path}: a checkpoint without an entry `state_dict`", _NOT_OURS)
    return state


def _network_state(path: Path, stored: Mapping[str, Any]) -> State:
    """Return the entries below `_model.` without that prefix."""
    state: State = {}
    for key, value in stored.items():
        found = _OF_NETWORK.fullmatch(key)
        if found is None:
            continue
        name = found.group("name")
        if name in state or not isinstance(value, torch.Tensor):
            _refuse(path, f"{key} is {'there twice' if name in state else 'no tensor'}")
        state[name] = value
    if state:
        return state
    if any(".diffusion_layer." in key for key in stored):
        cure = "give it to picking (pick.model), and a MemBrain-seg .ckpt to segmentation"
        raise ModelError(f"model {path}: a checkpoint of MemBrain-pick, not for segmentation", cure)
    first = next(iter(stored), "nothing")
    raise ModelError(f"model {path}: not of MemBrain-seg: no weight below `_model.`, but e.g. {first}", _NOT_OURS)


def _architecture(path: Path, weights: State) -> UNetArchitecture:
    """Derive the channels of each level from the first convolutions; residual blocks have a third convolution."""
    levels = 0
    while f"downsamples.{levels}.conv1.conv.weight" in weights:
        levels += 1
    firsts = ["input_block", *(f"downsamples.{level}" for level in range(levels)), "bottleneck"]
    if levels == 0 or any(f"{name}.conv1.conv.weight" not in weights for name in firsts):
        _refuse(path, f"it has no U-Net's levels, but e.g. {next(iter(weights), 'no layer of its own')}")
    shapes = {name: tuple(weights[f"{name}.conv1.conv.weight"].shape) for name in firsts}
    for name, shape in shapes.items():
        if len(shape) != 5 or shape[2:] != (3, 3, 3):
            _refuse(path, f"the kernels of {name}.conv1 are {shape[2:]}, not (3, 3, 3)")
    if shapes["input_block"][1] != 1:
        _refuse(path, f"it takes {shapes['input_block'][1]} channels, not one")
    channels = tuple(shape[0] for shape in shapes.values())
    return UNetArchitecture(channels, residual="bottleneck.conv3.conv.weight" in weights)


def _require(path: Path, weights: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are missing, unknown or of another shape."""
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    for what, names in (("missing", missing), ("unknown", unknown)):
        if names:
            _refuse(path, f"{len(names)} weights are {what}: {', '.join(names[:3])}{' ...' if names[3:] else ''}")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            _refuse(path, f"{name} is {tuple(weights[name].shape)} where a 3x3x3 DynUNet has {shape}")
        if not weights[name].is_floating_point():
            _refuse(path, f"{name} is of type {weights[name].dtype}")


def _require_true_aliases(path: Path, state: State, *, levels: int) -> None:
    """Refuse `skip_layers.*` that do not repeat the network's own layers: it would be another network."""
    for alias, value in state.items():
        if not alias.startswith(_ALIAS_PREFIX):
            continue
        own = state.get(_own_name(alias, levels) or "")
        if own is None:
            _refuse(path, f"{alias} repeats no layer that is there")
        if own.shape != value.shape:
            _refuse(path, f"{alias} is {tuple(value.shape)}, the layer it repeats {tuple(own.shape)}")


def _own_name(alias: str, levels: int) -> str | None:
    """Return the layer that an alias repeats (skip_layers.next_layer.downsample.X -> downsamples.0.X), or None."""
    depth, bottom = 0, alias.removeprefix(_ALIAS_PREFIX)
    found = _ALIAS.fullmatch(alias)
    if found is None:
        while bottom.startswith("next_layer."):
            depth, bottom = depth + 1, bottom.removeprefix("next_layer.")
        return f"bottleneck.{bottom}" if depth == levels - 1 else None
    depth, rest = found.group("deeper").count("next_layer."), found.group("rest")
    if found.group("layer") == "upsample":
        return f"upsamples.{levels - 2 - depth}.{rest}"
    if found.group("layer") == "super_head":
        return f"{_HEADS_PREFIX}{depth - 1}.{rest}"
    return f"input_block.{rest}" if depth == 0 else f"downsamples.{depth - 1}.{rest}"


def _refuse(path: Path, cause: str) -> NoReturn:
    raise ModelError(f"model {path}: not a network of MemBrain-seg's kind: {cause}", _NOT_OURS)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
