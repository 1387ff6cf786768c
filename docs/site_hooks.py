"""What mkdocs is told beside mkdocs.yml: the order of the pages, and those that lie outside of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages of the repository's root that belong to the site, under the name they have there.
FROM_ROOT = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}

SECTIONS: list[tuple[str, list[str]]] = [
    ("Tutorials", ["tutorials/one-tomogram.md", "tutorials/portal-dataset.md"]),
    ("", ["tutorials/annotate-together.md", "tutorials/query-the-tables.md"]),
    ("How to", ["how-to/run.md", "how-to/copick.md", "copick-tools.md", "how-to/look.md", "how-to/give-back.md"]),
    ("", ["how-to/train-segmentation.md", "how-to/train-a-picker.md", "models.md"]),
    ("Statistics", ["statistics/*"]),
    ("Deployment", ["deploy/*"]),
    ("Reference", ["python.md", "commands.md", "settings.md", "tables.md"]),
    ("Explanation", ["limits.md", "segmentation.md", "architecture.md", "benchmarks.md", "contributing.md", "changelog.md"]),
]


def on_config(config: Any) -> Any:
    """The navigation: whole folders where a section names one, so that a new page is in it by being there."""
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
    for source, name in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_relinked(text)))
    return files


def _pages(entry: str) -> list[str]:
    if not entry.endswith("/*"):
        return [entry]
    folder = DOCS / entry.removesuffix("/*")
    found = sorted(path.relative_to(DOCS).as_posix() for path in folder.rglob("*.md"))
    return sorted(found, key=lambda page: not page.endswith("index.md"))


def _relinked(text: str) -> str:
    """Links of a page of the root, as they are from docs/; those to files that are not on the site become text."""
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    for source, name in FROM_ROOT.items():
        text = text.replace(f"]({source})", f"]({name})")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", _plain_unless_there, text)


def _plain_unless_there(match: re.Match[str]) -> str:
    target = match[2].partition("#")[0]
    return match[0] if (DOCS / target).exists() or target in FROM_ROOT.values() else match[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Pages of docs/ link to the repository too (`../README.md`): on the site such a link is its text."""
    folder = (DOCS / page.file.src_uri).parent

    def kept(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        outside = not (folder / target).resolve().is_relative_to(DOCS.resolve())
        return match[1] if target and outside else match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", kept, markdown)
