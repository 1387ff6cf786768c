"""A receipt is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError
from membrain_cloud.store.receipts import Receipts


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


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    receipts = Receipts(str(tmp_path))
    for content in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            receipts.write("x", content)
    assert receipts.names() == set()
