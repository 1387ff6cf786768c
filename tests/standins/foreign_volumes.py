"""Volumes as other programs write them, through zarr-python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_foreign(
    path: str | Path,
    values: NDArray[Any] | None = None,
    *,
    zarr_format: int = 2,
    separator: str = ".",
    attributes: dict[str, Any] | None = None,
    every_chunk: bool = True,
    **keywords: Any,
) -> zarr.Array:
    """Write a group with one array `0`; `keywords` are those of zarr's `create_array`."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format, attributes=attributes)
    content: dict[str, Any] = {"dtype": np.float64} if values is None else {"data": values}
    encoding = {"name": "v2" if zarr_format == 2 else "default", "separator": separator}
    return group.create_array(
        "0", chunk_key_encoding=encoding, config={"write_empty_chunks": every_chunk}, **content | keywords
    )
