"""Holds Kubernetes objects on stdin (YAML) to the schemas of the versions named, of KEDA and of the Prometheus
operator. Runs in .venv-chart (chart-tools.txt), which has those schemas; prints what does not fit, and how many
objects there were.

    python chart_schemas.py 1.28,1.37 < rendered.yaml
"""

from __future__ import annotations

import sys
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring
from pydantic import ValidationError

CUSTOM: dict[str, Any] = {"keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": monitoring}


def fault(found: dict[str, Any], version: str) -> str:
    """In words; empty where it fits."""
    try:
        if kinds := CUSTOM.get(found["apiVersion"]):
            read = getattr(kinds, found["kind"]).model_validate(found)
            # These models leave out what they do not know.
            return ", ".join(unknown(found, read.model_dump(mode="json", by_alias=True)))
        else:
            kubernetes_validate.validate(found, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return str(error)
    except (ValidationError, AttributeError) as error:
        return str(error)
    return ""


def unknown(found: Any, known: Any, path: str = "") -> list[str]:
    """What is in `found` and not in `known`, by its path."""
    if isinstance(found, dict) and isinstance(known, dict):
        missing = [f"{path}.{name} is unknown" for name in found if name not in known]
        pairs = [(found[name], known[name], f"{path}.{name}") for name in found if name in known]
        return missing + [one for pair in pairs for one in unknown(*pair)]
    if isinstance(found, list) and isinstance(known, list):
        both = enumerate(zip(found, known, strict=True))
        return [one for at, (mine, theirs) in both for one in unknown(mine, theirs, f"{path}[{at}]")]
    return []


def main() -> int:
    """0 where all fit, else 1."""
    objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
    told = {
        f"{one['kind']} {one['metadata']['name']}, {version}": fault(one, version)
        for version in sys.argv[1].split(",")
        for one in objects
    }
    faults = [f"{name}: {words}" for name, words in told.items() if words]
    sys.stdout.write("\n".join([*faults, f"{len(objects)} objects\n"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
