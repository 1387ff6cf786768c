"""Models by what people call them: a built-in name, a path, an URL or a name of a registry.

Every stage and command comes through here, on every worker, with the same words: a worker fetches for itself what it
does not have. The networks' room below knows local files alone, the store's knows nothing of networks.
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
from membrain_cloud.store import model_registry as model_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.networks.segmentation.segmenter import Segmenter
    from membrain_cloud.store.model_registry import RegistryEntry

Origin = Literal["built-in", "file", "url", "registry"]


@dataclass(frozen=True)
class Model:
    """A model file that is here.

    source : what it was asked for.  path : of the local file.  sha256 : of its content, compared with `promised`.
    promised : the sha256 that a pin or a registry gives; None without either.
    facts : window and voxel spacing that a registry gives for a file that does not say them.
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
    """Find a model, and fetch it where need be. A local path goes before a registry's name.

    Raises
    ------
    ModelError : nobody knows it, it cannot be had, or its sha256 is not the one that was promised.
    TransientError, StorageError : as `store.model_files.fetch`.
    """
    location, pin = model_files.split_pin(source)
    if location in built_in_models():
        path = model_file.resolve_model(location)
        return Model(source, "built-in", path, _require(source, path, pin), pin)
    if model_files.is_url(location):
        path, sha256 = _fetched(source, location, pin)
        return Model(source, "url", path, sha256, pin)
    path = Path(location).expanduser()
    if path.is_file():
        return Model(source, "file", path, _require(source, path, pin), pin)
    entry = _registered(location)
    if pin not in (None, entry.sha256):
        raise ModelError(f"model {source}: the registry says sha256 {entry.sha256}", "ask for it without `#sha256=`")
    path, sha256 = _fetched(source, entry.url, entry.sha256)
    facts = {
        name: value
        for name, value in (("window", entry.window), ("voxel_spacing_angstrom", entry.voxel_spacing_angstrom))
        if value is not None
    }
    return Model(source, "registry", path, sha256, entry.sha256, facts, entry.description, entry.license)


def model_sha256(source: str) -> str:
    """Hex digest of the model's file. Raises as `resolve`."""
    return resolve(source).sha256


def registry_facts(source: str) -> dict[str, Any]:
    """What a registry adds to the model's own facts: a result hangs on it as on the file."""
    return dict(resolve(source).facts)


def read_header(source: str) -> dict[str, Any]:
    """The facts of a model, as `networks.checkpoints.read_header`, with what a registry adds. Raises as `resolve`."""
    return _header(resolve(source))


def header_for(task: str, source: str) -> dict[str, Any]:
    """The facts of a model for `task`. ModelError where it is for another one; raises as `read_header` too."""
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
    """Load a segmentation model; `sha256`: what a plan was made with. Raises ModelError, and as `resolve`."""
    model = _as_planned(resolve(source), sha256)
    header = _header(model)
    loaded = checkpoints.load_segmenter(str(model.path), device=device, precision=precision, compilation=compilation)
    return replace(loaded, window=int(header["window"]), voxel_spacing_angstrom=float(header["voxel_spacing_angstrom"]))


def load_picker(source: str, *, sha256: str | None = None, device: str = "cpu") -> AnyPicker:
    """Load a picker; `sha256`: what a plan was made with. Raises ModelError, and as `resolve`."""
    return read_picker(_as_planned(resolve(source), sha256).path, device=device)


def picker_classes(source: str) -> tuple[str, ...]:
    """The names of a picker's kinds of particles; none where it has one without a name. Raises as `load_picker`."""
    return load_picker(source).class_names


def model_facts(source: str) -> dict[str, Any]:
    """All that is known of a model: name, file, size, sha256, where it is from, and its header. Raises as `resolve`."""
    model = resolve(source)
    told = {"description": model.description, "license": model.license}
    return {
        "name": _name(model),
        "origin": model.origin,
        "file": str(model.path),
        "bytes": model.path.stat().st_size,
        "sha256": model.sha256,
        **{key: value for key, value in told.items() if value},
        **_header(model),
    }


def list_models() -> list[dict[str, Any]]:
    """The built-in models with their facts, and those of the registry, of which nothing is fetched."""
    found = [model_facts(name) for name in built_in_models()]
    for name, entry in sorted(_registry().items()):
        found.append({"name": name, "origin": "registry", **entry.model_dump(exclude_none=True)})
    return found


