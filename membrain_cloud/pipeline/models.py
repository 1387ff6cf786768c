"""Resolve, load, check and convert models: built-in ones, local files, URLs and names of a registry.

Every stage and command resolves models here, on every worker: a worker fetches what it does not have. Below this
module, `networks` knows local files alone, and `store.model_registry` knows nothing of networks.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from membrain_cloud.errors import ModelError, UsageError, storage_error
from membrain_cloud.networks import model_file
from membrain_cloud.networks.model_file import built_in_models
from membrain_cloud.networks.picking.picker import AnyPicker, Picker
from membrain_cloud.networks.picking.picker import load_picker as read_picker
from membrain_cloud.networks.segmentation import segmenter as checkpoints
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture
from membrain_cloud.store import model_registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.networks.segmentation.segmenter import Segmenter
    from membrain_cloud.store.model_registry import RegistryEntry

Origin = Literal["built-in", "file", "url", "registry"]


@dataclass(frozen=True)
class Model:
    """A model, as a local file.

    Attributes
    ----------
    source : str
        What was asked for.
    origin : str
        "built-in", "file", "url" or "registry".
    path : Path
        The local file.
    sha256 : str
        Checksum of its content, equal to `promised`.
    promised : str or None
        Checksum that a pin or a registry gives; None without either.
    facts : mapping of str to Any
        Window and voxel spacing that a registry gives for a file that does not store them.
    description, license : str
        From the registry.
    """

    source: str
    origin: Origin
    path: Path
    sha256: str
    promised: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    license: str = ""


def resolve(source: str) -> Model:
    """Find a model, and fetch it if it is not on this machine.

    Parameters
    ----------
    source : str
        Built-in name, URL, path, or name of the registry, looked up in this order. `#sha256=...` at its end pins the
        content.

    Returns
    -------
    Model
        The model, with its checksum verified.

    Raises
    ------
    ModelError
        If the model is unknown, cannot be fetched, or has another checksum than promised.
    TransientError, StorageError
        As `store.model_registry.fetch`.
    """
    location, pin = model_registry.split_pin(source)
    if location in built_in_models():
        path = model_file.resolve_model(location)
        return Model(source, "built-in", path, _check_sha256(source, path, pin), pin)
    if model_registry.is_url(location):
        path, sha256 = _fetch(source, location, pin)
        return Model(source, "url", path, sha256, pin)
    path = Path(location).expanduser()
    if path.is_file():
        return Model(source, "file", path, _check_sha256(source, path, pin), pin)
    entry = _registry_entry(location)
    if pin not in (None, entry.sha256):
        raise ModelError(f"model {source}: the registry says sha256 {entry.sha256}", "ask for it without `#sha256=`")
    path, sha256 = _fetch(source, entry.url, entry.sha256)
    facts = {
        name: value
        for name, value in (("window", entry.window), ("voxel_spacing_angstrom", entry.voxel_spacing_angstrom))
        if value is not None
    }
    return Model(source, "registry", path, sha256, entry.sha256, facts, entry.description, entry.license)


def model_sha256(source: str) -> str:
    """Return the sha256 of the model's file as 64 hexadecimal digits. Raises as `resolve`."""
    return resolve(source).sha256


def registry_facts(source: str) -> dict[str, Any]:
    """Return what a registry adds to the model's own facts: results depend on it as on the file."""
    return dict(resolve(source).facts)


def read_header(source: str) -> dict[str, Any]:
    """Return a model's header, with what a registry adds: task, architecture, window, ... Raises as `resolve`."""
    return _header(resolve(source))


def header_for(task: str, source: str) -> dict[str, Any]:
    """Return the facts of a model for one task.

    Parameters
    ----------
    task : str
        "segmentation" or "picking".
    source : str
        As `resolve` takes it.

    Returns
    -------
    dict of str to Any
        As `read_header`.

    Raises
    ------
    ModelError
        If the model is for another task; also as `read_header`.
    """
    header = read_header(source)
    if header["task"] != task:
        raise ModelError(
            f"model {source!r} is for {header['task']}, not for {task}", "see `membrain-cloud models list`"
        )
    return header


def load_segmenter(
    source: str,
    *,
    sha256: str | None = None,
    device: str = "cpu",
    precision: str = "auto",
    compilation: Literal["no", "compile", "graphs", "both"] = "no",
) -> Segmenter:
    """Load a segmentation model.

    Parameters
    ----------
    source : str
        As `resolve` takes it.
    sha256 : str or None
        Checksum as planned. Default: not checked.
    device : str
        "cpu" or "cuda". Default: "cpu".
    precision : str
        "auto", "faithful", "float32", "bfloat16", "float16" or "int8". Default: "auto".
    compilation : str
        "no", "compile", "graphs" or "both". Default: "no".

    Returns
    -------
    Segmenter
        The network, ready for inference.

    Raises
    ------
    ModelError
        If the file is not the planned one or no segmentation model; also as `resolve`.
    """
    model = _check_planned(resolve(source), sha256)
    header = _header(model)
    loaded = checkpoints.load_segmenter(str(model.path), device=device, precision=precision, compilation=compilation)
    return replace(loaded, window=int(header["window"]), voxel_spacing_angstrom=float(header["voxel_spacing_angstrom"]))


