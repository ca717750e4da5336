# Everything a person does with this repository. `make help` lists it; CI runs `make test` and nothing else.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter that is new enough, and not too new for the engine's pins.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PACKAGES := schemas projections streams gateway audit tidegate local
READY := .venv/ready

.PHONY: help setup demo demo-web test test-all lint format types unit simulation simulate broker-tests gateway-tests openapi scenarios chaos bench bench-check bench-baseline \
	bench-peers schemas dashboards lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the lock file (instant when nothing changed)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or name it with make PYTHON=..."; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## the main job on a real broker: a short story, a load, the audit
	$(BIN)/tidegate demo

demo-web: $(READY) ## the gateway: a page with a calendar, a document and a chat beside simulated agents
	$(BIN)/tidegate demo --web

test: lint types unit simulation bench-check broker-tests gateway-tests ## everything CI runs: the above, cost per event, tests on a real broker

test-all: test ## the same, and what takes minutes: every move in the browser, kills, fuzzing, a million events behind stalled commits
	$(BIN)/pytest tests/broker tests/gateway tests/browser -m long

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## mypy --strict, tests included
	$(BIN)/mypy

unit: $(READY) ## tests without I/O
	$(BIN)/pytest tests/unit

simulation: $(READY) ## the engine on a simulated broker: some seeds, and known mistakes that have to be found
	$(BIN)/pytest tests/simulation

SEEDS ?= 1000
simulate: $(READY) ## as many seeds as SEEDS says, on all cores, written to tests/simulation/report.json
	$(BIN)/python -m tests.simulation $(SEEDS)

broker-tests: $(READY) ## tests on a real Kafka broker, started for them
	$(BIN)/pytest tests/broker -m "not long"

gateway-tests: $(READY) ## the gateway on a real broker, its client in Node, its page in a browser
	$(BIN)/pytest tests/gateway tests/browser -m "not long"

openapi: $(READY) ## generate the OpenAPI document of the gateway
	$(BIN)/python -m gateway.openapi
	$(BIN)/python -m docs.generate

scenarios: $(READY) ## every case in memory, beside no gate and one version counter
	$(BIN)/python -m tests.scenarios

chaos: $(READY) ## kills, stalls and comings and goings, for minutes
	$(BIN)/pytest tests/chaos

bench: $(READY) ## throughput and latency, written to bench/results
	$(BIN)/python -m bench
	$(BIN)/python -m bench plots
	$(BIN)/python -m docs.generate

bench-check: $(READY) ## whether an event costs more than what was committed (in memory, 10 s)
	$(BIN)/python -m bench check

bench-baseline: $(READY) ## write what bench-check compares with
	$(BIN)/python -m bench check --write

bench-peers: $(READY) ## the gate beside what one would otherwise write or run, 5 minutes
	$(BIN)/python -m bench.peers

schemas: $(READY) ## generate the JSON Schemas and the AsyncAPI document from the models
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m docs.generate

dashboards: $(READY) ## generate Grafana's JSON from code
	$(BIN)/python -m grafana

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet

lock: ## resolve requirements.lock again, and those of the peers, with hashes, for Python 3.11 to 3.13
	$(LOCK) pyproject.toml --extra dev --output-file requirements.lock
	for peer in bench/peers/*/requirements.in; do \
		$(LOCK) $$peer --output-file $${peer%.in}.lock || exit 1; \
	done

clean: ## delete what was made here, not the user's caches
	rm -rf .venv .build bench/peers/.venvs bench/peers/streams/.classes
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
