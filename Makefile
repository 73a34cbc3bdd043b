# `make up` and `make test` are all that is needed; `make help` lists the rest.
MNT ?= /mnt/dfs
DIR ?= /var/lib/dfs/local
CLUSTERS ?=
PREFIX ?= /usr/local
BIN = $(or $(CARGO_TARGET_DIR),target)/release
PROGRAMS = dfs dfs-metaserver dfs-chunkserver dfs-mount

.PHONY: help up down build install test quick check fix test-long bench
.DEFAULT_GOAL := help

help: ## This list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: ## Install packages, build, start a local federation, mount it. MNT=/mnt/dfs DIR=/var/lib/dfs/local CLUSTERS=2 ARGS='--chunkservers 4'
	@scripts/install-packages
	@scripts/build
	@$(BIN)/dfs up --dir $(DIR) --mount $(MNT) $(if $(CLUSTERS),--clusters $(CLUSTERS)) $(ARGS)

down: ## Unmount and stop it; the data stays. ARGS=--lazy takes a busy mount away, ARGS=--purge deletes the data.
	@$(if $(wildcard $(BIN)/dfs),$(BIN)/dfs,dfs) down --dir $(DIR) $(ARGS)

build: ## Release binaries of everything.
	@scripts/install-packages
	@scripts/build

install: build ## Copy the programs to PREFIX/bin (PREFIX=/usr/local).
	@install -d $(DESTDIR)$(PREFIX)/bin
	@install -m 755 $(PROGRAMS:%=$(BIN)/%) $(DESTDIR)$(PREFIX)/bin
	@echo "installed in $(DESTDIR)$(PREFIX)/bin: $(PROGRAMS)"

test: ## Everything: format, clippy, unit, model, simulation, real processes and mounts, pjdfstest, fsx.
	@scripts/test all

quick: ## The inner loop: format, clippy, unit tests.
	@scripts/test quick

test-long: ## What does not fit into `make test`.
	@scripts/test long

check: ## Format and clippy; changes nothing.
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

fix: ## Format.
	cargo fmt --all

bench: ## Measure dfs and MooseFS in one run: bench/*.json, bench/results.md. ARGS=--full for full sizes.
	@scripts/bench $(ARGS)
