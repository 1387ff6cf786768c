"""Keys in URLs are taken out, and nothing else is changed."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import ModelError
from membrain_cloud.redaction import all_without_keys, without_keys

S = "hunter2-and+more/="


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{S.replace('/', '')}@host/model.ckpt",
        "https://me:p@ss-hunter2@host/a",
        "model https://hunter2@host:8080/a/b?x=1 -> try again",
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=hunter2&X-Amz-Date=2026&X-Amz-Signature=hunter2",
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=hunter2&Signature=hunter2&Expires=3",
        "https://acc.blob.core.windows.net/c/k?sv=2022&sig=hunter2%3D&se=1",
        "https://storage.example.org/k?X-Goog-Signature=hunter2#sha256=00",
        "https://host/a?token=hunter2 and https://host/b?api_key=hunter2&page=2",
    ],
)
def test_keys_are_taken_out(text: str) -> None:
    clean = without_keys(text)
    assert "hunter2" not in clean
    assert "***" in clean
    assert "host" in clean or "amazonaws" in clean or "blob" in clean or "storage" in clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/overlay/ExperimentRuns/TS_1",
        "https://host/model.ckpt#sha256=0123",
        "https://host/a?page=2&size=3",
        "membrane:alice/3@10.0?instance=true",
        "TS_026: 3 of 4 chunks @ 10.0 Å, key = value",
        "git@host and user@host without a scheme",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert without_keys(text) == text


def test_it_reaches_nested_texts_and_errors() -> None:
    url = "https://me:hunter2@host/a"
    assert "hunter2" not in str(all_without_keys({"a": [{"b": url}, 3], "c": (url,)}))
    error = ModelError(f"model {url}: gone", f"look at {url}")
    assert "hunter2" not in f"{error} {error!r} {error.args} {error.message} {error.next_step}"
