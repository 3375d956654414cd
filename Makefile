# Needs make and Python 3.11 or newer, nothing else: everything is installed into .venv.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
# To compile the source anew for each process would take longer than most processes do.
unexport PYTHONDONTWRITEBYTECODE

# The first of these that is new enough makes .venv.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
# Options for the command that a target runs: make run ARGS="--port 9000", make test ARGS="-k get".
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The tests wait about a third of their time for servers: one process more than there are processors.
# In the order of their files, since the files of few tests are those of the long ones.
TESTERS := $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))
PYTEST := $(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What is encrypted in ./knownas.db, unless another file is chosen, is encrypted under this key.
MASTER_KEY := knownas.master-key

.PHONY: run
run: .venv/run.stamp ## Start the server on 127.0.0.1:8080 with ./knownas.db (ARGS="--port 9000")
	@if [ -z "$$KNOWNAS_MASTER_KEY_FILE" ]; then \
		$(BIN)/knownas master-key create --if-missing --json $(MASTER_KEY) >/dev/null && \
		export KNOWNAS_MASTER_KEY_FILE=$(MASTER_KEY); \
	fi && exec $(BIN)/knownas serve $(ARGS)

.PHONY: test
test: .venv/dev.stamp ## Run the whole test suite (ARGS="-k get")
	@$(PYTEST) $(ARGS)

.PHONY: docs
docs: .venv/dev.stamp ## Test the documentation: its links and its commands
	@$(PYTEST) tests/test_docs.py $(ARGS)

.PHONY: site
site: .venv/dev.stamp ## Make a site of the documentation in site/, to be opened or put on any web server
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs/site -d .venv/site . site
	@echo "Open site/index.html"

.PHONY: format
format: .venv/dev.stamp ## Format the code and mend what the linter can mend
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

.PHONY: lint
lint: .venv/dev.stamp ## Check the format and lint
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

.PHONY: types
types: .venv/dev.stamp .venv/bench.stamp ## Check the types
	@$(BIN)/mypy $(wildcard src tests bench)

.PHONY: layers
layers: .venv/dev.stamp ## Check that imports point inward only
	@$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint types layers test ## Everything that CI checks; the tests include those of the documentation

.PHONY: bench
bench: .venv/bench.stamp ## Measure the server beside its peers, for an hour or so (bench/README.md)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: test-cluster
test-cluster: .venv/dev.stamp ## Test failover with real nodes: needs patroni, etcd-server, pgbouncer, postgresql
	@$(BIN)/pytest -m cluster tests/cluster $(ARGS)

.PHONY: test-console
test-console: .venv/dev.stamp ## Test the console in a browser: needs Debian's chromium (ARGS="-k sqlite")
	@$(PYTEST) -m browser tests/console $(ARGS)

.PHONY: soak
soak: .venv/dev.stamp ## Run the long fault tests in full, for some hours (docs/reliability.md)
	@$(BIN)/pytest -m soak --capture=no tests/soak $(ARGS)
	@KNOWNAS_TEST_TIMES=10 $(BIN)/pytest --timeout 3600 tests/test_schemathesis.py tests/test_fast_lane.py \
		tests/storage/test_state_machine.py tests/storage/test_event_order.py

.PHONY: coverage
coverage: .venv/dev.stamp ## Measure the lines and branches of src/ that the tests run, subprocesses included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: lock
lock: .venv/run.stamp ## Lock the requirements anew; ARGS="--upgrade" takes the newest versions
	@$(PIP) install uv
	@$(COMPILE) $(ARGS) pyproject.toml requirements/run.in --output-file requirements/run.txt
	@$(COMPILE) $(ARGS) pyproject.toml requirements/dev.in --output-file requirements/dev.txt
	@$(COMPILE) $(ARGS) requirements/bench.in --output-file requirements/bench.txt

.PHONY: clean
clean: ## Remove all that make made; databases stay
	@rm -rf .venv site bench/work .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is as old as the last install, so that nothing is installed twice.

.venv/made.stamp:
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making .venv with $$($$python --version)"; \
			if $$python -m venv --clear .venv; then touch $@; exit 0; fi; \
			rm -rf .venv; \
			echo "$$python cannot make a virtual environment: on Debian and Ubuntu install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "knownas needs Python 3.11 or newer. Found:" >&2; \
	for python in $(PYTHON); do \
		version=$$($$python --version 2>&1) && echo "  $$python is $$version" >&2; \
	done; \
	echo "Install one, or name it: make run PYTHON=/path/to/python3" >&2; \
	exit 1

.venv/run.stamp: .venv/made.stamp requirements/run.txt pyproject.toml
	@echo "Installing the locked requirements into .venv"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/dev.stamp: .venv/run.stamp requirements/dev.txt
	@echo "Installing the locked development requirements into .venv"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

.venv/bench.stamp: .venv/run.stamp requirements/bench.txt
	@echo "Installing the locked requirements of the benchmark into .venv"
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@
