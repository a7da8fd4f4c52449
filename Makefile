# The commands a person has to know. `make help` lists them; the work is done by the scripts in tools/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help setup engine build image up down demo test test-unit test-network test-e2e test-vm bench lint fmt fuzz deb newest

state := $(or $(PINFOLD_STATE),.pinfold)
python := $(state)/venv/bin/python

help: ## list the commands
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing on this machine
	@tools/setup

newest: ## take the newest SDK from PyPI again
	@tools/setup --newest

engine: setup ## start a Docker engine if none answers
	@tools/engine up

build: setup ## build the static daemon and pinfold
	@tools/build

image: engine ## make the sandbox image and the one for tests
	@images/build all >/dev/null

up: build image ## run pinfold in the background; settings in .pinfold/env
	@tools/stack.py up

down: ## end it, and leave no sandbox, chain or mount behind
	@tools/stack.py down
	@tools/engine down

demo: build image ## show a sandbox's life through the official SDK, in a minute
	@tools/demo

test: ## run every test tier but the machine's
	@tools/test all

test-unit: ## run the Rust tests
	@tools/test unit

test-network: ## run the firewall's tests in this kernel; root, nothing may be up
	@tools/test network

test-e2e: ## run the end-to-end tests on the real engine; ARGS are pytest's
	@tools/test e2e $(ARGS)

test-vm: build image ## install the package on a booted machine under qemu and check it there
	@tests/vm/run

bench: build image ## print our figures beside their floors
	@$(python) bench/run.py $(ARGS)

fuzz: ## fuzz the parsers of what strangers send, a minute each; ARGS="300 sftp" for other times and one target
	@tools/fuzz $(ARGS)

deb: setup ## build the Debian package
	@tools/build --profile dist
	@PINFOLD_BINARY=$${CARGO_TARGET_DIR:-target}/dist/pinfold tools/deb

lint: ## fmt, clippy, cargo-deny, shellcheck, ruff; warnings are errors
	@tools/lint

fmt: ## format everything
	@cargo fmt --all
	@$(python) -m ruff format --quiet tools tests bench
