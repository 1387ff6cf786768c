"""Model files from elsewhere: downloaded once, checked, kept in a folder; and registries, which name such files.

The cache is addressed by content, so that processes may fill it at once and a name never hides another file:

    CACHE/<sha256>/<name>       a file; its name is the last part of the URL it came from
    CACHE/urls/<sha256 of URL>  "<sha256>/<name>": what an URL without a pinned sha256 gave when it was first asked for

A registry is YAML or JSON, at a path or an URL:

    models:
      membrain-seg-v10:
        url: https://files.example.org/MemBrain_seg_v10_alpha.ckpt
        sha256: 64 hex digits, as `sha256sum` prints them
        description: what it is
        license: under which it may be used
        voxel_spacing_angstrom: 10.0   # these two stand in for what a file does not say of itself
        window: 160
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from membrain_cloud.errors import ModelError, StorageError, TransientError, storage_error
from membrain_cloud.store.objects.object_store import Files

CACHE_VARIABLE = "MEMBRAIN_CLOUD_CACHE"
REGISTRY_VARIABLE = "MEMBRAIN_CLOUD_MODELS"

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]

_PIN = re.compile(r"(?P<location>.+)#sha256=(?P<sha256>.*)")
# What a server answers where it is no use to ask again; 408, 425 and 429 are "not now".
_LASTING_HTTP = frozenset(range(400, 500)) - {408, 425, 429}


# Far longer than a server may be silent (`_patience`).
_TORN_AFTER_SECONDS = 3600.0


class RegistryEntry(BaseModel):
    """A model of a registry. `url` may be a path, relative to the registry's own folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str = Field(min_length=1)
    sha256: Sha256
    description: str = ""
    license: str = ""
    voxel_spacing_angstrom: float | None = Field(None, gt=0)
    window: int | None = Field(None, ge=16)


class Registry(BaseModel):
    """What a registry file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[ModelName, RegistryEntry]


def cache_folder() -> Path:
    """Where downloads are kept."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "membrain_cloud" / "models"


def registry_location() -> str | None:
    """Path or URL of the registry; None where none is named and the default one is not there."""
    given = os.environ.get(REGISTRY_VARIABLE)
    if given:
        return given
    default = Path.home() / ".config" / "membrain_cloud" / "models.yaml"
    return str(default) if default.is_file() else None


def read_registry(location: str | None) -> dict[str, RegistryEntry]:
    """Name -> entry, with `url` made absolute. Raises ModelError where it is not there or not a registry."""
    if location is None:
        return {}
    try:
        text = _read(location).decode("utf-8")
        found = Registry.model_validate(yaml.safe_load(text)).models
    except (FileNotFoundError, IsADirectoryError):
        cure = f"correct the environment variable {REGISTRY_VARIABLE}"
        raise ModelError(f"model registry {location}: there is no such file", cure) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
        cause = first["msg"][:1].lower() + first["msg"][1:]
        raise ModelError(f"model registry {location}: {where}: {cause}", "correct it: url and sha256 a name") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
        raise ModelError(f"model registry {location}: not YAML or JSON ({cause})", "correct it") from None
    return {name: entry.model_copy(update={"url": _beside(location, entry.url)}) for name, entry in found.items()}


def split_pin(source: str) -> tuple[str, str | None]:
    """`location#sha256=<hex>` -> (location, hex in lower case); None without a pin. Raises ModelError for a bad one."""
    found = _PIN.fullmatch(source)
    if found is None:
        return source, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", found["sha256"]):
        raise ModelError(f"model {source}: its sha256 is not 64 hex digits", "give what `sha256sum FILE` prints")
    return found["location"], found["sha256"].lower()


def is_url(location: str) -> bool:
    return "://" in location


