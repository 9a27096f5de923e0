# `make help` lists what there is. The CI calls `make test` and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEV_TOOLS := pytest pytest-xdist mypy ruff import-linter maturin types-PyYAML \
	click flask pillow aiosmtpd PyYAML msgpack redis amqp gevent ephem SQLAlchemy psycopg[binary] aiosqlite \
	uvicorn starlette playwright
# The other side of the interoperability tests, apart: ours must work where it is not installed.
CELERY_VENV := .venv-celery
CELERY_TOOLS := celery[redis]==5.7.* flower==2.* flask PyYAML msgpack backports.zstd packaging ephem
# Libraries that are made for Celery, and the real Celery that they bring: nothing of ours may fall through to it.
LIBS_VENV := .venv-libs
LIBS_TOOLS := celery==5.7.* redis flask django==5.2.* django-tasks django-celery-beat django-celery-results celery-redbeat sentry-sdk \
	opentelemetry-sdk opentelemetry-instrumentation-celery prometheus_client flower==2.* backports.zstd
# Says that it goes no further than Celery 5.6, and works with 5.7.
LIBS_TOOLS_ALONE := celery-batches
# The bridge is built against the stable ABI: no interpreter is asked, so a change of environment rebuilds nothing.
export PYO3_NO_PYTHON := 1
export PYO3_BUILD_EXTENSION_MODULE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Most tests wait for processes of their own; more of them at once than there are cores. 0: no other process.
PYTEST_JOBS ?= 4
# More arguments for pytest and for `cargo test`: `make test-py PYTEST_ARGS="-k retry"`.
PYTEST_ARGS ?=
CARGO_TEST_ARGS ?=

.PHONY: help demo test dev fmt lint lint-rust lint-python test-engine test-py servers bench wheel wheel-quick clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: dev ## the Flask image service, end to end, on real pictures
	$(BIN)/python examples/flask_images/demo.py

test: ## set up what is missing, then lint and every test
	$(MAKE) lint-rust
	$(MAKE) wheel-quick  # before the others: it builds the bridge with settings of its own, once each is enough
	$(MAKE) lint-python
	$(MAKE) test-engine
	$(MAKE) test-py

dev: $(VENV)/.stamp ## build the bridge (quick profile) into python/celeriac
	cargo build -p celeriac-bridge
	@cmp -s target/debug/lib_core.so python/celeriac/_core.abi3.so || { \
	  cp -f target/debug/lib_core.so python/celeriac/_core.abi3.so.new; \
	  mv -f python/celeriac/_core.abi3.so.new python/celeriac/_core.abi3.so; }

fmt: $(VENV)/.stamp ## format everything
	cargo fmt --all
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

lint: lint-rust lint-python ## every check that runs nothing

lint-rust:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	@cargo tree -p celeriac -e normal --prefix none > target/engine-tree.txt
	@if grep '^pyo3' target/engine-tree.txt; then echo 'the engine must not depend on PyO3'; exit 1; fi

lint-python: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=python $(BIN)/lint-imports
	$(BIN)/python -m mypy.stubtest --allowlist tests/python/typing/stubtest.txt --ignore-unused-allowlist celeriac._core

test-engine: servers ## tests of the engine: no Python
	cargo test --workspace $(CARGO_TEST_ARGS)

test-py: dev servers $(CELERY_VENV)/.stamp $(LIBS_VENV)/.stamp ## tests of the Python package, and of the whole
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The tests start private servers of their own, on free ports. What a system package starts by itself is not touched:
# the policy script tells it not to.
servers: ## install Redis, RabbitMQ, PostgreSQL and Chromium where they are missing
	@missing=; \
	command -v redis-server >/dev/null || missing="$$missing redis-server redis-sentinel"; \
	test -x /usr/lib/rabbitmq/bin/rabbitmq-server || missing="$$missing rabbitmq-server"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v chromium >/dev/null || missing="$$missing chromium fonts-dejavu-core"; \
	test -z "$$missing" && exit 0; \
	echo "installing$$missing"; \
	sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	policy=/usr/sbin/policy-rc.d; made=; \
	test -e $$policy || { made=1; printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy >/dev/null; $$sudo chmod +x $$policy; }; \
	trap 'test -z "$$made" || $$sudo rm -f $$policy' EXIT; \
	$$sudo apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -q --no-install-recommends $$missing

bench: $(VENV)/.stamp ## against Celery and others on Redis and RabbitMQ, one run (builds the release profile first)
	$(BIN)/python benchmarks/run.py

wheel: $(VENV)/.stamp ## build the release wheel and try it on every Python found
	$(BIN)/python tests/python/wheel/check.py --release

wheel-quick: $(VENV)/.stamp
	$(BIN)/python tests/python/wheel/check.py

clean: ## remove what was built
	rm -rf $(VENV) $(CELERY_VENV) $(LIBS_VENV) target dist python/celeriac/_core.abi3.so examples/flask_images/out

# One environment for development: pinned tools, and the package from where it is written.
$(VENV)/.stamp: constraints.txt Makefile
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'installing the venv module of Python'; \
	  sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	  $$sudo apt-get update -q; $$sudo apt-get install -y -q python3-venv; \
	  $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --quiet --constraint constraints.txt $(DEV_TOOLS)
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "celeriac-development.pth").write_text("$(CURDIR)/python\n")'
	@printf '#!$(CURDIR)/$(BIN)/python\nimport sys\nfrom celeriac.__main__ import main\nsys.exit(main())\n' > $(BIN)/celeriac
	@chmod +x $(BIN)/celeriac
	@touch $@

$(CELERY_VENV)/.stamp: constraints.txt Makefile | $(VENV)/.stamp
	@test -x $(CELERY_VENV)/bin/pip || $(PYTHON) -m venv $(CELERY_VENV)
	$(CELERY_VENV)/bin/pip install --quiet --constraint constraints.txt $(CELERY_TOOLS)
	@touch $@

$(LIBS_VENV)/.stamp: constraints.txt Makefile | $(VENV)/.stamp
	@test -x $(LIBS_VENV)/bin/pip || $(PYTHON) -m venv $(LIBS_VENV)
	$(LIBS_VENV)/bin/pip install --quiet --constraint constraints.txt $(LIBS_TOOLS)
	$(LIBS_VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps $(LIBS_TOOLS_ALONE)
	@touch $@
