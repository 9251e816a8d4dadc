"""The console's files: what others have written is theirs, and every file that one names is there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

CONSOLE = Path(__file__).parents[2] / "api/console"
VENDOR = CONSOLE / "vendor"
MODULES = sorted(CONSOLE.glob("js/**/*.js"))
SUMS = dict(re.findall(r"^\| `(\S+)` .* `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.M))


def test_what_others_have_written_is_unchanged_and_listed() -> None:
    files = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.suffix in (".js", ".css")}
    assert files == SUMS.keys()
    for name, digest in SUMS.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_what_a_module_imports_is_there_and_exports_it(module: Path) -> None:
    text = module.read_text()
    found = re.findall(r"^(?:import|export) (\{[^}]*\}|\w+) from \"([^\"]+)\";$", text, re.M)
    assert len(found) == len(re.findall(r"^(?:import|export) .*\bfrom \"", text, re.M))
    for names, place in found:
        target = module.parent / place
        assert target.is_file(), place
        for name in re.findall(r"\w+", names) if names.startswith("{") else []:
            told = target.read_text()
            exports = rf"export (async )?(function|class|const|let) {name}\b|export ?\{{[^}}]*\b{name}\b[^}}]*\}}"
            assert re.search(exports, told), f"{place} exports no {name}"


@pytest.mark.parametrize("page", ["index.html", "docs.html"])
def test_a_page_names_files_that_are_there_and_has_nothing_inline(page: str) -> None:
    text = (CONSOLE / page).read_text()
    for name in re.findall(r"(?:src|href)=\"([^\".#][^\"]*)\"", text):
        file = name.removeprefix("console/")
        assert (CONSOLE / file).is_file() or name in ("openapi.json",), name
    assert not re.search(r"<script>|<style|style=|\son\w+=|javascript:", text)
