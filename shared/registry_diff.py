"""What a change of the registry changes, field by field, for people."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shared.registry import Registry


class Difference(BaseModel):
    """`before` null: it comes; `after` null: it goes."""

    model_config = ConfigDict(populate_by_name=True)

    path: str = Field(examples=["bert.versions.2.source"])
    before: Any = None
    after: Any = None


def differences(before: Registry, after: Registry) -> list[Difference]:
    """Of what is to be: in the order of the models and their fields."""
    old, new = _flat(before), _flat(after)
    return [
        Difference(path=path, before=old.get(path), after=new.get(path))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]


def _flat(registry: Registry) -> dict[str, Any]:
    """Defaults are left out, but for a version of which nothing else is told."""
    found: dict[str, Any] = {}
    for name, entry in registry.models.items():
        spec = entry.spec.model_dump(mode="json", exclude_defaults=True, exclude={"traffic"})
        _walk(name, spec | {"traffic": entry.spec.weights()}, found)
    return found


def _walk(path: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            _walk(f"{path}.{name}", part, found)
    else:
        found[path] = value
