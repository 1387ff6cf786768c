"""Digests of listings enter the digests of tasks, so their values are fixed."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from membrain_cloud.store.objects.object_info import ObjectInfo, listing_digest, remote_info

LISTING = {"0/0/0": ObjectInfo(10, "a"), "0/0/1": ObjectInfo(12, "b", 5.0)}


def test_the_digest_of_a_listing_has_a_fixed_value() -> None:
    assert listing_digest(LISTING, "Grid((2, 2, 2), 10.0)") == "e5340377837fabf8"
    assert listing_digest({}) == "e3b0c44298fc1c14"


def test_the_digest_changes_with_name_size_tag_and_extra_only() -> None:
    digest = listing_digest(LISTING)
    assert listing_digest(dict(reversed(LISTING.items()))) == digest
    assert listing_digest({**LISTING, "0/0/1": ObjectInfo(12, "b", 99.0)}) == digest
    others = [
        {"0/0/0": ObjectInfo(10, "a")},
        {**LISTING, "0/0/1": ObjectInfo(13, "b")},
        {**LISTING, "0/0/1": ObjectInfo(12, "c")},
        {**LISTING, "0/0/2": ObjectInfo(1, "d")},
    ]
    assert len({digest, listing_digest(LISTING, "x"), *map(listing_digest, others)}) == 6


@pytest.mark.parametrize(
    ("entry", "info"),
    [
        ({"size": 3, "ETag": '"ab"', "LastModified": datetime.datetime.fromtimestamp(7, datetime.UTC)}, (3, "ab", 7.0)),
        ({"size": 3, "mtime": 8.5}, (3, "8.5", 8.5)),
        ({"size": None}, (0, "", None)),
    ],
)
def test_entries_of_stores_have_size_tag_and_time(entry: dict[str, Any], info: tuple[int, str, float | None]) -> None:
    found = remote_info(entry)
    assert (found.size, found.tag, found.modified) == info
