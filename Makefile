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

test: setup
	$(CARGO) test -p sandbox -p runtime -p executor
