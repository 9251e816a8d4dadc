#!/usr/bin/env bash
# Builds the images and runs them for real: docker-compose.yml with two workers, the image that holds all, and the
# compose block of the naive service's users. Asks each over its published port, prints figures, removes everything
# but the images. Arguments name parts of it: compose, all_in_one, as_a_model_container, seed_block (the last two need the
# image of the second). Uses the Docker that is there; where none is, starts one of its own (scripts/local-engine.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

PROJECT=ml-service-test # not the user's own: `down` removes its volumes
WORKERS=2
TIMEOUT=600 # seconds to healthy
BASE_IMAGE=${PYTHON_IMAGE:-python:3.11-slim}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
PUBLISH_API=127.0.0.1:$(free_port) # the same when its container is made anew
export PUBLISH_API PUBLISH_FLOWER=127.0.0.1: # any free port
PROCESSES="cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'" # what they were started with
parts=("$@")
[ $# -gt 0 ] || parts=(compose all_in_one as_a_model_container seed_block)
figures=()
api=http://$PUBLISH_API old_job='' api_key=''
own_engine='' own_container='' seed_folder='' had_models='' load='' load_log=''
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
    -f tests/containers/seed.yml -f tests/containers/seed_auth.yml "$@"
}
logs_and_fail() { # command that prints logs..., message last
  "${@:1:$#-1}" || :
  fail "${@: -1}"
}

