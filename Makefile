# Every target sets up what it needs; nothing is done twice. Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
FUZZ_SECONDS ?= 600
SEEDS ?= 1..100
SOAK_SECONDS ?= 600
.DEFAULT_GOAL := help
.PHONY: help setup run test test-long simulate soak check gen lock bench bench-quick fuzz sbom audit clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/ready ## make .venv with the project and all extras

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "anlyt needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## the service with embedded servers, sample history and live traffic
	$(BIN)/anlyt up --demo

test: setup ## all tests that fit in some minutes
	$(BIN)/python -m pytest -m "not long"

test-long: setup ## the tests that take longer
	$(BIN)/python -m pytest -m long

simulate: setup ## runs under faults drawn from seeds: make simulate SEEDS=1..1000
	nice -n 19 $(BIN)/python tests/simulator.py --seeds $(SEEDS)

soak: setup ## hours of mixed load in SOAK_SECONDS (600): memory, files, sessions and tables must not grow
	$(BIN)/python tests/soak.py --seconds $(SOAK_SECONDS)

check: setup ## format, lint, types, imports, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/describe.py --check

gen: setup ## write what is generated from sql/schema.sql, the settings, the routes and the events
	$(BIN)/python tools/generate.py
	$(BIN)/python tools/describe.py

bench: setup ## measure everything, print tables, write JSON
	$(BIN)/python bench/run.py

bench-quick: setup ## less of it, and small, in a minute, to see that it works
	$(BIN)/python bench/run.py --quick --json bench/results/quick.json

fuzz: setup ## a coverage-guided fuzzer on the decoder, for FUZZ_SECONDS (600)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
	    --target fuzz/site -r fuzz/requirements.txt
	PYTHONPATH=fuzz/site:tests $(BIN)/python fuzz/decoder.py -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1

sbom: setup ## the bill of materials of the lock (CycloneDX) in dist/sbom.json; what is installed must be what was locked
	$(BIN)/python tools/sbom.py --check
	$(BIN)/python tools/sbom.py dist/sbom.json

audit: audit/.venv/ready ## ask OSV and npm's registry for known vulnerabilities of what is locked; needs the network
	$(PYTHON) tools/advisories.py $(ADVISORIES)

audit/.venv/ready: audit/requirements.txt
	$(PYTHON) -m venv audit/.venv
	audit/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r audit/requirements.txt
	@touch $@

lock: setup ## pin requirements.txt anew (needs uv on the PATH)
	uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --quiet --output-file requirements.txt

clean: ## remove .venv and caches
	rm -rf .venv audit/.venv .pytest_cache .ruff_cache .hypothesis