def load_picker(source: str, *, sha256: str | None = None, device: str = "cpu") -> AnyPicker:
    """Load a picker.

    Parameters
    ----------
    source : str
        As `resolve` takes it.
    sha256 : str or None
        Checksum as planned. Default: not checked.
    device : str
        "cpu" or "cuda". Default: "cpu".

    Returns
    -------
    AnyPicker
        The picker.

    Raises
    ------
    ModelError
        If the file is not the planned one or no picker; also as `resolve`.
    """
    return read_picker(_check_planned(resolve(source), sha256).path, device=device)


def picker_classes(source: str) -> tuple[str, ...]:
    """Return the names of a picker's classes; none where it has a single one. Raises as `load_picker`."""
    return load_picker(source).class_names


def model_facts(source: str) -> dict[str, Any]:
    """Return all facts of a model for JSON: name, origin, file, bytes, sha256 and its header. Raises as `resolve`.

    Parameters
    ----------
    source : str
        Built-in name, path, URL or name of the registry.
    """
    model = resolve(source)
    texts = {"description": model.description, "license": model.license}
    return {
        "name": _name(model),
        "origin": model.origin,
        "file": str(model.path),
        "bytes": model.path.stat().st_size,
        "sha256": model.sha256,
        **{key: value for key, value in texts.items() if value},
        **_header(model),
    }


def list_models() -> list[dict[str, Any]]:
    """Return the facts of the built-in models, and of those of the registry without fetching them."""
    facts = [model_facts(name) for name in built_in_models()]
    for name, entry in sorted(_registry().items()):
        facts.append({"name": name, "origin": "registry", **entry.model_dump(exclude_none=True)})
    return facts


def verify(source: str) -> dict[str, Any]:
    """Load a model strictly and use it once.

    A segmentation network gets one small window of noise, and its logits must be finite; a picker's weights must be
    finite.

    Parameters
    ----------
    source : str
        As `resolve` takes it.

    Returns
    -------
    dict of str to Any
        What was checked, as values for JSON.

    Raises
    ------
    ModelError
        If a check fails; also as `resolve`.
    """
    model = resolve(source)
    header = _header(model)
    checked = {
        "name": _name(model),
        "file": str(model.path),
        "sha256": model.sha256,
        "sha256_checked_against": None if model.promised is None else _promise_source(model),
        "format": header["format"],
        "task": header["task"],
    }
    if header["task"] != "segmentation":
        picker = read_picker(model.path)
        if not all(bool(value.isfinite().all()) for value in picker.network.state_dict().values()):
            raise ModelError(
                f"model {source}: some of its weights are not finite", "train it again, or get another file"
            )
        return checked
    segmenter = load_segmenter(source, precision="float32")
    # The coarsest level must keep more than one voxel, else there is nothing to normalise by.
    edge = 2 * segmenter.architecture.multiple
    noise = np.random.default_rng(0).standard_normal((1, 1, edge, edge, edge), np.float32)
    logits = segmenter.predict(noise)
    if logits.shape != noise.shape or not np.isfinite(logits).all():
        raise ModelError(f"model {source}: its logits of {edge}^3 voxels of noise are not finite", "train it again")
    return checked | {"tested_window": edge, "logit_range": [float(logits.min()), float(logits.max())]}


def install_model(folder: str, name: str, source: str) -> Model:
    """Fetch a model and put it in a folder, whole or not at all. A file that is there with this content is left.

    Parameters
    ----------
    folder : str
        The folder.
    name : str
        Name of the file in it.
    source : str
        As `resolve` takes it, with a pinned checksum.

    Returns
    -------
    Model
        The file.

    Raises
    ------
    ModelError
        If no checksum is pinned, or `name` is not a plain file name; also as `resolve`.
    """
    location, pin = model_registry.split_pin(source)
    if pin is None:
        raise ModelError(f"model {location}: no sha256 is pinned", "add `#sha256=` and what `sha256sum FILE` prints")
    target = model_registry.place_in(folder, name)
    if not (target.is_file() and model_file.model_sha256(str(target)) == pin):
        model_registry.copy_to(resolve(source).path, target)
    return Model(source, "file", target, pin, pin)


