#!/usr/bin/env bash
# A program of Prometheus with the arguments given, `promtool.sh check rules FILE`; PROGRAM=prometheus runs the server.
# The one of $PROMTOOL or on PATH, else Debian's, unpacked into .benchmarks/prometheus (no root, nothing is installed).
set -euo pipefail

PROGRAM=${PROGRAM:-promtool}
FOLDER=$(cd "$(dirname "$0")/.." && pwd)/.benchmarks/prometheus

fail() { echo "$PROGRAM: $*" >&2; exit 1; }

if [ "$PROGRAM" = promtool ] && [ -n "${PROMTOOL:-}" ]; then exec "$PROMTOOL" "$@"; fi
if command -v "$PROGRAM" >/dev/null; then exec "$PROGRAM" "$@"; fi
if [ ! -x "$FOLDER/root/usr/bin/$PROGRAM" ]; then
  command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail 'put it on PATH (https://prometheus.io/download), or name it in PROMTOOL'
  mkdir -p "$FOLDER"
  (cd "$FOLDER" && apt-get -o APT::Sandbox::User=root download -qq prometheus) ||
    fail 'apt has no package prometheus (apt-get update may help); put promtool on PATH, or name it in PROMTOOL'
  dpkg -x "$FOLDER"/prometheus_*.deb "$FOLDER/root"
fi
exec "$FOLDER/root/usr/bin/$PROGRAM" "$@"