cleanup() {
  local code=$?
  set +e # the rest is removed even where a part fails
  [ -n "$load" ] && kill -KILL "$load" 2>/dev/null
  [ -n "$load_log" ] && rm -f "$load_log"
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

# A folder of pip's own configuration that holds a torch wheel for the CPU: pip would take that one, so shall the builds.
wheels() {
  local folder
  for folder in ${PIP_FIND_LINKS:-} $(python3 -m pip config get global.find-links 2>/dev/null || :); do
    compgen -G "${folder#file://}/torch-*+cpu-*.whl" >/dev/null || continue
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
  settings
  bills_of_materials
  same_again
  before_passwords
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
  ask "$api" --ended "$old_job" || fail "what was accepted before the update is gone"
  FLOWER_PASSWORD=$(stack exec -T flower cat /run/secrets/flower/password) \
    ask "$api" --workers $WORKERS --flower "http://$(stack port flower 5555)" ||
    logs_and_fail stack logs --no-color --tail 100 "an answer was wrong"
  hardened
  while read -r line; do
    figures+=("memory of $line")
  done < <(stack ps -q | xargs docker stats --no-stream --format '{{.Name}}: {{.MemUsage}}')
  hardship
  providers
  keys_on
  no_leaks
  step "docker compose down"
  start=$SECONDS
  stack down --volumes --timeout 60
  figures+=("down: $((SECONDS - start)) s")
}

# A deployment whose Redis has no password yet, with a job in its volume: what `up` then updates.
before_passwords() {
  step "a deployment of before the passwords accepts a job"
  local with=("${files[@]}")
  files+=(-f tests/containers/without_passwords.yml)
  stack up --detach --wait --wait-timeout $TIMEOUT api ||
    logs_and_fail stack logs --no-color --tail 100 "the old deployment did not become healthy"
  [ "$(stack exec -T redis redis-cli ping)" = PONG ] || fail "that Redis was to be open"
  old_job=$(ask "$api" --submit)
  files=("${with[@]}")
}

# Not what the files say, but what runs.
hardened() {
  step "no root, no capabilities, nothing to write to"
  local container check='
    grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/1/status && grep -q "^CapBnd:[[:space:]]*0*$" /proc/1/status &&
    ! grep -q "^Uid:[[:space:]]*0[[:space:]]" /proc/1/status && grep -Eq "^[^ ]+ / [^ ]+ ro," /proc/mounts'
  for container in $(stack ps -q); do
    docker exec "$container" sh -c "$check" || fail "not hardened: $(docker inspect -f '{{.Name}}' "$container")"
  done
  stack run --rm --no-deps --entrypoint sh secrets -c "$check" || fail "not hardened: secrets"
  [ "$(docker network inspect -f '{{.Internal}}' "${PROJECT}_queue")" = true ] || fail "the queue's network leads out"
  [[ $(stack exec -T redis redis-cli ping) == NOAUTH* ]] || fail "Redis lets everybody in"
}

# The passwords stand in no image, container, command line, environment or log.
no_leaks() {
  step "looking for the passwords"
  local told service
  told=$(mktemp)
  {
    stack logs --no-color --no-log-prefix
    stack ps --all -q | xargs docker inspect
    for service in api worker flower; do
      docker image inspect "ml-service-$service"
      docker history --no-trunc "ml-service-$service"
    done
    for service in redis api worker flower; do
      stack exec -T "$service" sh -c "$PROCESSES"
    done
  } >"$told"
  stack exec -T flower cat /run/secrets/{redis,flower}/password >"$told.secrets"
  [ "$(grep -cE '^.{43}$' "$told.secrets")" = 2 ] || fail "two passwords were to be made"
  echo "$api_key" >>"$told.secrets"
  grep -q worker_ready "$told" && grep -q FLOWER_PASSWORD_FILE= "$told" || fail "nothing was looked at"
  compare "$told"
}

compare() { # file with all that was told, beside it the secrets
  if grep -qFf "$1.secrets" "$1"; then fail "a password or key stands where anybody may see it"; fi
  echo "  in none of $(wc -l <"$1") lines"
  rm "$1" "$1.secrets"
}

# A model that a provider runs, by the worker that has no torch.
providers() {
  step "docker compose --profile providers up"
  local with=("${files[@]}")
  files+=(-f tests/containers/providers.yml --profile providers)
  stack up --build --detach --wait --wait-timeout $TIMEOUT providers ||
    logs_and_fail stack logs --no-color --tail 100 providers "it did not become healthy"
  curl -fsS --retry 30 --retry-all-errors --retry-delay 1 "$api/inference" \
    -d '{"model_type": "cloud", "data": {"text": "hello"}}' | grep -q '"embedding"' ||
    logs_and_fail stack logs --no-color --tail 100 providers "the provider's answer did not come through"
  hardened
  stack rm --stop --force providers
  files=("${with[@]}")
}

keys_on() {
  step "ML_AUTH=on"
  api_key=$(stack run --rm -T api python -m api keys create --name test --scope admin | awk '$1 == "secret" {print $2}')
  [ -n "$api_key" ] || fail "no key was made"
  ML_AUTH=on stack up --detach --wait --no-deps api ||
    logs_and_fail stack logs --no-color --tail 100 api "with keys on it did not become healthy"
  API_KEY=$api_key ask "$api" --keys || logs_and_fail stack logs --no-color --tail 100 api "keys do not hold"
}

# What .env.example says is what holds without it, and each profile can be read.
settings() {
  step "the profiles, and .env.example"
  local without with
  without=$(stack config) with=$(docker compose --project-name "$PROJECT" --env-file .env.example "${files[@]}" config)
  [ "$without" = "$with" ] || fail "a copy of .env.example changes something: $(diff <(echo "$without") <(echo "$with"))"
  [ "$(stack --profile cpu config --services | sort)" = "$(stack config --services | sort)" ] || fail "cpu is the default"
  [ "$(comm -13 <(stack config --services | sort) <(stack --profile gpu config --services | sort))" = worker-gpu ] ||
    fail "the profile gpu adds one service"
}

# Each image lists the packages that are in it, and no others.
bills_of_materials() {
  step "what is in the images"
  local service
  for service in api flower worker; do
    docker run --rm --interactive --network none --entrypoint python "ml-service-$service" - \
      "$([ $service = worker ] && echo with || echo without)" <tests/containers/check_sbom.py
  done
}

# The same lock and code give the same files.
same_again() {
  step "building the API's image once more, without its cache"
  local first second
  docker build -f Dockerfile.api --build-arg "BASE=$BASE_IMAGE" --no-cache-filter api-packages,api -t "$PROJECT-again" .
  first=$(files_of ml-service-api) second=$(files_of "$PROJECT-again")
  docker image rm "$PROJECT-again" >/dev/null
  [ "$(wc -l <<<"$first")" -gt 1000 ] || fail "nothing was looked at"
  [ "$first" = "$second" ] || fail "other files: $(diff <(echo "$first") <(echo "$second") | head)"
}

files_of() { # image: its packages and code, with digests
  docker run --rm --network none --entrypoint sh "$1" -c 'find /opt/venv /app -type f -print0 | sort -z | xargs -0 sha256sum'
}

# What was accepted ends well whatever happens to the containers.
hardship() {
  step "killing a worker's process at work"
  survives in_worker KILL
  started_again 1
  step "a worker that is stuck: nothing but its health check can tell"
  survives in_worker STOP
  started_again 2
  step "restarting Redis"
  survives stack restart redis
  step "a new password for Redis"
  stack run --rm secrets renew redis
  survives stack up --detach --wait --force-recreate --no-build --scale worker=$WORKERS
  step "killing a worker's container"
  survives killed
  step "one worker, three, one"
  workers 1
  survives --ready scaled
  step "a new image of the worker, one after the other"
  workers $WORKERS
  survives --ready replaced
}

in_worker() { # signal for its process, with which the container's init ends too
  stack exec -T --index 1 worker sh -c "kill -$1 \$(cat /proc/1/task/1/children)"
}

# Docker does not start again what was killed from outside.
killed() {
  docker kill "$(stack ps --quiet worker | head -n 1)" >/dev/null
  workers $WORKERS
}

workers() { # how many: those that are there stay as they are
  stack up --detach --wait --wait-timeout $TIMEOUT --no-deps --no-recreate --no-build --scale worker="$1" worker
  [ "$(stack ps worker --format '{{.Health}}' | grep -cx healthy)" = "$1" ] || fail "there are not $1 healthy workers"
}

scaled() {
  workers 3
  local start=$SECONDS
  until grep -q '^worker 3:' "$load_log"; do
    [ $((SECONDS - start)) -lt 60 ] || fail "only these have answered: $(grep '^worker' "$load_log")"
    sleep 0.2
  done
  workers 1
}

# As docs/containers.md tells: the new come beside the old, which then finish what they hold.
replaced() {
  local old new
  old=$(stack ps --quiet worker)
  REVISION=second stack build worker
  workers $((2 * WORKERS))
  # shellcheck disable=SC2086 # several
  docker stop $old >/dev/null
  for container in $old; do
    [ "$(docker inspect -f '{{.State.ExitCode}}' "$container")" = 0 ] || fail "a worker did not stop cleanly"
  done
  # shellcheck disable=SC2086
  docker rm $old >/dev/null
  new=$(stack ps --quiet worker | xargs docker inspect -f '{{index .Config.Labels "org.opencontainers.image.revision"}}')
  [ "$new" = "$(yes second | head -n $WORKERS)" ] || fail "not all workers have the new image: $new"
}

started_again() { # how often by now
  local start=$SECONDS
  until [ "$(docker inspect -f '{{.RestartCount}}' "$PROJECT-worker-1")" = "$1" ] &&
    [ "$(stack ps worker --format '{{.Health}}' | grep -cx healthy)" = $WORKERS ]; do
    [ $((SECONDS - start)) -lt 60 ] || logs_and_fail stack logs --no-color --tail 50 worker "it was not started again"
    sleep 0.5
  done
}

survives() { # [--ready], what is done meanwhile
  local options=() start=$SECONDS
  [ "$1" = --ready ] && { options=(--ready); shift; }
  load_log=$(mktemp)
  python3 tests/containers/load.py "$api" "${options[@]}" >"$load_log" 2>&1 &
  load=$!
  until grep -q '^loaded' "$load_log"; do
    kill -0 $load 2>/dev/null && [ $((SECONDS - start)) -lt 120 ] || logs_and_fail cat "$load_log" "there is no load"
    sleep 0.2
  done
  "$@"
  kill -TERM $load
  wait $load || { cat "$load_log"; logs_and_fail stack logs --no-color --tail 100 "accepted work was lost"; }
  load=''
  tail -n 1 "$load_log"
  rm "$load_log"
}

all_in_one() {
  docker container inspect ml-service >/dev/null 2>&1 && fail "a container named ml-service is there; remove it first"
  port_free 8001 || fail "port 8001 is taken"
  local start=$SECONDS
  step "docker build -t ml-service:latest ."
  docker build --build-arg "BASE=$BASE_IMAGE" --build-arg "TORCH=${TORCH:-cuda}" "${context[@]}" -t ml-service:latest .
  docker run --rm --interactive --network none --entrypoint python ml-service:latest - with <tests/containers/check_sbom.py
  figures+=("build of the all-in-one image: $((SECONDS - start)) s")
  start=$SECONDS
  step "docker run -d --name ml-service -p 8001:8001 -e MODEL_CACHE_DIR=/app/models ml-service:latest"
  own_container=yes
  docker run -d --name ml-service --read-only --tmpfs /tmp --cap-drop ALL -p 8001:8001 \
    -e MODEL_CACHE_DIR=/app/models -v /app/data -v /app/.cache -v /app/.locks ml-service:latest
  first_key
  healthy ml-service || logs_and_fail docker logs --tail 100 ml-service "the container did not become healthy"
  API_KEY=$api_key ask http://127.0.0.1:8001 --keys || logs_and_fail docker logs --tail 100 ml-service "keys do not hold"
  API_KEY=$api_key ask http://127.0.0.1:8001 || logs_and_fail docker logs --tail 100 ml-service "an answer was wrong"
  no_leaks_alone
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

# It is published, so it waits for a key, and tells the command.
first_key() {
  local start=$SECONDS
  until docker logs ml-service 2>&1 | grep -q "python -m api keys create"; do
    [ $((SECONDS - start)) -lt $TIMEOUT ] || logs_and_fail docker logs --tail 100 ml-service "it does not ask for a key"
    sleep 0.5
  done
  api_key=$(docker exec ml-service python -m api keys create --name test --scope admin | awk '$1 == "secret" {print $2}')
  [ -n "$api_key" ] || fail "no key was made"
}

no_leaks_alone() {
  local told
  told=$(mktemp)
  { docker logs ml-service && docker inspect ml-service && docker exec ml-service sh -c "$PROCESSES"; } >"$told" 2>&1
  docker exec ml-service sh -c 'cat /app/data/secrets/*/password' >"$told.secrets"
  echo "$api_key" >>"$told.secrets"
  [ "$(wc -l <"$told.secrets")" = 3 ] && grep -q worker_ready "$told" || fail "nothing was looked at"
  compare "$told"
}

# As SageMaker and Vertex AI start it.
as_a_model_container() {
  step "docker run ml-service:latest serve"
  local start=$SECONDS at
  own_container=yes
  docker run -d --name ml-service --read-only --tmpfs /tmp --cap-drop ALL -p 127.0.0.1::8080 \
    -v /app/data -v /app/.cache -v /app/.locks ml-service:latest serve
  at=http://$(docker port ml-service 8080 | head -n 1)
  until curl -fsS -o /dev/null "$at/ping" 2>/dev/null; do
    [ $((SECONDS - start)) -lt $TIMEOUT ] || logs_and_fail docker logs --tail 100 ml-service "/ping is not 200"
    sleep 0.5
  done
  figures+=("serve: run to /ping 200: $((SECONDS - start)) s")
  curl -fsS "$at/invocations" -d '{"model_type": "bert", "data": {"text": "hello"}}' | grep -q '"embedding"' ||
    logs_and_fail docker logs --tail 100 ml-service "/invocations gave no embedding"
  docker stop --time 60 ml-service >/dev/null
  [ "$(docker inspect -f '{{.State.ExitCode}}' ml-service)" = 0 ] ||
    logs_and_fail docker logs --tail 50 ml-service "it did not stop cleanly"
  docker rm -v ml-service >/dev/null
  own_container=''
}

seed_block() {
  step "the naive service's compose block, and ML_AUTH=off"
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
  export TORCH=cpu
elif [ "${TORCH:-cuda}" = cuda ]; then
  echo "compose-test: CUDA's torch is taken (gigabytes); TORCH=cpu with TORCH_INDEX_URL takes another"
fi
[ -n "${TORCH_INDEX_URL:-}" ] && context+=(--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL")
for part in "${parts[@]}"; do $part; done
step "figures"
docker image ls --format '{{.Repository}} {{.Size}}' |
  awk '/^(ml-service(-api|-worker|-flower|-providers)?) / {print "  image " $1 ": " $2}'
printf '  %s\n' "${figures[@]}"
echo "compose-test: passed"