def convert(source: str, output: str, *, precision: str, overwrite: bool) -> dict[str, Any]:
    """Write a segmentation model as .safetensors, with its origin in the header.

    Parameters
    ----------
    source : str
        As `resolve` takes it.
    output : str
        The file to write, with the ending .safetensors.
    precision : str
        "float32" keeps every result bit by bit, "float16" halves the file.
    overwrite : bool
        Whether a file that is there is replaced.

    Returns
    -------
    dict of str to Any
        Facts of the new file, as `model_facts`.

    Raises
    ------
    UsageError
        If the file is there, or its name has another ending.
    ModelError
        If the model is no segmentation model; also as `resolve`.
    StorageError
        If the file cannot be written.
    """
    target = Path(output)
    if target.suffix != ".safetensors":
        raise UsageError(f"{output}: models are written as .safetensors", "give a name with this ending")
    if target.exists() and not overwrite:
        raise UsageError(f"{output}: the file is there already", "give another name, or ask to overwrite it")
    model = resolve(source)
    header = _header(model)
    network, own = checkpoints.load_network(str(model.path))
    architecture = UNetArchitecture.from_dict(own["architecture"])
    rest = {key: value for key, value in header.items() if key not in ("task", "architecture", "format")}
    origin = {"name": model.path.name, "sha256": model.sha256, "format": own["format"]}
    facts = rest | {"converted_from": origin, "weights": precision}
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        dtype = {"float32": torch.float32, "float16": torch.float16}[precision]
        checkpoints.save_segmenter(target, network, architecture, facts, dtype=dtype)
    except OSError as error:
        raise storage_error(error, output) from error
    return model_facts(str(target.absolute()))


def _header(model: Model) -> dict[str, Any]:
    """Return the header of a file, with what a registry adds; ModelError where the two disagree."""
    try:
        header = checkpoints.read_header(str(model.path))
    except ModelError:
        header = _membrain_pick_header(model.path)
    for name, value in model.facts.items():
        if header["format"] == checkpoints.FORMAT and header.get(name) != value:
            cause = f"the registry says {name} {value:g}, the file itself {header.get(name)}"
            raise ModelError(f"model {model.source}: {cause}", f"take {name} out of the registry")
    return header | dict(model.facts)


def _membrain_pick_header(path: Path) -> dict[str, Any]:
    """Return the header of a MemBrain-pick checkpoint. It stores none: the whole file is read to recognise it."""
    try:
        picker = read_picker(path)
    except ModelError:
        return checkpoints.read_header(str(path))  # raises what is wrong with it as a segmentation model
    assert isinstance(picker, Picker)  # pickers of ours are .safetensors, which have a header
    return {"task": "picking", "architecture": vars(picker.network.architecture), "format": "membrain-pick"}


def _registry() -> dict[str, RegistryEntry]:
    entries = model_registry.read_registry(model_registry.registry_location())
    hidden = sorted(entries.keys() & set(built_in_models()))
    if hidden:
        raise ModelError(f"model registry: {hidden[0]} is the name of a built-in model", "give it another name there")
    return entries


def _registry_entry(name: str) -> RegistryEntry:
    entries = _registry()
    if name in entries:
        return entries[name]
    names = [*built_in_models(), *sorted(entries)]
    near = difflib.get_close_matches(name, names, n=1)
    cure = f"did you mean {near[0]}?" if near else f"give a path, a URL, or one of: {', '.join(names) or 'none'}"
    raise ModelError(f"model {name!r}: no such file, built-in model or name in the registry", cure)


def _fetch(source: str, url: str, promised: str | None) -> tuple[Path, str]:
    path = model_registry.fetch(url, promised)
    sha256 = model_file.model_sha256(str(path))
    if promised is not None and sha256 != promised and model_registry.drop(path):
        path = model_registry.fetch(url, promised)  # the cached file had been changed
    return path, _check_sha256(source, path, promised)


def _check_sha256(source: str, path: Path, promised: str | None) -> str:
    sha256 = model_file.model_sha256(str(path))
    if promised not in (None, sha256):
        cure = "get the file again, or correct its sha256"
        raise ModelError(f"model {source}: {path} has sha256 {sha256}, not {promised}", cure)
    return sha256


def _check_planned(model: Model, sha256: str | None) -> Model:
    if sha256 and model.sha256 != sha256:
        cause = f"it is not the file that this run was planned with: sha256 {model.sha256}, not {sha256}"
        raise ModelError(f"model {model.source}: {cause}", "give all workers the same file, or plan again")
    return model


def _promise_source(model: Model) -> str:
    return "registry" if model.origin == "registry" else "pin"


def _name(model: Model) -> str:
    return model.source if model.origin == "registry" else model.path.stem
