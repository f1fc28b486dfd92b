# Mainstem's commands. Every CI job is one of these targets.
SHELL := /bin/bash
export MAINSTEM_TOOLS ?= $(HOME)/.cache/mainstem/tools
# Outside the clone, so that the next clone does not compile RocksDB again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/mainstem/target
export MAINSTEM_PYTHON ?= $(MAINSTEM_TOOLS)/python/bin/python
export MAINSTEM_NODE_MODULES ?= $(MAINSTEM_TOOLS)/node/node_modules

# What the set-up found is read when a command starts, not when make does.
CARGO := . $(MAINSTEM_TOOLS)/build.env && cargo
# One profile serves run and test, so RocksDB is compiled once. The benches build other brokers
# and are built by `make bench` alone.
TESTED := --release --locked --workspace --exclude mainstem-benches
SECONDS_EACH ?= 30
# For `make bench-store`: --quick, --only NAME.
STORE ?=
SERVER := $(CARGO_TARGET_DIR)/release/mainstem

.PHONY: check run test sim e2e interop crash power demo golden fuzz bench bench-store bench-scale doc build setup tools
.DEFAULT_GOAL := check

check: setup ## formatting, lints and the tidy test
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(TESTED) --all-targets -- -D warnings
	$(CARGO) test $(TESTED) --test tidy

run: build ## serve with the default configuration, data in ./data
	exec $(SERVER) serve --config deploy/mainstem.toml

test: setup tools ## formatting, lints, all tests: units, real clients, crashes; says what this machine cannot try
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(TESTED) --all-targets -- -D warnings
	$(CARGO) test $(TESTED)

sim: setup ## crash the store by new seeds, on a simulated disk, until stopped; a failure prints SEED=n
	SIM_SECONDS=$${SIM_SECONDS:-1000000}; export SIM_SECONDS; $(CARGO) test --release --locked -p mainstem-broker --lib sim::seeds -- --nocapture

e2e: build ## whole servers
	$(CARGO) test $(TESTED) --test e2e

interop: build tools ## real third-party clients, and test suites that others wrote
	MAINSTEM_SUITES=all; export MAINSTEM_SUITES; $(CARGO) test $(TESTED) --test interop --test suites -- --nocapture

crash: build tools ## kill -9 under confirmed load
	$(CARGO) test $(TESTED) --test crash

power: build ## fill a disk, cut the power and fail syncs under a server, on file systems of the test's own (root, FUSE)
	MAINSTEM_POWER=1; export MAINSTEM_POWER; $(CARGO) test $(TESTED) --test power
	MAINSTEM_POWER=1; export MAINSTEM_POWER; $(CARGO) test $(TESTED) --test e2e faults::

demo: build tools ## a device, a service and a job read the same messages
	$(MAINSTEM_PYTHON) deploy/demo/demo.py $(SERVER)

golden: setup ## rewrite the inline snapshots; then read the diff
	UPDATE_EXPECT=1; export UPDATE_EXPECT; $(CARGO) test $(TESTED)

fuzz: build ## each fuzz target for SECONDS_EACH, then whole sessions of each protocol; a failure prints SESSION_SEED=n
	. $(MAINSTEM_TOOLS)/build.env && tests/fuzz/run.sh $(SECONDS_EACH)
	SESSION_SECONDS=$(SECONDS_EACH); export SESSION_SECONDS; $(CARGO) test $(TESTED) --test sessions -- --nocapture --test-threads 1

bench: build ## measure Mainstem and its peers side by side
	$(CARGO) run --release --locked -p mainstem-benches --features rumqttd -- compare --out benches/RESULTS.md

bench-store: setup ## the store by itself, beside the limits of the machine
	$(CARGO) run --release --locked -p mainstem-benches -- store --out benches/STORE.md $(STORE)

bench-scale: build ## very many MQTT clients, connected and away
	$(CARGO) run --release --locked -p mainstem-benches -- scale --out benches/SCALE.md

doc: setup ## the API pages, warnings denied
	RUSTDOCFLAGS="-D warnings"; export RUSTDOCFLAGS; $(CARGO) doc $(TESTED) --no-deps

build: setup
	$(CARGO) build $(TESTED) --bin mainstem

setup:
	@deploy/setup.sh build

tools:
	@deploy/setup.sh tools
