"""Model files: the names of those that ship, the path of one, and its digest."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from membrain_cloud.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MODELS = Path(str(files("membrain_cloud"))) / "models"


def built_in_models() -> list[str]:
    """Return the names of the models that ship with the package, sorted."""
    return sorted(path.stem for path in MODELS.glob("*.safetensors"))


def resolve_model(source: str) -> Path:
    """Return the path of a model file.

    Parameters
    ----------
    source : str
        Name of a built-in model, or a local path.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    ModelError
        If `source` is neither.
    """
    for candidate in (MODELS / f"{source}.safetensors", Path(source)):
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError) as error:  # no permission, or a name that is too long
            words = getattr(error, "strerror", None) or error
            raise ModelError(
                f"model {source!r}: cannot be read ({words})", "check the path and its permissions"
            ) from None
    names = ", ".join(built_in_models()) or "none"
    raise ModelError(f"model {source!r}: no such file or built-in model", f"give a path, or one of: {names}")


def require_finite_weights(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are NaN or infinite: every result would be, and a mask would be empty.

    Parameters
    ----------
    weights : mapping of str to Tensor, any shape and dtype
        Name to weight.
    source : str
        The model, for the error message.

    Raises
    ------
    ModelError
        If a weight is not finite.
    """
    bad = {name: int((~value.isfinite()).sum()) for name, value in weights.items() if not value.isfinite().all()}
    if bad:
        first = next(iter(bad))
        total = sum(value.numel() for value in weights.values())
        raise ModelError(
            f"model {source!r}: {sum(bad.values())} of {total} weights are NaN or infinite (first in {first})",
            "its training diverged or the file is damaged: take an earlier checkpoint",
        )


def model_sha256(source: str) -> str:
    """Return the sha256 of a model file in hexadecimal; it is cached until the file's size or time changes.

    Parameters
    ----------
    source : str
        Name of a built-in model, or path of a model file.

    Raises
    ------
    ModelError
        If `source` is neither a built-in model nor a local file.
    """
    path = resolve_model(source)
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
