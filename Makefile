# One command for each task; `make help` lists them. You do not have to install or set up anything else by hand.

# `make PYTHON=python3.13 ...` uses a virtual environment of its own, so that you can switch back and forth.
VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
PYTHON ?= python3
ARGS =
MEMBER = 1
BIN := $(VENV)/bin

# The system packages that the tests need, on Debian and Ubuntu: real texts to send, a browser, systemd's tools, and
# the servers that the tests start.
TEST_PACKAGES := curl fortunes fortunes-de fortunes-ru fortunes-zh faketime chromium fonts-dejavu-core systemd
CLUSTER_PACKAGES := mariadb-server-core redis-server haproxy
BACKUP_PACKAGES := mariadb-client redis-tools
NODE_PACKAGES := $(if $(shell command -v node),,nodejs) $(if $(shell command -v npm),,npm)
DEB_PACKAGES := dpkg-dev debhelper dh-virtualenv python3-venv lintian git
PACKAGE_TEST_PACKAGES := debootstrap debian-archive-keyring man-db
BENCH_PACKAGES := gcc libc6-dev mariadb-server-core redis-server

# One at a time, even if another `make` runs meanwhile; what that one has just installed is not installed again.
INSTALL := @flock Makefile $(MAKE) --silent

PIP := $(BIN)/pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run client cluster test quick check format bench conformance faults road deb package-test pins clean \
    test-packages cluster-packages bench-packages deb-packages javascript

help: ## list these commands
	@sed -nE 's/^([a-z-]+):.* ## (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: ## run the server until Ctrl-C; with flags: make run ARGS="--server.ws.port=7010"
	$(INSTALL) $(VENV)/run
	@exec $(BIN)/mercury $(ARGS)

client: ## chat in a terminal: make client MEMBER=1 ARGS="--room=2333"
	$(INSTALL) $(VENV)/run
	@exec $(BIN)/mercury-client --member="$(MEMBER)" $(ARGS)

cluster: cluster-packages ## run three nodes behind HAProxy, with MariaDB and Redis, until Ctrl-C
	$(INSTALL) $(VENV)/run
	@exec $(BIN)/python tools/cluster.py

test: test-packages javascript check ## lint, types and all tests; a part: make test ARGS="tests/project/test_layers.py -x"
	$(BIN)/python -m tests $(ARGS)

quick: check ## lint, types and the quick tests; run it after each change
	$(BIN)/python -m tests --quick $(ARGS)

check: ## lint and types only
	$(INSTALL) $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: ## format the code and fix what ruff can fix
	$(INSTALL) $(VENV)/test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: build/bench/load build/bench/floor ## measure: deliveries/s, messages/s, latency, memory
	$(INSTALL) $(VENV)/run
	$(BIN)/python -m bench $(ARGS)

conformance: ## the WebSocket conformance cases, against Mercury's own protocol class
	$(INSTALL) $(VENV)/test
	$(BIN)/python -m tests.conformance $(ARGS)

faults: test-packages ## kill, freeze and cut off nodes, MariaDB and Redis, twenty times each, and check what clients got
	$(INSTALL) $(VENV)/test
	@$(BIN)/python -m tests.promises.play $(ARGS)

road: cluster-packages ## follow a message through real nodes, and write the picture and tables in docs/design.md
	$(INSTALL) $(VENV)/run
	$(BIN)/python -m tools.road
	$(BIN)/python -m mercury.reference

deb: deb-packages ## build the Debian package, into dist/
	tools/deb dist
	lintian --allow-root --fail-on error,warning dist/*.changes

package-test: deb-packages ## build the package; install, use, upgrade and purge it in a separate Debian, as root
	@tools/packages $(PACKAGE_TEST_PACKAGES)
	$(PYTHON) -m tests.package $(ARGS)

pins: ## resolve setup.py's requirements again and write them to requirements/
	tools/pins $(PYTHON)

clean: ## remove what these commands made; keep var/, which has the messages
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist ./*.egg-info tests/wamp/programs/node_modules
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

# Each of these files records that a step is done, so that the second `make run` starts at once.

$(VENV)/made: tools/venv
	@tools/venv $(PYTHON) $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/made requirements/run.txt setup.py
	@echo "Installing what the server needs into $(VENV) ..."
	@$(PIP) install --requirement requirements/run.txt
	@$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/test: $(VENV)/run requirements/test.txt
	@echo "Installing what the tests need into $(VENV) ..."
	@$(PIP) install --requirement requirements/test.txt
	@touch $@

test-packages:
	@tools/packages $(TEST_PACKAGES) $(CLUSTER_PACKAGES) $(BACKUP_PACKAGES)

# The WAMP clients for Node and browsers. Without them the tests of them are skipped.
JAVASCRIPT := tests/wamp/programs/node_modules/.package-lock.json

javascript:
	@{ tools/packages $(NODE_PACKAGES) && flock Makefile $(MAKE) --silent $(JAVASCRIPT); } || \
	    echo "The tests of JavaScript's WAMP clients are skipped: there is no npm, or it could not install them." >&2

$(JAVASCRIPT): tests/wamp/programs/package-lock.json
	@echo "Installing the WAMP clients that the tests need into $(@D) ..."
	@cd $(<D) && npm ci --loglevel=error
	@touch $@

cluster-packages:
	@tools/packages $(CLUSTER_PACKAGES)

deb-packages:
	@tools/packages $(DEB_PACKAGES)

bench-packages:
	@tools/packages $(BENCH_PACKAGES)

# The benchmark's load generator, and the floor that Mercury is compared with.
build/bench/load: bench/load.c bench/connection.c bench/dialects.c bench/wamp.c bench/check.c bench/measure.c bench/load.h
build/bench/floor: bench/floor.c
build/bench/%: | bench-packages
	@mkdir -p $(@D)
	gcc -std=gnu17 -O2 -Wall -Wextra -Werror -o $@ $(filter %.c,$^)