def fetch(url: str, sha256: str | None) -> Path:
    """The local file of `url`: a local path or file:// URL as it lies, anything else from the cache or downloaded.

    sha256 : what a download must have, and under which it is looked for in the cache; None takes what comes.

    Raises
    ------
    ModelError : nothing is there, the server refuses it, or it has another sha256 (the download is removed).
    TransientError : a fault that passes.  StorageError : the cache cannot be written, or there is no permission.
    """
    if not is_url(url) or url.startswith(("file://", "local://")):
        path = Path(Files(url).root)
        if not path.is_file():
            raise ModelError(f"model {url}: there is no such file", "correct the path")
        return path
    kept = _kept(url, sha256)
    return kept if kept is not None else _download(url, sha256)


def place_in(folder: str, name: str) -> Path:
    """Path of a model called `name` in `folder`. Raises ModelError for a name that is more than a file's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ModelError(f"{name!r} is no name for a model's file", "use letters, digits, dots, dashes, underscores")
    return Path(folder) / name


def copy_to(source: Path, target: Path) -> None:
    """Copy a file so that `target` is whole or not there. Raises StorageError where it cannot be written."""
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, unfinished)
        os.replace(unfinished, target)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def drop(path: Path) -> bool:
    """Remove a file of the cache, so that it is fetched again; False for a file that is not the cache's."""
    if not path.resolve().is_relative_to(cache_folder().resolve()):
        return False
    path.unlink(missing_ok=True)
    return True


def _kept(url: str, sha256: str | None) -> Path | None:
    folder = cache_folder()
    try:
        place = f"{sha256}/{_file_name(url)}" if sha256 else _pointer(url).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return folder / place if (folder / place).is_file() else None


def _pointer(url: str) -> Path:
    return cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()


def _file_name(url: str) -> str:
    """The last part of the URL's path, in harmless letters."""
    last = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or urlsplit(url).netloc
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "model"


def _download(url: str, wanted: str | None) -> Path:
    folder = cache_folder()
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_torn(folder)
        _copy(url, temporary)
        with temporary.open("rb+") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            os.fsync(opened.fileno())
        if wanted is not None and found != wanted:
            raise ModelError(
                f"model {url}: its sha256 is {found}, not {wanted}; the download was removed",
                "check the file with whoever published it, then correct its sha256",
            )
        target = folder / found / _file_name(url)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        if wanted is None:
            _write_text(_pointer(url), f"{found}/{target.name}\n")
    except OSError as error:
        raise storage_error(error, f"model cache {folder}") from error
    finally:
        _remove(temporary)
    return target


def _copy(url: str, target: Path) -> None:
    try:
        Files(url, _patience(url)).copy_out("", str(target))
    except FileNotFoundError:
        raise ModelError(f"model {url}: nothing is there", "correct the URL") from None
    except (TransientError, StorageError) as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error.__cause__ from None  # the local disk's fault, not the server's
        status = getattr(error.__cause__, "status", None)
        if status in _LASTING_HTTP:
            cure = "correct the URL, or download the file by hand and give its path"
            raise ModelError(f"model {url}: the server refuses it (HTTP {status})", cure) from error
        raise
    except (ValueError, ImportError, NotImplementedError) as error:
        raise ModelError(f"model {url}: cannot be fetched ({error})", "give an https://, s3:// or local path") from None
    if not target.is_file():
        raise ModelError(f"model {url}: not a file", "give the URL of one file")


def _patience(url: str) -> dict[str, Any]:
    """Aiohttp gives a whole download five minutes; we give each part of it one."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _read(location: str) -> bytes:
    if not is_url(location):
        return Path(location).expanduser().read_bytes()
    try:
        return Files(location).read("")
    except (ValueError, ImportError) as error:
        raise ModelError(f"model registry {location}: cannot be read ({error})", "give a path or an URL") from None


def _beside(location: str, url: str) -> str:
    if is_url(url) or os.path.isabs(url):
        return url
    if is_url(location):
        return f"{location.rpartition('/')[0]}/{url}"
    return str(Path(location).expanduser().absolute().parent / url)


def _remove_torn(folder: Path) -> None:
    """Downloads of processes that were killed: nothing has been written to them for long."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _TORN_AFTER_SECONDS:
                _remove(path)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():  # fsspec copies what turns out to be a folder as one
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
