"""A Blosc chunk whose length is not the one in its header is refused before it reaches the decoder."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest

from membrain_cloud.store.volumes.checked_codecs import (
    CheckedBlosc,
    CheckedBloscCodec,
    TruncatedError,
    check_blosc_length,
    with_checked_codecs,
)

VALUES = np.arange(1000, dtype=np.float32)
ENCODED = bytes(numcodecs.Blosc("lz4").encode(VALUES))


@pytest.mark.parametrize("content", [b"", ENCODED[:7], ENCODED[:16], ENCODED[:-1], ENCODED + b"x"])
def test_a_wrong_length_is_refused(content: bytes) -> None:
    with pytest.raises(TruncatedError, match="its header says"):
        check_blosc_length(content)
    with pytest.raises(TruncatedError):
        CheckedBlosc("lz4").decode(content)


def test_a_whole_chunk_is_decoded_into_a_buffer_too() -> None:
    np.testing.assert_array_equal(np.frombuffer(CheckedBlosc("lz4").decode(ENCODED), np.float32), VALUES)
    out = np.empty_like(VALUES)
    CheckedBlosc("lz4").decode(np.frombuffer(ENCODED, np.uint8), out)
    np.testing.assert_array_equal(out, VALUES)


def test_blosc_is_replaced_wherever_it_is_named() -> None:
    old = with_checked_codecs({"zarr_format": 2, "compressor": {"id": "blosc", "cname": "zstd", "clevel": 3}})
    assert isinstance(old["compressor"], CheckedBlosc)
    assert (old["compressor"].cname, old["compressor"].clevel) == ("zstd", 3)
    for compressor in (None, {"id": "zstd", "level": 1}):
        assert with_checked_codecs({"zarr_format": 2, "compressor": compressor})["compressor"] == compressor
    blosc = {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
    }
    shard = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [2, 2, 2], "codecs": [{"name": "bytes"}, blosc]},
    }
    new = with_checked_codecs({"zarr_format": 3, "codecs": [shard]})
    inner = new["codecs"][0]["configuration"]["codecs"]
    assert inner[0] == {"name": "bytes"}
    assert isinstance(inner[1], CheckedBloscCodec)
    assert inner[1].to_dict() == blosc
    assert with_checked_codecs({"zarr_format": 3, "codecs": None})["codecs"] is None
