# The commands of a developer; `make help` lists them.
# The first target that needs Python creates .venv; it is updated only when requirements/dev.txt changes.
# `PYTHON=python3.13 make test` uses that Python, in an environment of its own: .venv-3.13.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PYTHON
VENV ?= .venv$(if $(PYTHON),-$(shell PYTHON='$(PYTHON)' requirements/find-python --version 2>/dev/null))
# Looked up once.
VENV := $(VENV)
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check --no-input install -qq --require-hashes
PIN := CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --quiet $(if $(UPGRADE),--upgrade) \
	--generate-hashes --no-strip-extras --allow-unsafe --no-emit-options --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links

PYTEST := $(PY) -m pytest --instafail  # a failure is shown when it happens
# A process for each core, up to four. The files of tests are independent, the tests of one file are
# not. Without reordering, the files are run in the order of tests/conftest.py, the quick ones first.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BROWSER_TESTS := tests/browser
BENCH_NODE := benchmarks/node

.PHONY: help run docs test test-long test-all coverage test-loops test-lowest breaks lint format types dist screenshots bench bench-micro bench-scale venv node lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: venv  ## serve the web app on 127.0.0.1:8080 with its own MongoDB; the data stays in .dev/
	@$(PY) -m webapp --dev

test: venv  ## run the tests, in about three minutes on two cores; the quick ones come first
	$(PYTEST) $(SIDE_BY_SIDE) -m "not long" $(ARGS)

coverage: venv  ## do the same and fail under 100 % (storage) and 95 % (webapp) branch coverage
	$(PY) -m coverage erase
	$(PYTEST) $(SIDE_BY_SIDE) -m "not long" --cov --cov-report= $(ARGS)
	$(PY) -m coverage report --include 'storage/*' --fail-under 100
	$(PY) -m coverage report --include 'webapp/*' --fail-under 95

# The tests in ALONE are run one after another: they freeze servers and measure time, which other tests
# would disturb. What ARGS selects is run one after another too.
ALONE := tests/faults tests/webapp
test-long: venv node  ## run the long tests: browser, nginx, wheels, servers broken on purpose (FULL=1: the longest too)
ifdef ARGS
	$(PYTEST) -m long $(ARGS)
else
	$(PYTEST) $(SIDE_BY_SIDE) -m long $(addprefix --ignore ,$(ALONE))
	$(PYTEST) -m long $(ALONE)
endif

test-all: coverage test-long  ## run every test, each once, and check the coverage

test-loops: venv  ## run tests of storage with uvloop, and with eager tasks where Python has them
	@for loop in $$($(PY) -c 'import sys; print("uvloop", "eager" * (sys.version_info >= (3, 12)))'); do \
		echo "With --loop $$loop"; \
		$(PYTEST) $(SIDE_BY_SIDE) -m "not long" --loop $$loop $(or $(ARGS),tests/storage) || exit 1; \
	done

test-lowest: requirements/lowest.txt requirements/dev.txt  ## run the tests with the lowest versions that pyproject.toml promises
	@$(MAKE) VENV=.venv-lowest venv
	.venv-lowest/bin/python -m pip --disable-pip-version-check install -qq --require-hashes -r requirements/lowest.txt
	.venv-lowest/bin/python -m pytest $(SIDE_BY_SIDE) -m "not long" $(ARGS)

breaks: venv  ## break storage at 150 random places, and see whether the tests notice (ARGS='--seed 1'); takes an hour
	$(PY) -m tests.breaks $(ARGS)

lint: venv  ## check style, docstrings, format and the imports between modules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m pre_commit validate-config .pre-commit-config.yaml

format: venv  ## format the code, and fix what ruff can fix by itself
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: venv  ## check the types of storage and webapp
	$(PY) -m mypy

docs: venv  ## build the site from docs/ into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

dist: $(VENV)/.release-is-installed  ## build the wheel and the sdist of the last commit into dist/, and check them
	rm -rf dist build/dist && mkdir -p build/dist
	git archive HEAD | tar -x -C build/dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(PY) -m build --outdir dist build/dist
	$(PY) -m twine check --strict dist/*

screenshots: venv  ## make the screenshots of README and docs with Chromium; look at them before you commit
	$(PY) -m tests.browser.screenshots

bench: venv node-bench  ## compare with other session storages (QUICK=1: a short run) and write docs/benchmarks.*
	$(PY) -m benchmarks $(if $(QUICK),--quick) $(ARGS)

bench-micro: venv  ## measure the CPU time of one load and one save, without a server
	$(PY) -W ignore -m benchmarks.micro

bench-scale: venv  ## measure a request as the collection grows to 10^6 sessions (ARGS='--largest 7': 10^7)
	$(PY) -m benchmarks.scale $(ARGS)

venv: $(VENV)/.is-installed  ## create or update the virtual environment

# The interpreter is a prerequisite: when the system's Python is upgraded or removed, the environment is created again.
$(PY):
	@python=$$(requirements/find-python) && echo "Creating $(VENV) with $$python" && "$$python" -m venv --clear "$(VENV)"

$(VENV)/.is-installed: requirements/dev.txt $(PY)
	@echo "Installing the packages of requirements/dev.txt (about a minute, only when they change)"
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

$(VENV)/.release-is-installed: requirements/release.txt $(VENV)/.is-installed
	@$(PIP_INSTALL) -r requirements/release.txt
	@touch $@

# Without npm, the tests that need its packages are skipped with a message. CI must have npm.
node: $(if $(wildcard $(BROWSER_TESTS)/package-lock.json),$(BROWSER_TESTS)/node_modules/.package-lock.json)  ## install the npm packages of the browser tests
node-bench: $(if $(wildcard $(BENCH_NODE)/package-lock.json),$(BENCH_NODE)/node_modules/.package-lock.json)
.PHONY: node-bench

%/node_modules/.package-lock.json: %/package-lock.json
	@if command -v npm >/dev/null; then \
		cd $* && npm ci --silent --no-audit --no-fund && touch node_modules/.package-lock.json; \
	elif [ "$${CI:-}" = true ]; then \
		echo "npm is missing; CI needs it for $*" >&2; exit 1; \
	else \
		echo "npm is missing: tests that need the packages of $* are skipped"; \
	fi

lock: venv  ## pin what pyproject.toml names, with hashes and without an index (UPGRADE=1: the newest versions)
	@$(PY) -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11) and "the pins are for Python 3.11 and newer: PYTHON=python3.11 make lock")'
	@mkdir -p build && for group in webapp dev release lowest; do \
		$(PY) -m dependency_groups --output build/$$group.in $$group || exit 1; \
	done
	@$(PIN) --output-file requirements.txt pyproject.toml build/webapp.in
	@$(PIN) -c requirements.txt --output-file requirements/dev.txt pyproject.toml build/webapp.in build/dev.in
	@$(PIN) -c requirements/dev.txt --output-file requirements/release.txt build/release.in
	@$(PIN) --output-file requirements/lowest.txt build/lowest.in

clean:  ## remove what the targets created, but not the development data in .dev
	rm -rf $(VENV) .venv .venv-* .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site *.egg-info
	rm -rf $(BROWSER_TESTS)/node_modules $(BENCH_NODE)/node_modules
