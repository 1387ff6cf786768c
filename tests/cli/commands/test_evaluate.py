"""`membrain-cloud evaluate`: its files, and which options go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
from standins.command_line import call, call_json

from membrain_cloud.cli.commands.evaluate import ScoreFiles
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


def test_an_annotation_compared_with_itself_is_right(vesicles: Project, from_alice: list[str]) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    scores = call_json(
        "evaluate", vesicles.config, *from_alice, "--truth", "membrane:alice/3", "--truth-picks", "psii:expert/1"
    )
    assert [row["run"] for row in scores] == ["TS_1", "TS_2"]
    assert {row["dice"] for row in scores} == {1.0}
    assert {row["particle_f1"] for row in scores} == {1.0}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ((), "no truth"),
        (("membrane:alice/3",), "give two annotations"),
        (("membrane:alice/3", "membrane:bob/1", "--truth", "membrane:alice/3"), "give two annotations"),
        (("--truth", "membrane:alice/3", "--kind", "meshes"), "--kind"),
        (("membrane:alice/3", "membrane:alice/3", "--figure", "scores.pdf"), "PNG"),
        (("membrane:alice/3", "membrane:alice/3", "--table", "scores.txt"), "scores.txt"),
    ],
)
def test_options_that_do_not_go_together(vesicles: Project, words: tuple[str, ...], cause: str) -> None:
    result = call("evaluate", vesicles.config, *words)
    assert result.exit_code == 2
    assert cause in result.stderr


def test_files_are_replaced_only_on_request(tmp_path: Path) -> None:
    table, figure = str(tmp_path / "scores.csv"), str(tmp_path / "scores.png")
    files = ScoreFiles(table=table, figure=figure, overwrite=False)
    files.check()
    files.write([{"run": "TS_1", "dice": 0.5}, {"run": "*", "dice": 0.5}], "title", lambda: b"drawn")
    assert pd.read_csv(table)["dice"].tolist() == [0.5, 0.5]
    assert (tmp_path / "scores.png").read_bytes() == b"drawn"
    for again in (ScoreFiles(table=table, figure=None, overwrite=False), files):
        with pytest.raises(UsageError, match="exists already"):
            again.check()
    with pytest.raises(UsageError, match=r"scores\.png.*exists already"):
        ScoreFiles(table=None, figure=figure, overwrite=False).check()
    ScoreFiles(table=table, figure=figure, overwrite=True).check()
