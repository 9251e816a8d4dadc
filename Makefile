# `make` tells what there is. Everything runs in .venv, which the first target that needs it makes.
# Variables: PYTHON (3.11 or later; default: the first found), TORCH_INDEX_URL (a pip index with the torch build you
# want: PyPI's for Linux carries CUDA and is large; PyTorch's own index of CPU builds gives a small one),
# ARGS (more arguments for up, dev, demo, test, bench, gpu's benchmark, chaos, soak), JOBS (how many processes run the tests; they mostly
# wait, so more than there are cores), SECONDS (how long `make fuzz` goes on).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX_URL ?=
ARGS ?=
JOBS ?= 3
SECONDS ?= 600

BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input

# Tests and benchmarks load what is here. (`make up` asks the hub for what models.yaml names; the demos say so themselves.)
test test-long test-clients slow console-test console-pictures openapi-test wheel-test test-redis7 monitoring-test fuzz chart-test \
gpu chaos soak bench bench-%: export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-update up dev test test-long test-clients fuzz console-test console-pictures chromium site openapi-test audit wheel-test test-redis7 slow lint types imports check format \
	bench bench-noop bench-peers bench-wake bench-batches bench-auto bench-limits bench-loss bench-failover chaos soak \
	bench-scaling bench-replicas release gpu compose-test lock chart-test alerts monitoring-test clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install everything into it

$(STAMP): pyproject.toml client/pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "make: needs Python 3.11 or later; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/a/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "[1/3] making .venv"
	@$(PYTHON) -m venv .venv
	@echo "[2/3] installing torch, the largest part"
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0 torchvision==0.28.0
	@echo "[3/3] installing the service and its tools"
	@$(PIP) -e '.[dev]' -e './client[cli]'
	@touch $@

demo: $(STAMP) ## Start everything, ask two models, show the answers, stop everything
	@$(BIN)/python -m examples.demo $(ARGS)

demo-update: $(STAMP) ## A second version comes under load, gets a tenth of the calls, then all, and goes back
	@$(BIN)/python -m examples.demo_update $(ARGS)

up: $(STAMP) ## Run the service: API on 8001, Flower on 5555; Ctrl-C stops it
	@$(BIN)/ml-service up $(ARGS)

dev: $(STAMP) ## Like up, and restart what a changed file touches
	@$(BIN)/ml-service up --reload $(ARGS)

test: $(STAMP) ## The tests of every day (under 10 minutes)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-long: $(STAMP) ## More of them: processes that die, hang and come back; many examples (about 20 minutes)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'long and not slow' $(ARGS)

