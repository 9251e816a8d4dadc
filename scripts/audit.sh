#!/usr/bin/env bash
# Known vulnerabilities of what is installed in .venv, by pip-audit in a .venv-audit of its own, so that what is audited
# is not changed by it. Fails on any, and where a package could not be looked up. Arguments go to pip-audit.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "audit: nothing is installed yet: make install" >&2; exit 1; }
audit=${PIP_AUDIT:-.venv-audit/bin/pip-audit}
if [ ! -x "$audit" ]; then
  .venv/bin/python -m venv .venv-audit
  .venv-audit/bin/python -m pip install --disable-pip-version-check --no-input --quiet 'pip-audit>=2.10,<3'
fi
list=$(mktemp)
trap 'rm -f "$list"' EXIT
# By their public versions: an index of builds for a CPU has 2.13.0+cpu, of which no list of vulnerabilities knows.
.venv/bin/python - >"$list" <<'PYTHON'
from importlib.metadata import distributions

found = {one.name: one.version.partition("+")[0] for one in distributions()}
for name in sorted(found.keys() - {"ml-service", "ml-service-client"}, key=str.lower):
    print(f"{name}=={found[name]}")
PYTHON
echo "audit: $(wc -l <"$list") packages"
"$audit" --requirement "$list" --no-deps --disable-pip --strict --progress-spinner off "$@"
