"""SECURITY.md does not lie: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from api.errors import STATUS
from shared.model_spec import Limits, VersionSpec
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMES = re.findall(r"`([^`\n]+)`", TEXT)


def named(pattern: str) -> list[Any]:
    found = [one for one in NAMES if re.fullmatch(pattern, one)]
    assert found, f"it names some: {pattern}"
    return found


@pytest.mark.parametrize("name", named(r"(api|shared|worker|local|tests|docs|scripts)/[\w./]+|tests/\w+"))
def test_files(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", named(r"ML_\w+(=\w+)?"))
def test_settings(name: str) -> None:
    assert name.partition("=")[0].removeprefix("ML_").lower() in Settings.model_fields


@pytest.mark.parametrize("name", named(r"limits\.\w+"))
def test_limits(name: str) -> None:
    assert name.removeprefix("limits.") in Limits.model_fields


@pytest.mark.parametrize("name", named(r"make \w+"))
def test_make(name: str) -> None:
    assert re.search(rf"^{name.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_rest_of_its_words() -> None:
    assert {"trust_remote_code", "sha256", "revision"} <= VersionSpec.model_fields.keys() & {*NAMES}
    assert "record_unreadable" in STATUS.keys() & {*NAMES}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)", TEXT))
def test_links(target: str) -> None:
    assert (ROOT / target).exists()


def test_each_fuzz_test_is_in_the_everyday_suite_and_ends_by_itself() -> None:
    for file in sorted((ROOT / "tests" / "fuzz").glob("test_*.py")):
        text = file.read_text()
        assert text.count("\n@fuzzed(") == len(re.findall(r"^def test_", text, re.MULTILINE)), file
        assert "@given" not in text