CLIENTS := $(basename $(notdir $(wildcard tests/clients/requirements/*.txt)))
test-clients: $(STAMP) $(CLIENTS:%=.venv-clients/%/installed) ## The tests with other people's clients, which get virtual environments of their own
	@$(BIN)/python -m pytest -m clients tests/clients $(ARGS)

.venv-clients/%/installed: tests/clients/requirements/%.txt
	@$(PYTHON) -m venv .venv-clients/$*
	@.venv-clients/$*/bin/python -m pip install --disable-pip-version-check --no-input -q -r $<
	@touch $@

fuzz: $(STAMP) ## Hostile inputs for every decoder, for SECONDS (600) and more; fails at the first that is not refused cleanly
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

console-test: $(STAMP) chromium ## The console in a real browser, Chromium or Chrome (about 4 minutes)
	@$(BIN)/python -m pytest -m browser tests/console $(ARGS)

console-pictures: $(STAMP) chromium ## The pictures of docs/console.md, by its tests
	@mkdir -p docs/pictures
	@CONSOLE_PICTURES=docs/pictures $(BIN)/python -m pytest -m browser tests/console \
		-k 'several or an_image or while_load or shared_anew or phone' $(ARGS)

site: .venv-site/installed ## The documentation as a site, in site/; fails at a link that leads nowhere
	@NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict --quiet

.venv-site/installed: scripts/site.txt
	@$(PYTHON) -m venv .venv-site
	@.venv-site/bin/python -m pip install --disable-pip-version-check --no-input -q -r $<
	@touch $@

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		test "$$(id -u)" = 0 || { echo "these tests need a browser: sudo apt-get install chromium" >&2; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

openapi-test: $(STAMP) ## Schemathesis on a live service: every answer is the one that /openapi.json tells (about 5 minutes)
	@test -x .venv-openapi/bin/st || { $(BIN)/python -m venv .venv-openapi && \
		.venv-openapi/bin/python -m pip install --disable-pip-version-check --no-input --quiet 'schemathesis>=4.32,<5'; }
	@$(BIN)/python -m tests.contract --checks all $(ARGS)

audit: $(STAMP) ## Known vulnerabilities of what is installed, by pip-audit; fails on any
	@scripts/audit.sh $(ARGS)

slow: $(STAMP) ## The tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

wheel-test: $(STAMP) ## The client as a wheel, alone in a new environment (Python 3.10 if there is one), on a live service
	@$(BIN)/python -m scripts.wheel_test

test-redis7: $(STAMP) ## The tests that speak to a server, on Redis 7 instead of Valkey
	@scripts/redis7.sh $(ARGS)

lint: $(STAMP) ## Style and common faults
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(STAMP) ## Types, strictly; the client's also as the oldest Python that it supports has them
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 --cache-dir .mypy_cache/client -p ml_service_client

imports: $(STAMP) ## Who may import whom
	@$(BIN)/lint-imports --no-logo

check: lint types imports ## lint, types and imports

format: $(STAMP) ## Let ruff write the style
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

bench: $(STAMP) ## The figures of docs/benchmarks.md, on the CPU
	@ML_DEVICE=cpu $(BIN)/python -m benchmarks.run $(ARGS)

PEERS := $(basename $(notdir $(wildcard benchmarks/peers/requirements/*.txt)))
bench-peers: $(STAMP) $(PEERS:%=.venv-peers/%/installed) ## Its peers beside it, each in a virtual environment of its own: docs/benchmarks/peers.md (about three quarters of an hour)
	@ML_DEVICE=cpu $(BIN)/python -m benchmarks.peers $(ARGS)

.venv-peers/%/installed: benchmarks/peers/requirements/%.txt
	@echo "making .venv-peers/$*"
	@$(PYTHON) -m venv .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install --disable-pip-version-check --no-input -q \
		$(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	@.venv-peers/$*/bin/python -m pip install --disable-pip-version-check --no-input -q -r $<
	@touch $@

bench-noop: $(STAMP) ## What the plumbing costs, with a model that does nothing: docs/benchmarks/noop.md
	@$(BIN)/python -m benchmarks.noop $(ARGS)

bench-wake: $(STAMP) ## How fast idle workers wake: docs/benchmarks/wake.md
	@$(BIN)/python -m benchmarks.wake $(ARGS)

bench-batches: $(STAMP) ## How fast batches are taken in and run: docs/benchmarks/batches.md
	@$(BIN)/python -m benchmarks.batches $(ARGS)

bench-auto: $(STAMP) ## What `max_cost: auto` finds, and what int8, bfloat16 and compile are worth: docs/benchmarks/auto.md
	@ML_DEVICE=cpu $(BIN)/python -m benchmarks.auto $(ARGS)

bench-limits: $(STAMP) ## Photographs, tail, memory, growth: docs/benchmarks/limits.md (ARGS="--only memory,growth")
	@$(BIN)/python -m benchmarks.limits $(ARGS)

bench-scaling: $(STAMP) ## How many workers when, simulated over a bursty day: docs/benchmarks/scaling.md (ARGS="--parts compare")
	@ML_DEVICE=cpu $(BIN)/python -m benchmarks.scaling $(ARGS)

bench-replicas: $(STAMP) ## Jobs a second by worker and API processes, and where it bends: docs/benchmarks/replicas.md (about 12 minutes)
	@$(BIN)/python -m benchmarks.replicas $(ARGS)

bench-loss: $(STAMP) ## What stock Celery loses and we do not: docs/benchmarks/loss.md
	@$(BIN)/python -m benchmarks.stock $(ARGS)

bench-failover: $(STAMP) ## How long a failover of Redis takes under load, and what it loses: docs/benchmarks/failover.md (about 10 minutes)
	@$(BIN)/python -m tests.chaos.failover $(ARGS)

chaos: $(STAMP) ## Kill everything under load and lose nothing (about 16 minutes; ARGS="--seeds 1 --jobs 2000")
	@$(BIN)/python -m tests.chaos $(ARGS)

soak: $(STAMP) ## Many jobs, flat memory (about 5 minutes; ARGS="--jobs 20000")
	@$(BIN)/python -m tests.chaos.soak $(ARGS)

gpu: $(STAMP) ## On a GPU: the tests that need one, then its figures in docs/benchmarks.md; fails where none is
	@$(BIN)/python -m tests.gpu
	@$(BIN)/python -m pytest -m gpu
	@ML_DEVICE=cuda $(BIN)/python -m benchmarks.run $(ARGS)

compose-test: ## The containers, built and asked for real
	@scripts/compose-test.sh $(ARGS)

lock: .venv-lock/installed ## What the images install, with hashes: requirements/*.txt, after a change of pyproject.toml (ARGS="--upgrade" for newer versions)
	@.venv-lock/bin/python scripts/lock.py $(ARGS)

.venv-lock/installed:
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --disable-pip-version-check --no-input -q 'uv>=0.13,<1'
	@touch $@

chart-test: $(STAMP) .venv-chart/installed ## The Helm chart: linted, rendered, held to the schemas of Kubernetes, KEDA and the Prometheus operator
	@$(BIN)/python -m pytest -m chart tests/containers/test_chart_rendered.py $(ARGS)

.venv-chart/installed: tests/containers/chart-tools.txt
	@$(PYTHON) -m venv .venv-chart
	@.venv-chart/bin/python -m pip install --disable-pip-version-check --no-input -q -r $<
	@touch $@

release: $(STAMP) .venv-release/installed ## Prove, build, check and tag a release of main; publishes nothing (ARGS=--check: only look)
	@$(BIN)/python -m scripts.release $(ARGS)

.venv-release/installed: scripts/release-tools.txt
	@$(PYTHON) -m venv .venv-release
	@.venv-release/bin/python -m pip install --disable-pip-version-check --no-input -q -r $<
	@touch $@

alerts: ## The alert rules of deploy/prometheus, checked and tested with promtool
	@scripts/promtool.sh check config deploy/prometheus/prometheus.yml deploy/prometheus/local.yml
	@scripts/promtool.sh test rules deploy/prometheus/alerts.test.yml

monitoring-test: $(STAMP) ## A real Prometheus on a real stack: every query of the dashboard has an answer (a minute)
	@$(BIN)/python -m pytest -m slow tests/e2e/test_metrics.py $(ARGS)

clean: ## Remove .venv and what the tools left (not .ml-service, which holds accepted jobs)
	rm -rf .venv .venv-audit .venv-openapi .venv-clients .venv-peers .venv-chart .venv-release .venv-lock .venv-site site build dist *.egg-info client/*.egg-info client/build .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis demo.png demo-update.png
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
