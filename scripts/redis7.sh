#!/usr/bin/env bash
# The tests that speak to a server, on Redis 7: the redis-server on PATH if it is one, else Debian's, unpacked into
# .benchmarks/redis7 (apt and dpkg fetch and unpack it; no root, nothing is installed). Arguments go to pytest; given
# files take the place of the usual ones.
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER=$PWD/.benchmarks/redis7
TESTS=(tests/unit/test_scripts.py tests/unit/test_scripts_machine.py tests/unit/test_dead_letters.py
  tests/unit/test_dead_letters_machine.py tests/unit/test_messages.py tests/integration tests/e2e
  --ignore tests/integration/test_durability.py) # WAITAOF came with 7.2

fail() { echo "test-redis7: $*" >&2; exit 1; }
version() { { "$1" --version 2>/dev/null || :; } | sed -n 's/.*Redis server v=\([0-9.]*\).*/\1/p'; }

# Debian's package and what it needs that this machine lacks.
unpack() {
  local packages
  command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail 'needs a redis-server 7 on PATH, or Debian or Ubuntu to fetch one'
  packages=$(apt-get install --simulate -qq --no-install-recommends redis-server | awk '/^Inst / { print $2 }')
  [ -n "$packages" ] || fail 'apt knows no package redis-server; apt-get update may help'
  mkdir -p "$FOLDER/packages"
  (cd "$FOLDER/packages" && apt-get -o APT::Sandbox::User=root download -qq $packages) # words, on purpose
  for package in "$FOLDER"/packages/*.deb; do dpkg -x "$package" "$FOLDER/root"; done
}

# A command of that name that finds its libraries, first on PATH; also by the name that is looked for first.
wrap() {
  local libraries
  libraries=$(find "$FOLDER/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
  mkdir -p "$FOLDER/bin"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$FOLDER/root/usr/bin/redis-server" \
    >"$FOLDER/bin/redis-server"
  chmod +x "$FOLDER/bin/redis-server"
  ln -sf redis-server "$FOLDER/bin/valkey-server"
}

case $(version redis-server) in
  7.*)
    mkdir -p "$FOLDER/bin"
    ln -sf "$(command -v redis-server)" "$FOLDER/bin/redis-server"
    ln -sf redis-server "$FOLDER/bin/valkey-server"
    ;;
  *)
    [ -x "$FOLDER/root/usr/bin/redis-server" ] || unpack
    wrap
    ;;
esac
found=$(version "$FOLDER/bin/redis-server")
[[ $found == 7.* ]] || fail "this machine's packages have Redis ${found:-that does not run}, not 7"
echo "Redis $found"

for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then TESTS=(); fi
done
PATH=$FOLDER/bin:$PATH exec .venv/bin/python -m pytest -n "${JOBS:-3}" --dist loadfile "${TESTS[@]}" "$@"
