#!/usr/bin/env bash
# A Docker engine of one's own, on a Debian machine that has none and reaches no image registry.
#   local-engine.sh start    starts it, makes stand-ins for the base images, prints the exports that use it
#   local-engine.sh stop     removes its containers, networks and volumes, ends it, puts the network back as it was
# Needs root. Packages come from the machine's own apt sources; the images stay for the next start (ENGINE_DIR).
# The stand-ins (python:3.11-slim, redis:7) are Debian's packages behind the official names, not the official images.
set -euo pipefail

DIR=${ENGINE_DIR:-/var/tmp/ml-service-engine}
BIN=$DIR/root/usr/bin
export DOCKER_HOST=unix://$DIR/docker.sock DOCKER_CONFIG=$DIR/config DEBIAN_FRONTEND=noninteractive
export PATH=$BIN:$DIR/root/usr/sbin:$PATH
RELEASE=trixie # the engine's: 26.1, with compose 2.26; its binaries run on Debian 12 too, except runc

apt_sources() { # Debian's own only
  find /etc/apt/sources.list /etc/apt/sources.list.d/debian.* -size +0 2>/dev/null || :
}
say() { echo "local-engine: $*" >&2; }
die() { say "$*"; exit 1; }
answers() { docker version >/dev/null 2>&1; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# The packages that run on this release as they are: installed. They start no service of their own.
tools() {
  local missing=()
  for tool in runc iptables debootstrap; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}"
  apt-get update -qq >&2
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$DIR/apt.log" 2>&1 || die "see $DIR/apt.log"
}

# The engine itself: unpacked into a folder, so that the machine's own packages stay as they are.
unpack() {
  [ -d "$DIR/root" ] && return
  say "fetching Docker, Compose and Buildx"
  local apt=$DIR/apt file
  mkdir -p "$apt"/{sources,state/lists/partial,cache/archives/partial} "$DIR/debs" "$DOCKER_CONFIG/cli-plugins"
  apt_sources | while read -r file; do
    sed "s/$CODENAME/$RELEASE/g" "$file" >"$apt/sources/$(basename "$file")"
  done
  local options=(-qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$apt/sources"
                 -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >&2
  (cd "$DIR/debs" &&
    apt-get "${options[@]}" download docker.io docker-cli containerd docker-compose docker-buildx tini >&2)
  rm -rf "$DIR/unpacked"
  for file in "$DIR"/debs/*.deb; do dpkg-deb -x "$file" "$DIR/unpacked"; done
  mv "$DIR/unpacked" "$DIR/root" # whole or not at all
  ln -sf "$DIR"/root/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
  rm -rf "$apt" "$DIR/debs"
}

launch() {
  say "starting the engine"
  save_network
  local mtu files
  mtu=$(cat "/sys/class/net/$(ip route show default | awk '{print $5; exit}')/mtu" 2>/dev/null || echo 1500)
  files=$(ulimit -Hn) # a container may not ask for more than this machine gives
  setsid dockerd --data-root "$DIR/data" --exec-root "$DIR/exec" --host "$DOCKER_HOST" --pidfile "$DIR/pid" \
    --mtu "$mtu" --default-network-opt "bridge=com.docker.network.driver.mtu=$mtu" \
    --default-ulimit "nofile=$files:$files" >"$DIR/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 120); do answers && return; sleep 0.25; done
  die "the engine did not start; see $DIR/dockerd.log"
}

save_network() {
  cat /proc/sys/net/ipv4/ip_forward >"$DIR/ip_forward"
  for v in iptables ip6tables; do $v-save >"$DIR/$v.saved" 2>/dev/null || : >"$DIR/$v.saved"; done
}

restore_network() {
  local v table chain
  for v in iptables ip6tables; do
    # a table that was not there before is emptied; the others become what they were
    for table in $($v-save 2>/dev/null | sed -n 's/^\*//p'); do
      grep -qx "\*$table" "$DIR/$v.saved" && continue
      $v -t "$table" -F
      $v -t "$table" -X
      for chain in $($v -t "$table" -S | sed -n 's/^-P \([A-Z]*\).*/\1/p'); do $v -t "$table" -P "$chain" ACCEPT; done
    done
    [ -s "$DIR/$v.saved" ] && $v-restore <"$DIR/$v.saved"
  done
  ip link delete docker0 2>/dev/null || :
  cat "$DIR/ip_forward" >/proc/sys/net/ipv4/ip_forward
}

base_images() {
  has_image debian:bookworm-slim || {
    say "making debian:bookworm-slim"
    local mirror root=$DIR/rootfs
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(SITE)' "Codename: $CODENAME" | head -1)
    debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata "$CODENAME" "$root" "$mirror" \
      >"$DIR/debootstrap.log" 2>&1 || die "debootstrap failed; see $DIR/debootstrap.log"
    settings "$root"
    tar -C "$root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
      --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./dev/*' -c . |
      docker import - debian:bookworm-slim >/dev/null
    rm -rf "$root"
  }
  has_image python:3.11-slim || { say "making python:3.11-slim"; python_image; }
  has_image redis:7 || { say "making redis:7"; redis_image; }
}

# What a build needs to reach packages from here: this machine's apt sources, CA bundle and package index.
settings() {
  local key value
  : >"$1/etc/apt/sources.list" # debootstrap's
  apt_sources | xargs cp -t "$1/etc/apt/sources.list.d/"
  # as in the official images: apt leaves neither packages nor its own caches in a layer
  cat >"$1/etc/apt/apt.conf.d/docker-clean" <<'CONF'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
CONF
  # under a name of its own: an upgrade of ca-certificates writes its own bundle anew
  cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/machine-ca.crt"
  printf '[global]\ncert = /etc/ssl/machine-ca.crt\n' >"$1/etc/pip.conf"
  for key in index-url extra-index-url trusted-host; do
    value=$(python3 -m pip config get "global.$key" 2>/dev/null) || continue
    # a folder of this machine is not there in a build
    value=$(tr ' ' '\n' <<<"$value" | grep -v '^file:' | paste -sd ' ') || continue
    [ -n "$value" ] && echo "$key = $value" >>"$1/etc/pip.conf"
  done
}

python_image() {
  docker build -q -t python:3.11-slim - >/dev/null <<'DOCKERFILE'
FROM debian:bookworm-slim
ENV LANG=C.UTF-8 PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/bin/python3 /usr/local/bin/python
CMD ["python3"]
DOCKERFILE
}

redis_image() {
  docker build -q -t redis:7 - >/dev/null <<'DOCKERFILE'
FROM debian:bookworm-slim
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \
    && install -d -o redis -g redis /data
WORKDIR /data
VOLUME /data
EXPOSE 6379
USER redis
CMD ["redis-server", "--protected-mode", "no"]
DOCKERFILE
}

start() {
  [ "$(id -u)" = 0 ] || die "needs root; or install Docker"
  # shellcheck disable=SC1091
  CODENAME=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ "$CODENAME" = bookworm ] || die "knows only Debian 12 (bookworm), this is '${CODENAME:-unknown}'; install Docker"
  mkdir -p "$DIR"
  tools
  unpack
  answers || launch
  base_images
  echo "export PATH=$BIN:\$PATH DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG"
}

stop() {
  answers || { say "not running"; return; }
  docker ps -aq | xargs -r docker rm -fv >/dev/null # this engine is private: all of it is ours
  docker network prune -f >/dev/null
  docker volume prune -af >/dev/null
  local pid
  pid=$(cat "$DIR/pid")
  kill "$pid"
  while [ -e "/proc/$pid/exe" ]; do sleep 0.2; done
  restore_network
  say "stopped"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) die "start or stop" ;;
esac
