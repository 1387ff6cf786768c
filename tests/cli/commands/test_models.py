"""`membrain-cloud models`: output and exit codes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.cli.commands.models import models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMBRAIN_CLOUD_MODELS", str(tmp_path / "models.json"))
    (tmp_path / "models.json").write_text('{"models": {}}')


@pytest.fixture
def checkpoint(tmp_path: Path, lightning_checkpoint: Callable[..., Path]) -> Path:
    return lightning_checkpoint(tmp_path / "v10.ckpt")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


def call_json(*arguments: str) -> Any:
    result = CliRunner().invoke(models, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_list_has_built_in_and_registered_models(tmp_path: Path) -> None:
    entry = {"url": "https://host/a.ckpt", "sha256": "0" * 64, "description": "of the institute"}
    (tmp_path / "models.json").write_text(json.dumps({"models": {"seg-v10": entry}}))
    origins = {model["name"]: model["origin"] for model in call_json("list")}
    assert origins["seg-v10"] == "registry"
    assert origins["membrain-cloud-small"] == "built-in"
    text = call("list").output
    assert "of the institute" in text
    assert "not fetched" in text


def test_info_describes_a_checkpoint(checkpoint: Path) -> None:
    facts = call_json("info", str(checkpoint))
    assert facts["format"] == "membrain-seg"
    assert facts["architecture"] == {"channels": [4, 8, 8, 8], "residual": True}
    assert "membrain-seg" in call("info", str(checkpoint)).output


def test_a_good_model_is_verified(checkpoint: Path) -> None:
    pin = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    checked = call_json("verify", f"{checkpoint}#sha256={pin}")
    assert (checked["sha256"], checked["sha256_checked_against"]) == (pin, "pin")
    assert "logit_range" in call("verify", str(checkpoint)).output


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_a_bad_model_is_one_line_and_exit_code_2(checkpoint: Path, verb: str) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    result = call(verb, str(checkpoint))
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: model {checkpoint}")
    assert " -> " in line


def test_a_model_that_cannot_be_fetched_now_is_exit_code_1() -> None:
    result = call("verify", "http://127.0.0.1:9/v10.ckpt")
    assert result.exit_code == 1
    assert "127.0.0.1" in result.stderr


def test_convert_writes_a_model_that_describes_itself(checkpoint: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "v10.safetensors")
    facts = call_json("convert", str(checkpoint), output, "--precision", "float16")
    assert facts["converted_from"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert facts["file"] == output
    again = call("convert", str(checkpoint), output)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert call("convert", str(checkpoint), output, "--overwrite").exit_code == 0
    assert call_json("info", output)["weights"] == "float32"
    assert call_json("verify", output)["format"] == "membrain_cloud"


def test_fetch_puts_pinned_models_where_settings_name_them(tmp_path: Path, checkpoint: Path) -> None:
    pin = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for _ in range(2):  # an init container may run twice
        result = call("fetch", "--directory", str(tmp_path / "models"), f"mine.ckpt={checkpoint}#sha256={pin}")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "models" / "mine.ckpt").read_bytes() == checkpoint.read_bytes()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine.ckpt"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("mine.ckpt={path}", "no sha256 is pinned"),
        ("mine.ckpt={path}#sha256=" + "0" * 64, "sha256"),
        ("../mine.ckpt={path}#sha256={pin}", "not a name for a model's file"),
        ("/etc/passwd={path}#sha256={pin}", "not a name for a model's file"),
        ("{path}", "no name"),
    ],
)
def test_fetch_refuses_other_content_and_unsafe_names(tmp_path: Path, checkpoint: Path, text: str, cause: str) -> None:
    pin = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    result = call("fetch", "--directory", str(tmp_path / "models"), text.format(path=checkpoint, pin=pin))
    assert result.exit_code == 2
    assert cause in result.stderr
    assert not (tmp_path / "models").exists()
