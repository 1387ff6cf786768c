"""URIs on command lines are those of copick."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.projects.uris import names_instances, parse_target_uri, parse_tomogram_uri

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("wbp@10.0", ("wbp", "10.0")), ("wbp", ("wbp", None)), ("*@7.84", (None, "7.84")), ("@7.84", (None, "7.84"))],
)
def test_parts_of_a_tomogram_may_be_left_open(uri: str, parts: tuple[str | None, str | None]) -> None:
    assert parse_tomogram_uri(uri) == parts


@pytest.mark.parametrize("uri", ["wbp*@10", "re:wb.@10", "wbp@1*"])
def test_patterns_of_tomograms_are_refused(uri: str) -> None:
    with pytest.raises(ProjectError, match="is a pattern"):
        parse_tomogram_uri(uri)


@pytest.mark.parametrize("uri", ["membrane:alice/3", "membrane:alice/3@10.0", "membrane:alice/3@10.0?instance=true"])
def test_a_target_has_name_user_and_session(uri: str) -> None:
    assert parse_target_uri(uri) == ("membrane", "alice", "3")
    assert names_instances(uri) == ("instance" in uri)


@pytest.mark.parametrize("uri", ["membrane", "membrane:alice", "membrane:a*/3", ":a/b", "a:b:c/d", "re:a:b/c"])
def test_targets_that_are_open_are_refused(uri: str) -> None:
    with pytest.raises(ProjectError):
        parse_target_uri(uri)


def test_one_type_at_most() -> None:
    with pytest.raises(ProjectError, match="one type"):
        names_instances("a:b/c?instance=true&multilabel=true")
