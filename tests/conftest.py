"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference files made by other tools; skips where it is absent."""
    if not REFERENCE.is_dir():
        pytest.skip(f"reference files are absent: {REFERENCE}")
    return REFERENCE
