# Everything that is done to Ledgerline from a shell. `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# Where data, logs and built parts are; name another one in the environment, which tells the programs as well.
HOME_FOLDER := $(or $(LEDGERLINE_HOME),.ledgerline)

BIN := .venv/bin
INSTALLED := .venv/.installed
COMPILED := .venv/.compiled
INTERPRETED := .venv/.interpreted
# Sources and what they were compiled from, by setup.py's record of the last time.
COMPILED_FROM := $(shell sed 's/^[^ ]*  //' domain/ledgerline__mypyc.sha256 2>/dev/null)
REMOVE_COMPILED = find api cli db domain ops producers runtime streams tools -name '*.so' -delete; rm -rf build domain/ledgerline__mypyc.sha256

.PHONY: help install compiled interpreted parts up down status observe demo test long simulate chaos bounds lint types imports bench load dashboards components sbom scan digests check clean distclean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) $(COMPILED)  ## Make .venv with Ledgerline and its tools, and compile the hot modules

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Ledgerline needs Python 3.11 or later: name one with 'make install PYTHON=python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,embedded,import]'
	@touch $@

$(COMPILED): $(INSTALLED) setup.py $(COMPILED_FROM)
	@[ -e $(INTERPRETED) ] || { echo "Compiling, for half a minute; 'make interpreted' goes without."; \
	    COMPILE_WITH_MYPYC=1 $(BIN)/python setup.py --quiet build_ext --inplace; }
	@touch $@

# A source that is gone is no fault of the record's.
$(COMPILED_FROM):

compiled:  ## Compile the hot modules, now and with each install (the default)
	@rm -f $(INTERPRETED) $(COMPILED)
	@$(MAKE) install

interpreted: $(INSTALLED)  ## Run without compiled modules until `make compiled`: a debugger and patches reach all code
	@touch $(INTERPRETED) $(COMPILED)
	$(REMOVE_COMPILED)

parts: install  ## Fetch and build the embedded Kafka and Schema Registry, and Prometheus (once, 3 minutes)
	@$(BIN)/python -m ops.embedded '$(HOME_FOLDER)/cache'

up: install  ## Start Ledgerline in the background
	@$(BIN)/ledgerline up

down: install  ## Stop Ledgerline
	@$(BIN)/ledgerline down

status: install  ## Show what runs
	@$(BIN)/ledgerline status

observe: install  ## Watch Ledgerline with a real Prometheus: every target, rule and alert
	@$(BIN)/ledgerline observe

demo: install  ## Start everything, move some money, prove the books, stop
	@$(BIN)/ledgerline demo

test: install parts  ## Run the tests
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	    -m 'not long'

long: install parts  ## Run the tests that take minutes each: each alert fires, load, an upgrade under load, restores, standstills
	@$(BIN)/pytest -m long

simulate: install  ## Explore thousands of interleavings of posting and relay a minute (SEED=0 MINUTES=1)
	@$(BIN)/python -m tests.simulation --seed '$(or $(SEED),0)' --minutes '$(or $(MINUTES),1)'

chaos: install parts  ## Kill, freeze and cut every part of a ledger under load, and judge the result (SEED=2026 MINUTES= ONLY=name KINDS=1 JSON=file)
	@$(BIN)/python -m tools.chaos $(if $(SEED),--seed '$(SEED)') $(if $(MINUTES),--minutes '$(MINUTES)') \
	    $(foreach name,$(ONLY),--only '$(name)') $(if $(KINDS),--kinds) $(if $(JSON),--json '$(JSON)')

bounds: install parts  ## Stop Postgres and Kafka under load, and check that memory and times stay bounded (MINUTES=5)
	@BOUNDS_MINUTES='$(or $(MINUTES),5)' $(BIN)/pytest -s tests/integration/test_bounds.py

lint: install  ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install  ## Check types
	$(BIN)/mypy

imports: install  ## Check which package may import which
	$(BIN)/lint-imports

bench: install parts  ## Measure speed, memory and disk beside their limits (ONLY=part ROUNDS=5 MINUTES=1 ROWS=500000 JSON=file)
	@$(BIN)/python -m tools.bench $(foreach name,$(ONLY),--only '$(name)') $(if $(ROUNDS),--rounds '$(ROUNDS)') \
	    $(if $(MINUTES),--minutes '$(MINUTES)') $(if $(ROWS),--rows '$(ROWS)') $(if $(JSON),--json '$(JSON)')

dashboards: install  ## Write Grafana's dashboards (ops/grafana/dashboards) from their code
	@$(BIN)/python -m ops.grafana

load: install parts  ## Put a ledger under load with k6 and prove every promise (SUITE=name MINUTES= RATE= JSON=file REPORT=file)
	@$(BIN)/python -m tools.load $(foreach name,$(SUITE),--suite '$(name)') $(if $(MINUTES),--minutes '$(MINUTES)') \
	    $(if $(RATE),--rate '$(RATE)') $(if $(JSON),--json '$(JSON)') $(if $(REPORT),--report '$(REPORT)')

components: install parts  ## Write docs/COMPONENTS.md: each component, its age and its judged advisories
	@$(BIN)/python -m tools.supply --cache '$(HOME_FOLDER)/cache' components

sbom: install parts  ## Write all components as a CycloneDX bill of materials (FILE=build/sbom.cdx.json)
	@$(BIN)/python -m tools.supply --cache '$(HOME_FOLDER)/cache' sbom '$(or $(FILE),build/sbom.cdx.json)'

scan: install parts  ## Compare all components with advisories that you fetched, in OSV's format (ADVISORIES=folder or zip)
	@[ -n '$(ADVISORIES)' ] || { echo "Name the advisories: make scan ADVISORIES=folder (docs/SECURITY.md says where from)." >&2; exit 2; }
	@$(BIN)/python -m tools.supply --cache '$(HOME_FOLDER)/cache' scan '$(ADVISORIES)'

digests: install  ## Write the digest behind each image's tag; needs a registry, and crane, skopeo or docker
	@$(BIN)/python -m tools.supply --cache '$(HOME_FOLDER)/cache' digests

check: lint types imports  ## Run every check that needs no server

clean:  ## Stop Ledgerline, remove its data and the files of tools; the built parts stay
	@if [ -x $(BIN)/ledgerline ] && [ -e '$(HOME_FOLDER)/data/run.json' ]; then $(BIN)/ledgerline down; fi
	@if [ -x $(BIN)/ledgerline ] && [ -e '$(HOME_FOLDER)/demo/data/run.json' ]; then LEDGERLINE_HOME='$(HOME_FOLDER)/demo' $(BIN)/ledgerline down; fi
	rm -rf '$(HOME_FOLDER)/data' '$(HOME_FOLDER)/demo' '$(HOME_FOLDER)/bench' '$(HOME_FOLDER)/load' '$(HOME_FOLDER)/load-report.md' build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## Also remove the built parts, compiled modules and .venv
	$(REMOVE_COMPILED)
	rm -rf '$(HOME_FOLDER)/cache' .venv dist *.egg-info
