# `make help` lists what there is. The CI calls `make test` and nothing else.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
# The bridge is built against the stable ABI: no interpreter is asked, so a change of environment rebuilds nothing.
export PYO3_NO_PYTHON := 1
export PYO3_BUILD_EXTENSION_MODULE := 1

.PHONY: help dev

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

dev: ## build the bridge (quick profile) into python/celeriac
	cargo build -p celeriac-bridge
	cp -f target/debug/lib_core.so python/celeriac/_core.abi3.so.new
	mv -f python/celeriac/_core.abi3.so.new python/celeriac/_core.abi3.so