def verify(source: str) -> dict[str, Any]:
    """Load a model strictly and use it once. Returns what was checked.

    A segmentation network sees one small window of noise, whose logits must be finite; a picker's weights must be.
    Raises ModelError for the first thing that is wrong, and as `resolve`.
    """
    model = resolve(source)
    header = _header(model)
    checked = {
        "name": _name(model),
        "file": str(model.path),
        "sha256": model.sha256,
        "sha256_checked_against": None if model.promised is None else _witness(model),
        "format": header["format"],
        "task": header["task"],
    }
    if header["task"] != "segmentation":
        picker = read_picker(model.path)
        if not all(bool(value.isfinite().all()) for value in picker.network.state_dict().values()):
            raise ModelError(f"model {source}: some of its weights are not finite", "train it again")
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
    """Fetch a model and lay it at `folder`/`name`, in one move; `source` must pin its sha256.

    A file that is there already with the pinned content is left.

    Raises
    ------
    ModelError : as `resolve`; no pin; `name` is not a plain file name.
    """
    location, pin = model_files.split_pin(source)
    if pin is None:
        raise ModelError(f"model {location}: no sha256 is pinned", "add `#sha256=` and what `sha256sum FILE` prints")
    target = model_files.place_in(folder, name)
    if not (target.is_file() and model_file.model_sha256(str(target)) == pin):
        model_files.copy_to(resolve(source).path, target)
    return Model(source, "file", target, pin, pin)


def convert(source: str, output: str, *, precision: str, overwrite: bool) -> dict[str, Any]:
    """Write a segmentation model as our safetensors, with where it is from in its header; returns `output`'s facts.

    precision : "float32" keeps every result, bit by bit; "float16" halves the file.
    Raises UsageError where `output` is there or no .safetensors, ModelError, StorageError, and as `resolve`.
    """
    target = Path(output)
    if target.suffix != ".safetensors":
        raise UsageError(f"{output}: models are written as .safetensors", "give such a name")
    if target.exists() and not overwrite:
        raise UsageError(f"{output} is there already", "give another name, or --overwrite")
    model = resolve(source)
    header = _header(model)
    network, own = checkpoints.load_network(str(model.path))
    architecture = checkpoints.UNetArchitecture.from_dict(own["architecture"])
    said = {key: value for key, value in header.items() if key not in ("task", "architecture", "format")}
    origin = {"name": model.path.name, "sha256": model.sha256, "format": own["format"]}
    facts = said | {"converted_from": origin, "weights": precision}
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        dtype = {"float32": torch.float32, "float16": torch.float16}[precision]
        checkpoints.save_segmenter(target, network, architecture, facts, dtype=dtype)
    except OSError as error:
        raise storage_error(error, output) from error
    return model_facts(str(target.absolute()))


def _header(model: Model) -> dict[str, Any]:
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
    """MemBrain-pick's checkpoints say nothing of themselves: what they are is known by reading them."""
    try:
        picker = read_picker(path)
    except ModelError:
        return checkpoints.read_header(str(path))  # raises what is wrong with it as a segmentation model
    assert isinstance(picker, Picker)  # what is no safetensors is MemBrain-pick's
    return {"task": "picking", "architecture": vars(picker.network.architecture), "format": "membrain-pick"}


def _registry() -> dict[str, RegistryEntry]:
    entries = model_files.read_registry(model_files.registry_location())
    hidden = sorted(entries.keys() & set(built_in_models()))
    if hidden:
        raise ModelError(f"model registry: {hidden[0]} is the name of a built-in model", "give it another name there")
    return entries


def _registered(name: str) -> RegistryEntry:
    entries = _registry()
    if name in entries:
        return entries[name]
    known = [*built_in_models(), *sorted(entries)]
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]}?" if near else f"give a path, an URL, or one of: {', '.join(known) or 'none'}"
    raise ModelError(f"model {name!r}: no such file, built-in model or name in the registry", cure)


def _fetched(source: str, url: str, promised: str | None) -> tuple[Path, str]:
    path = model_files.fetch(url, promised)
    sha256 = model_file.model_sha256(str(path))
    if promised is not None and sha256 != promised and model_files.drop(path):
        path = model_files.fetch(url, promised)  # what lay in the cache had been changed
    return path, _require(source, path, promised)


def _require(source: str, path: Path, promised: str | None) -> str:
    sha256 = model_file.model_sha256(str(path))
    if promised not in (None, sha256):
        cure = "get the file again, or correct its sha256"
        raise ModelError(f"model {source}: {path} has sha256 {sha256}, not {promised}", cure)
    return sha256


def _as_planned(model: Model, sha256: str | None) -> Model:
    if sha256 and model.sha256 != sha256:
        cause = f"it is not what this run was planned with: sha256 {model.sha256}, not {sha256}"
        raise ModelError(f"model {model.source}: {cause}", "give all workers the same file, or plan again")
    return model


def _witness(model: Model) -> str:
    return "registry" if model.origin == "registry" else "pin"


def _name(model: Model) -> str:
    return model.source if model.origin == "registry" else model.path.stem
