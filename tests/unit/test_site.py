"""Links of the docs hold in the site too (in the repository: test_readme.py); `make site` builds it, with MkDocs's own
check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts import site

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("README.md", "[a](docs/api.md#x) ![b](docs/pictures/p.png)", "[a](api.md#x) ![b](pictures/p.png)"),
        ("README.md", "[a](SECURITY.md) [b](examples/ci)", "[a](source/SECURITY.md) [b](source/examples/ci/index.md)"),
        ("docs/api.md", "[a](../README.md#client) [b](console.md)", "[a](index.md#client) [b](console.md)"),
        ("docs/benchmarks.md", "[a](benchmarks/)", "[a](benchmarks.md)"),
        ("docs/benchmarks/peers.md", "[a](../../benchmarks/peers)", "[a](../source/benchmarks/peers/index.md)"),
        ("SECURITY.md", "[a](docs/keys.md)", "[a](../keys.md)"),
        ("docs/api.md", "[a](https://x.org/b) [c](#d) [e](mailto:f) ![g](/h)", None),
    ],
)
def test_where_a_link_leads_in_the_site(page: str, before: str, after: str | None) -> None:
    assert site.moved(before, page)[0] == (before if after is None else after)


def test_every_page_has_its_place_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"[\w/-]+\.md", yaml.safe_dump(menu))
    assert sorted(listed) == sorted(site.in_site(page) for page in PAGES)
