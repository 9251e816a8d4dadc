"""Writes client/ml_service_client/problems.py: an exception class for each code that the service can answer. The client
imports nothing of the service, so this copies what it needs; a test compares. Run after a change of shared/errors.py:

    python -m scripts.client_problems
"""

from __future__ import annotations

from pathlib import Path

from api.errors import STATUS
from shared import errors

FILE = Path(__file__).parents[1] / "client" / "ml_service_client" / "problems.py"

HEADER = '''"""One exception for each `code` of the service. Made by scripts/client_problems.py: do not edit."""

from __future__ import annotations

from typing import Final

from ml_service_client.errors import JobError, MLServiceError, Refused
'''

# Python's own exceptions that callers expect of these.
_ALSO = {"wait_ended": "TimeoutError", "timeout": "TimeoutError", "deadline_exceeded": "TimeoutError"}
# Codes that are made where they are answered.
_OTHERS = {
    "not_found": "No such path.",
    "method_not_allowed": "This path does not know this method.",
    "internal_error": "A fault of the service.",
}


def text() -> str:
    """The module."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and "code" in vars(kind)]
    by_code: dict[str, type[errors.ServiceError]] = {}
    for kind in kinds:
        if issubclass(kind, errors.ServiceError) and kind not in (errors.ServiceError, errors.JobError):
            by_code.setdefault(kind.code, kind)
    parts, names = [], {}
    for code, status in STATUS.items():
        kind = by_code.get(code)
        name = kind.__name__ if kind else code.title().replace("_", "")
        told = (kind.__doc__ or "").strip().splitlines()[0] if kind else _OTHERS[code]
        base = "JobError" if kind and issubclass(kind, errors.JobError) else "Refused"
        bases = f"{base}, {_ALSO[code]}" if code in _ALSO else base
        names[code] = name
        parts.append(
            f'\n\nclass {name}({bases}):\n    """{told}"""\n\n    code = "{code}"\n    default_status = {status}\n'
        )
    table = "".join(f'    "{code}": {name},\n' for code, name in names.items())
    parts.append(f"\n\nPROBLEMS: Final[dict[str, type[MLServiceError]]] = {{\n{table}}}\n")
    listed = "".join(f'    "{name}",\n' for name in sorted(names.values()))
    return "".join([HEADER, f"\n__all__ = [\n{listed}]\n", *parts])


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
