"""Read the examples out of the documentation's pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the fenced blocks of a page in the given languages."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            yield match[2]


def shell_lines(page: Path) -> list[str]:
    """Return the membrain-cloud commands of a page, continued lines joined, comments and prompts left out."""
    lines = []
    for block in blocks(page, "sh", "bash", "console", "shell"):
        for raw in block.replace("\\\n", " ").splitlines():
            line = raw.strip().removeprefix("$ ")
            if line.startswith("membrain-cloud"):
                lines.append(line)
    return lines
