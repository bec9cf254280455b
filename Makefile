# make demo              train on the built-in example, leave model, data and report.html in demo/
# make demo DATA=x.h5mu  the same on your own data (OPTIONS="--max_epochs 50 ..." is handed to `splicevi train`)
# make test              the notebooks and tests/ under one pytest run
# make test JOBS=0       the same in one process, one test after the other
# make test-slow         the same with the slow cells and tests
# make docs              the pages of nbs/ as a site in _docs/site
# make format           notebooks, tests and exported modules in the one format (ruff, 120 columns)
# make test-latest       the tests with the newest versions that were tried, in .venv-latest (CONSTRAINTS=/dev/null: with today's)
# make test-floor        the tests with the lowest versions that settings.ini allows, in .venv-floor (Python 3.11)
# make bench             what it costs: the page of times and memory, and the tests that compare times (PEER=module: beside a peer)
# make test-cuda         what a graphics card is asked, and whether it answers as a processor does (needs one)
# make truth             experiments with a known answer: truth.html, and nbs/benchmarks/truth.ipynb with its full numbers
# make test-browser      the notebook views in a real browser (chromium from your system, or CHROMIUM=/path)
# Python 3.11 or newer is all this needs; PYTHON=/path/to/python3.12 chooses another one.
PYTHON  ?= python3
DATA    ?= example
OUT     ?= demo
OPTIONS ?=
VENV    ?= .venv
EXTRAS  ?= dev
TESTS   ?=
# as many test files at once as the machine has cores; a file's tests stay together, as they share trained models
JOBS    ?= logical
PYTEST  := $(VENV)/bin/python -m pytest --dist loadgroup --no-loadscope-reorder -n $(JOBS)
CONSTRAINTS ?= constraints.txt
BIN     := $(VENV)/bin
FACTS   := settings.ini setup.py pyproject.toml $(CONSTRAINTS)
# from the environment, as a constraint of pip's own configuration would go before one of the command line
PIP     := PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) $(BIN)/python -m pip install --disable-pip-version-check -q

.PHONY: demo docs test test-slow test-latest test-floor test-browser test-cuda bench truth format readme clean help
help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/splicevi train $(DATA) $(OUT) $(OPTIONS)

test: $(VENV)/.installed-dev
	$(PYTEST) $(TESTS)

# PEER=module sets another model with the same methods beside ours
bench: $(VENV)/.installed-dev
	SPLICEVI_BENCH=full SPLICEVI_PEER="$(PEER)" SPLICEVI_PAGE="$(CURDIR)/speed.html" $(BIN)/python tools/outputs.py nbs/benchmarks/speed.ipynb
	$(BIN)/python -m pytest -m timed

# published cells are fetched once; SPLICEVI_REAL_DATA is looked into first
truth: export SPLICEVI_REAL_DATA ?= $(abspath $(wildcard ../shared/data))
truth: $(VENV)/.installed-dev
	SPLICEVI_BENCH=full SPLICEVI_PAGE="$(CURDIR)/truth.html" $(BIN)/python tools/outputs.py nbs/benchmarks/truth.ipynb

# a variable that is given on the command line of make goes before these
test-latest:
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=$(or $(filter-out constraints.txt,$(CONSTRAINTS)),constraints-latest.txt) EXTRAS=dev,scvi

# the development tools need a newer fastcore, so what belongs to notebooks and formats is left to the other two
FLOOR := $(addprefix --ignore=tests/test_,notebooks.py project.py browser.py)
test-floor:
	$(MAKE) test VENV=.venv-floor CONSTRAINTS=constraints-floor.txt EXTRAS=io,notebook,image,test TESTS="$(FLOOR) tests"

test-slow: $(VENV)/.installed-dev
	SPLICEVI_SLOW=1 $(PYTEST) -m "not cuda and not browser and not timed"

test-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "browser or smoke" tests/test_browser.py tests/test_marimo.py

test-cuda: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m cuda tests/test_device.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only --select I,W,UP,PIE,C4 --quiet nbs tests tools setup.py
	$(BIN)/ruff format --quiet nbs tests tools setup.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_export
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_clean

docs: $(VENV)/.installed-docs
	$(BIN)/python tools/docs.py

readme: $(VENV)/.installed-dev
	$(BIN)/python tools/readme.py

# torch first: with the constraint pip takes this one version instead of searching for a newer one.
$(VENV)/.installed: $(FACTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "splicevi needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	-$(PIP) 'pip>=25' # older ones take minutes to compare what is installed with what is asked for
	$(PIP) $(or $(shell grep -s '^torch==' $(CONSTRAINTS)),torch)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf demo truth.html speed.html build dist _docs _proc .pytest_cache .hypothesis lightning_logs
	find splicevi -name '*.nb[ic]' -delete
