"""Hooks of mkdocs: the order of the pages, and pages from outside docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages of the repository that belong to the site, and their names on the site.
FROM_ROOT = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}

SECTIONS: list[tuple[str, list[str]]] = [
    ("Tutorials", ["tutorials/one-tomogram.md", "tutorials/portal-dataset.md"]),
    ("", ["tutorials/annotate-together.md", "tutorials/query-the-tables.md"]),
    (
        "How to",
        [
            "how-to/run.md",
            "how-to/copick.md",
            "copick-tools.md",
            "how-to/look.md",
            "how-to/xarray.md",
            "how-to/give-back.md",
        ],
    ),
    ("", ["how-to/train-segmentation.md", "how-to/train-a-picker.md", "models.md"]),
    ("Statistics", ["statistics/*"]),
    ("Deployment", ["deploy/*"]),
    ("Reference", ["python.md", "commands.md", "settings.md", "tables.md"]),
    (
        "Explanation",
        ["limits.md", "segmentation.md", "architecture.md", "benchmarks.md", "contributing.md", "changelog.md"],
    ),
]


def on_config(config: Any) -> Any:
    """Set the navigation. A section can name a whole folder, so that a new page needs no entry."""
    nav: list[dict[str, Any]] = [{"Home": "index.md"}]
    for title, entries in SECTIONS:
        pages = [page for entry in entries for page in _pages(entry)]
        if not title:
            next(iter(nav[-1].values())).extend(pages)
        elif pages:
            nav.append({title: pages})
    config["nav"] = nav
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for source, name in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_relink(text)))
    return files


def _pages(entry: str) -> list[str]:
    """Return the pages of an entry that exist, the index of a folder first."""
    if not entry.endswith("/*"):
        return [entry] if (DOCS / entry).is_file() or entry in FROM_ROOT.values() else []
    folder = DOCS / entry.removesuffix("/*")
    pages = sorted(path.relative_to(DOCS).as_posix() for path in folder.rglob("*.md"))
    return sorted(pages, key=lambda page: not page.endswith("index.md"))


def _relink(text: str) -> str:
    """Rewrite the links of a page from the root for docs/; links to files that are not on the site become text."""
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    for source, name in FROM_ROOT.items():
        text = text.replace(f"]({source})", f"]({name})")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", _text_unless_on_site, text)


def _text_unless_on_site(match: re.Match[str]) -> str:
    target = match[2].partition("#")[0]
    return match[0] if (DOCS / target).exists() or target in FROM_ROOT.values() else match[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links to files outside docs/ (`../README.md`) by their text."""
    folder = (DOCS / page.file.src_uri).parent

    def text_if_outside(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        outside = not (folder / target).resolve().is_relative_to(DOCS.resolve())
        return match[1] if target and outside else match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", text_if_outside, markdown)
