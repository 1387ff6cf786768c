"""Receipts are whole or absent, and those of newer versions are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError, StorageError
from membrain_cloud.store.run_state.receipts import ReceiptName, Receipts, receipt_name

if TYPE_CHECKING:
    from pathlib import Path


def test_receipts_come_back(tmp_path: Path) -> None:
    receipts = Receipts(str(tmp_path / "receipts"))
    assert receipts.names() == set()
    assert receipts.read("x") is None
    receipts.write("segment/TS_1/wbp@10.000", {"digest": "ab", "seconds": np.float64(1.5), "voxels": np.int64(3)})
    receipts.write("plain", {})
    assert receipts.names() == {"segment/TS_1/wbp@10.000", "plain"}
    assert receipts.read("segment/TS_1/wbp@10.000") == {"digest": "ab", "seconds": 1.5, "voxels": 3}
    receipts.remove("plain")
    receipts.remove("plain")
    assert receipts.read("plain") is None


@pytest.mark.parametrize("torn", [b"", b'{"digest": "a', b"[1]", b"\xff\xfe", b"null"])
def test_a_torn_receipt_counts_as_absent(tmp_path: Path, torn: bytes) -> None:
    receipts = Receipts(str(tmp_path))
    (tmp_path / "x.json").write_bytes(torn)
    assert receipts.read("x") is None
    receipts.write("x", {"digest": "ab"})
    assert receipts.read("x") == {"digest": "ab"}


@pytest.mark.parametrize("name", ["../x", "", "a//b", "/x", ".x", "a\\b", "a\nb"])
def test_names_do_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadNameError):
        Receipts(str(tmp_path)).write(name, {})


def test_values_that_are_not_json_are_refused_before_writing(tmp_path: Path) -> None:
    receipts = Receipts(str(tmp_path))
    for content in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            receipts.write("x", content)
    assert receipts.names() == set()


DIGEST, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
ADDRESS = "segment/membrain_1/TS_1/membrane@10.000"


def test_a_listing_names_the_finished_parts(tmp_path: Path) -> None:
    receipts = Receipts(str(tmp_path))
    for part, digest in (("complete", DIGEST), ("block-3", OTHER)):
        receipts.write(receipt_name(ADDRESS, part, digest), {"part": part})
    (tmp_path / ADDRESS / f"block-4-{DIGEST[:16]}.json").touch()
    found = {ReceiptName.parse(name) for name in receipts.names("segment/membrain_1")}
    assert found == {
        ReceiptName(ADDRESS, "complete", DIGEST[:16], 1),
        ReceiptName(ADDRESS, "block-3", OTHER[:16], 1),
    }
    assert receipts.parts(ADDRESS) == {"complete": {"part": "complete"}, "block-3": {"part": "block-3"}}
    assert receipts.names("segment/membrain_2") == set()
    assert ReceiptName.parse("failures/TS_1/segment") is None


def test_earlier_receipts_of_a_part_are_forgotten(tmp_path: Path) -> None:
    receipts = Receipts(str(tmp_path))
    for part, digest in (("complete", DIGEST), ("complete", OTHER), ("block-3", DIGEST)):
        receipts.write(receipt_name(ADDRESS, part, digest), {})
    receipts.forget(ADDRESS, "complete")
    assert receipts.names() == {receipt_name(ADDRESS, "block-3", DIGEST)}
    receipts.forget(ADDRESS)
    assert receipts.names() == set()


@pytest.mark.parametrize("suffix", ["", ".v2"])
def test_receipts_of_a_newer_version_are_never_replaced(tmp_path: Path, suffix: str) -> None:
    receipts = Receipts(str(tmp_path))
    name = receipt_name(ADDRESS, "complete", DIGEST) + suffix
    receipts.write(name, {"receipt_version": 2, "versions": {"membrain_cloud": "9.0"}})
    with pytest.raises(StorageError, match="format 2") as caught:
        receipts.forget(ADDRESS, "complete")
    assert "update membrain_cloud" in caught.value.next_step
    assert receipts.names() == {name}
