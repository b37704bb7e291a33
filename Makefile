# What a person types. Everything installs what it is missing first; `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
SETUP := deploy/setup/setup.sh
export PATH := $(CURDIR)/.tools/bin:$(PATH)
CONSOLE := manager/console
CONSOLE_SOURCES = $(shell find $(CONSOLE) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

.PHONY: help demo up test setup setup-run setup-test console build bench deb soak

help: ## this list
	@echo "Tributary: log lines from files to Kafka, counted at every hop."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  make up WATCH='/var/log/nginx/*.log' collects your own logs; the console is on http://127.0.0.1:7500"

demo: build ## write, rotate and collect logs, break the destination for ten seconds, show that the counts agree
	target/release/tributary demo

up: build ## collect your own files: make up WATCH='/var/log/nginx/*.log'
	@[ -n "$(WATCH)" ] || { echo "say which files: make up WATCH='/var/log/nginx/*.log'"; exit 2; }
	target/release/tributary up --watch "$(WATCH)"

test: ## everything that must hold before a change lands (real servers, browser, fuzzing; about half an hour)
	@tests/run

setup: setup-test ## install what is missing to build, run and test (prints it first)

setup-run:
	@$(SETUP) run

setup-test:
	@$(SETUP) test

console: setup-run $(CONSOLE)/dist/index.html ## build the web console

$(CONSOLE)/dist/index.html: $(CONSOLE_SOURCES)
	cd $(CONSOLE) && npm run build

build: console ## build the programs, optimised
	cargo build --release --locked -p tributary -p tributary-agent -p tributary-bus -p tributary-manager

bench: build setup-test ## measure speed and memory against a real Kafka, into docs/benchmarks.md
	cargo run --release --locked -p tributary-tests --bin bench -- --write docs/benchmarks.md

SEEDS ?= 200
soak: build setup-test ## kill and hang every part at SEEDS=200 random moments each, instead of 20 (some hours)
	TRIBUTARY_SEEDS=$(SEEDS) TRIBUTARY_BIN_DIR=$(CURDIR)/target/release cargo test --locked -p tributary-tests --test it -- faults --test-threads 1
	TRIBUTARY_SEEDS=$(SEEDS) TRIBUTARY_BIN_DIR=$(CURDIR)/target/release cargo test --locked -p tributary-tests --test it -- spill:: routes:: --include-ignored --test-threads 1
	TRIBUTARY_SEEDS=50 cargo test --locked -p tributary-tests --test it -- hdfs --include-ignored --test-threads 1
	TRIBUTARY_SEEDS=$$((10 * $(SEEDS))) cargo test --locked -p tributary-tests --test it -- sim::
	TRIBUTARY_SEEDS=$(SEEDS) cargo test --locked -p tributary-bus --lib after_any_damage
	for round in 1 2 3 4 5 6 7 8 9 10; do PROPTEST_RNG_SEED=$$RANDOM$$RANDOM cargo test --workspace --locked --lib || exit 1; done
	FUZZ_SEED=$$RANDOM FUZZ_SECONDS=1800 fuzz/run
	[ "$$(id -u)" != 0 ] || TRIBUTARY_BIN_DIR=$(CURDIR)/target/release tests/disks $(SEEDS)
	[ "$$(id -u)" != 0 ] || TRIBUTARY_BIN_DIR=$(CURDIR)/target/release tests/mounts

deb: ## agent and bus as Debian packages, into target/debian/
	@$(SETUP) deb
	cargo deb --locked --strip -p tributary-agent
	cargo deb --locked --strip -p tributary-bus
