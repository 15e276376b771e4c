# What people and continuous integration call. `make demo` is the place to start.
SHELL := /bin/bash
CARGO := cargo
PACKAGES := bubblewrap python3 nodejs build-essential curl

.PHONY: setup build demo serve test check bench soak fmt

setup: ## Installs what is missing from the system (Debian, Ubuntu); quiet when all is there.
	@./scripts/setup $(PACKAGES)

build: setup ## Builds the release binary: target/release/sandbox-executor
	@$(CARGO) build --release --quiet

check: setup ## Format and lints.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

fmt:
	$(CARGO) fmt --all

demo: build ## Starts the service, runs examples, prints request and answer of each, stops it.
	@./scripts/demo

serve: build ## Leaves the service running on http://127.0.0.1:8080
	@exec ./target/release/sandbox-executor serve

test: build ## All tests: units, then the built binary as a black box.
	$(CARGO) test -p sandbox -p runtime -p executor
	NODE=$(shell command -v node || command -v nodejs) /usr/bin/python3 crates/runtime/tests/javascript_bootstrap.py
	$(CARGO) test -p conformance
