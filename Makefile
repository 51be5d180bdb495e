# Flair: what can be made. `make` alone tells.

.PHONY: help demo image test lint docs bench tools clean
.DEFAULT_GOAL := help

BUILT := $(or $(CARGO_TARGET_DIR),target)
BIN := $(BUILT)/debug
# Programs that need no libraries: `--target` keeps the flags away from build scripts and macros, and what is built
# for the tests stays as it is.
STATIC := x86_64-unknown-linux-gnu

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## Four people train one model together, on this machine, without a server or the internet
	cargo build --workspace --bins --locked
	$(BIN)/flair-testnet demo

image: ## The container image `flair`: both programs, statically linked, and nothing else
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(STATIC) --bins \
		-p flair-node -p flair-cli
	rm -rf $(BUILT)/image
	mkdir -p $(BUILT)/image/root/bin $(BUILT)/image/root/home/flair
	mkdir -m 1777 $(BUILT)/image/root/tmp
	install --strip $(BUILT)/$(STATIC)/release/flair $(BUILT)/$(STATIC)/release/flair-node $(BUILT)/image/root/bin/
	docker build --file Dockerfile --tag flair $(BUILT)/image

test: tools ## Everything that must hold, from a clean checkout; installs the tools it needs
	.ci/stages

lint: tools ## The checks that need no run: format, clippy, documentation, licences
	.ci/stages format lint docs licences

docs: ## The documentation of the crates, in target/doc
	cargo doc --workspace --no-deps --locked

bench: ## The figures: kernels, codecs, the network on loopback, other tools beside them
	.ci/bench

tools: ## Installs what the checks need
	.ci/tools

clean: ## Removes what was built, the tools, and the networks that `flair-testnet up` left
	cargo clean
