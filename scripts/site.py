"""Hooks of MkDocs (mkdocs.yml). The docs are written to be read in the repository, and link to what lies there:
README.md becomes the first page, and whatever else they link to lies in the site too, under source/.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_ELSEWHERE = re.compile(r"[a-z]+:|/")


def in_site(place: str) -> str:
    """Where a file or folder of the repository lies in the site's sources."""
    if place == "README.md":
        return "index.md"
    if place.startswith("docs/"):
        return place.removeprefix("docs/") + (".md" if (ROOT / place).is_dir() else "")  # benchmarks/: its page
    return f"source/{place}" + ("/index.md" if (ROOT / place).is_dir() else "")


def moved(markdown: str, page: str) -> tuple[str, set[str]]:
    """The text of a page of the repository with links that hold in the site, and the files and folders that they lead
    to."""
    wanted: set[str] = set()
    here = posixpath.dirname(in_site(page))

    def link(found: re.Match[str]) -> str:
        before, target, anchor, after = found[1], found[2], found[3] or "", found[4]
        if _ELSEWHERE.match(target):
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        wanted.add(place)
        return f"{before}{posixpath.relpath(in_site(place), here)}{anchor}{after}"

    return _LINK.sub(link, markdown), wanted


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All that the docs link to, and what that links to."""
    from mkdocs.structure.files import File

    def add(place: str, **what: str) -> None:
        files.append(File.generated(config, in_site(place), **what))

    seen: set[str] = set()
    todo = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    while todo:
        place = todo.pop()
        if place in seen or not (ROOT / place).exists():  # a link that leads nowhere: MkDocs says so
            continue
        seen.add(place)
        path, ours = ROOT / place, place.startswith("docs/")
        if path.is_dir():
            inside = sorted(one.relative_to(ROOT).as_posix() for one in path.rglob("*") if _is_told(one))
            lines = "\n".join(f"- [{one}]({posixpath.relpath(one, place)})" for one in inside)
            if not ours:
                add(place, content=f"# {place}\n\n{lines}\n")
                todo += inside
        elif path.suffix == ".md":
            text, wanted = moved(path.read_text(), place)
            todo += wanted
            if not ours:
                add(place, content=text)
        elif not ours:
            add(place, abs_src_path=os.fspath(path))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The docs' own pages, likewise."""
    generated = page.file.src_uri == "index.md" or page.file.src_uri.startswith("source/")
    return markdown if generated else moved(markdown, f"docs/{page.file.src_uri}")[0]


def _is_told(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts
