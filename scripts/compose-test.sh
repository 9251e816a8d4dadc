#!/usr/bin/env bash
# Builds the images and runs them for real: docker-compose.yml with two workers, the image that holds all, and the
# compose block of the naive service's users. Asks each over its published port, prints figures, removes everything
# but the images. Uses the Docker that is there; where none is, starts one of its own (scripts/local-engine.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

PROJECT=ml-service-test # not the user's own: `down` removes its volumes
WORKERS=2
TIMEOUT=600 # seconds to healthy
BASE_IMAGE=${PYTHON_IMAGE:-python:3.11-slim}
export PUBLISH_API=127.0.0.1: PUBLISH_FLOWER=127.0.0.1: # any free port
figures=()
own_engine='' own_container='' seed_folder='' had_models=''
[ -e models ] && had_models=yes

step() { printf '\n== %s\n' "$*"; }
fail() { echo "compose-test: $*" >&2; exit 1; }
ask() { python3 tests/containers/check_stack.py "$@"; }
# The user's own .env is not read: it may name his own Redis.
stack() {
  docker compose --progress "${progress:-quiet}" --project-name "$PROJECT" --env-file /dev/null "${files[@]}" "$@"
}
seed() {
  docker compose --progress quiet --project-name "$PROJECT-seed" --project-directory "$seed_folder" \
    -f tests/containers/seed.yml "$@"
}
logs_and_fail() { # command that prints logs..., message last
  "${@:1:$#-1}" || :
  fail "${@: -1}"
}

cleanup() {
  local code=$?
  set +e # the rest is removed even where a part fails
  step "removing everything"
  [ ${#files[@]} -gt 0 ] && stack down --volumes --remove-orphans --timeout 60 >/dev/null 2>&1
  [ -n "$own_container" ] && docker rm -fv ml-service >/dev/null 2>&1
  if [ -n "$seed_folder" ]; then
    seed down --volumes --timeout 60 >/dev/null 2>&1
    rm -rf "$seed_folder"
  fi
  [ -n "$had_models" ] || rmdir models 2>/dev/null
  [ -n "$own_engine" ] && scripts/local-engine.sh stop
  exit "$code"
}

engine() {
  if docker version >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then return; fi
  local exports
  own_engine=yes
  exports=$(scripts/local-engine.sh start)
  eval "$exports"
}

# A folder of pip's own configuration that holds a torch wheel: pip would take that one, so shall the builds.
wheels() {
  local folder
  for folder in ${PIP_FIND_LINKS:-} $(python3 -m pip config get global.find-links 2>/dev/null || :); do
    compgen -G "${folder#file://}/torch-*.whl" >/dev/null || continue
    echo "${folder#file://}"
    return
  done
}

healthy() { # container: seconds until healthy
  local start=$SECONDS state
  while state=$(docker inspect -f '{{.State.Health.Status}}' "$1") && [ "$state" != healthy ]; do
    [ "$(docker inspect -f '{{.State.Running}}' "$1")" = true ] || return 1
    [ $((SECONDS - start)) -lt $TIMEOUT ] || return 1
    sleep 0.5
  done
}

port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

compose() {
  local start=$SECONDS
  step "building the images of docker-compose.yml"
  progress=plain stack build
  figures+=("build of api, flower, worker: $((SECONDS - start)) s")
  start=$SECONDS
  step "docker compose up --build --wait --scale worker=$WORKERS"
  stack up --build --detach --wait --wait-timeout $TIMEOUT --scale worker=$WORKERS || {
    stack ps --all
    logs_and_fail stack logs --no-color --tail 100 "docker compose up did not become healthy"
  }
  figures+=("up to all healthy: $((SECONDS - start)) s")
  stack ps
  [ "$(stack ps --format '{{.Health}}' | grep -cx healthy)" = $((3 + WORKERS)) ] || fail "not all are healthy"
  step "asking it"
  ask "http://$(stack port api 8001)" --workers $WORKERS --flower "http://$(stack port flower 5555)" ||
    logs_and_fail stack logs --no-color --tail 100 "an answer was wrong"
  while read -r line; do
    figures+=("memory of $line")
  done < <(stack ps -q | xargs docker stats --no-stream --format '{{.Name}}: {{.MemUsage}}')
  hardship
  step "docker compose down"
  start=$SECONDS
  stack down --volumes --timeout 60
  figures+=("down: $((SECONDS - start)) s")
}

# What was accepted ends well whatever happens to the containers.
hardship() {
  local api kill_all='kill -9 -1' # all but the container's init, which then ends, and the container is started again
  api=http://$(stack port api 8001)
  step "killing a worker at work"
  survives exec -T --index 1 worker sh -c "$kill_all"
  [ "$(docker inspect -f '{{.RestartCount}}' "$PROJECT-worker-1")" = 1 ] || fail "the worker was not started again"
  [ "$(stack ps worker --format '{{.Health}}' | grep -cx healthy)" = $WORKERS ] || fail "the workers are not healthy"
  step "restarting Redis"
  survives restart redis
  step "one worker less"
  survives up --detach --no-recreate --scale worker=1
}

survives() { # docker compose arguments
  ask "$api" --during docker compose --project-name "$PROJECT" --env-file /dev/null "${files[@]}" "$@" ||
    logs_and_fail stack logs --no-color --tail 100 "accepted work was lost"
}

all_in_one() {
  docker container inspect ml-service >/dev/null 2>&1 && fail "a container named ml-service is there; remove it first"
  port_free 8001 || fail "port 8001 is taken"
  local start=$SECONDS
  step "docker build -t ml-service:latest ."
  docker build --build-arg "BASE=$BASE_IMAGE" "${context[@]}" -t ml-service:latest .
  figures+=("build of the all-in-one image: $((SECONDS - start)) s")
  start=$SECONDS
  step "docker run -d --name ml-service -p 8001:8001 -e MODEL_CACHE_DIR=/app/models ml-service:latest"
  own_container=yes
  docker run -d --name ml-service -p 8001:8001 -e MODEL_CACHE_DIR=/app/models ml-service:latest
  healthy ml-service || logs_and_fail docker logs --tail 100 ml-service "the container did not become healthy"
  ask http://127.0.0.1:8001 || logs_and_fail docker logs --tail 100 ml-service "an answer was wrong"
  figures+=("all in one: run to answered: $((SECONDS - start)) s")
  figures+=("all in one: memory: $(docker stats --no-stream --format '{{.MemUsage}}' ml-service)")
  start=$SECONDS
  docker stop --time 60 ml-service >/dev/null
  [ "$(docker inspect -f '{{.State.ExitCode}}' ml-service)" = 0 ] ||
    logs_and_fail docker logs --tail 50 ml-service "it did not stop cleanly"
  figures+=("all in one: stop: $((SECONDS - start)) s")
  docker rm -v ml-service >/dev/null
  own_container=''
}

seed_block() {
  step "the naive service's compose block"
  seed_folder=$(mktemp -d)
  mkdir -p "$seed_folder/ml-service"
  docker tag ml-service:latest "$PROJECT-seed-ml-service" # what `build: ./ml-service` would have built
  seed up --no-build --detach --wait --wait-timeout $TIMEOUT ||
    logs_and_fail seed logs --no-color --tail 100 "it did not become healthy"
  ask http://127.0.0.1:8001
  seed down --volumes --timeout 60
}

export BUILDKIT_PROGRESS=plain
files=() context=()
trap cleanup EXIT
engine
ML_WHEELS=$(wheels)
export ML_WHEELS
files=(-f docker-compose.yml)
if [ -n "$ML_WHEELS" ]; then
  files+=(-f tests/containers/wheels.yml)
  context=(--build-context "wheels=$ML_WHEELS")
elif [ -z "${TORCH_INDEX_URL:-}" ]; then
  echo "compose-test: the index's own torch is taken (gigabytes, with CUDA); TORCH_INDEX_URL names another"
fi
[ -n "${TORCH_INDEX_URL:-}" ] && context+=(--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL")
compose
all_in_one
seed_block
step "figures"
docker image ls --format '{{.Repository}} {{.Size}}' |
  awk '/^(ml-service(-api|-worker|-flower)?) / {print "  image " $1 ": " $2}'
printf '  %s\n' "${figures[@]}"
echo "compose-test: passed"
