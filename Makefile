# What people and continuous integration call. `make demo` is the place to start.
SHELL := /bin/bash
CARGO := cargo
ADAPTERS := native bubblewrap
PACKAGES := bubblewrap uidmap python3 python3-pip nodejs build-essential curl git tzdata faketime shellcheck yamllint
DEPLOY_PACKAGES := python3-venv lintian man-db systemd

.PHONY: setup build release demo serve check lint-deploy test docs-test deploy-test deb security vm-test image-test bench fuzz soak fmt

setup: ## Installs what is missing from the system (Debian, Ubuntu); quiet when all is there.
	@./scripts/setup $(PACKAGES)

build: setup ## Builds the release binary: target/release/sandbox-executor
	@$(CARGO) build --release --quiet

release: setup ## A static, stripped binary, the same from the same commit, with checksums and a bill of materials: target/dist
	@./scripts/release

demo: build ## Starts the service, runs examples, prints request and answer of each, stops it.
	@./scripts/demo

serve: build ## Leaves the service running on http://127.0.0.1:8080
	@exec ./target/release/sandbox-executor serve

lint-deploy: setup ## Shell scripts, Dockerfiles, YAML, profiles.
	@./scripts/lint-deploy

check: setup lint-deploy ## Format and lints.
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	@if [ -d "$$(rustc --print target-libdir --target aarch64-apple-darwin)" ]; then \
	$(CARGO) clippy -p sandbox -p runtime --all-targets --quiet --target aarch64-apple-darwin -- -D warnings; \
	else echo "SKIPPED: what runs on macOS is not compiled: rustup target add aarch64-apple-darwin"; fi
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "SKIPPED: licences and bans (deny.toml) are not checked: cargo install cargo-deny"; fi

test: build ## All tests: units, the JavaScript bootstrap, the built binary as a black box, attacks on it.
	$(CARGO) test -p sandbox -p runtime -p executor
	NODE=$$(command -v node || command -v nodejs) /usr/bin/python3 -B crates/runtime/tests/javascript_bootstrap.py
	$(CARGO) test -p conformance
	$(CARGO) test -p security
	@$(MAKE) --no-print-directory docs-test
	@$(MAKE) --no-print-directory deploy-test

docs-test: build ## The documents: every code block does what its page says, links lead somewhere, translations are in step.
	@./scripts/setup $(PACKAGES) iproute2 jq procps python3-yaml sqlite3 strace
	@cd tests/docs && /usr/bin/python3 -B -m unittest -q test_check
	@/usr/bin/python3 -B tests/docs/check.py

security: build ## The attacks alone, as one table: number, name, a verdict for each adapter and mode.
	$(CARGO) test --quiet -p security --test attacks

deploy-test: build ## The Helm chart in each of its value sets, the systemd unit, the Debian package; parts come from PyPI, into target/deploy.
	@./scripts/setup $(PACKAGES) $(DEPLOY_PACKAGES)
	@./scripts/deploy-test

deb: build ## Makes the Debian package and prints its path.
	@./scripts/setup $(PACKAGES) $(DEPLOY_PACKAGES)
	@./scripts/deploy-venv
	@./scripts/deb

vm-test: ## Limits, attacks, the package under systemd, on a kernel with cgroup v2 alone, in QEMU; downloads and keeps a small Debian.
	@./scripts/setup $(PACKAGES) qemu-system-x86 mmdebstrap genext2fs e2fsprogs $(DEPLOY_PACKAGES)
	@./scripts/deploy-venv
	@./scripts/vm-test

image-test: ## The image and its slim form, built, run without rights by Podman, tested; downloads a small Debian.
	@./scripts/setup $(PACKAGES) podman buildah runc mmdebstrap netavark aardvark-dns iptables podman-compose fuse-overlayfs
	@./scripts/image-test

bench: build ## Latency, load, memory beside the floors of the same machine; some five minutes; fails on a broken promise.
	$(CARGO) run --release --quiet -p bench -- --check

fuzz: setup ## Looks for inputs that break a property, FUZZ_SECONDS (60) for each target.
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz
	./scripts/fuzz

soak: build fuzz ## What takes long: fuzzing, 20,000 executions, no growth and no slower, random system calls, 200 kills under load, clients that drip.
	@for adapter in $(ADAPTERS); do \
	ISOLATION=$$adapter $(CARGO) run --release --quiet -p bench -- soak 20000 && \
	ISOLATION=$$adapter $(CARGO) run --release --quiet -p bench -- calls || exit 1; done
	$(CARGO) test -p conformance -- --ignored

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml
