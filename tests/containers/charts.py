"""The Helm chart's files, for its tests."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "kubernetes"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
CASES = ["default", *EXAMPLES]
TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
# Which of the settings the chart's templates set themselves.
SET = {name for text in TEMPLATES.values() for name in re.findall(r"name: (ML_[A-Z_]+|MODEL_CACHE_DIR)\b", text)}


def given(name: str) -> dict[str, Any]:
    """The values that a case has beside the chart's own."""
    if name == "default":
        return {}
    found: dict[str, Any] = yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())
    return found


def defaults() -> dict[str, Any]:
    """values.yaml."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def values(name: str) -> dict[str, Any]:
    """Of a case, as Helm merges them."""
    return _merged(defaults(), given(name))


def models(name: str) -> dict[str, Any]:
    """What `models:` is in a case."""
    found: dict[str, Any] = values(name)["models"] or yaml.safe_load((ROOT / "models.yaml").read_text())["models"]
    return found


def pools(name: str) -> dict[str, dict[str, Any]]:
    """With their defaults."""
    found = values(name)
    named = found["pools"] or {"default": {}}
    return {pool: _merged(found["poolDefaults"], own or {}) for pool, own in named.items()}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found
