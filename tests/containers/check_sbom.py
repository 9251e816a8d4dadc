"""Holds an image's bill of materials to what is installed in it: run by the image's own Python, from standard input.

    docker run --rm -i --entrypoint python IMAGE - with|without <check_sbom.py

`with` or `without` torch. Exit code 0 if all holds.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distributions
from pathlib import Path


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


bill = json.loads(Path(sys.prefix, "sbom.cdx.json").read_text())
assert bill["bomFormat"] == "CycloneDX", bill["bomFormat"]
listed = {(normal(part["name"]), part["version"]) for part in bill["components"]}
installed = {(normal(one.name), one.version) for one in distributions()}
assert listed == installed, listed ^ installed
names = {name for name, _ in listed}
assert "redis" in names, names
assert not names & {"pip", "cyclonedx-bom"}, "what builds the image is left in it"
assert ("torch" in names) == (sys.argv[1] == "with"), names
print(f"  {len(listed)} packages, all in the bill of materials")  # noqa: T201 - its answer
