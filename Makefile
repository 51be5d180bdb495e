# Flair: what can be made. `make` alone tells.

.PHONY: help demo test lint docs bench tools clean
.DEFAULT_GOAL := help

BIN := $(or $(CARGO_TARGET_DIR),target)/debug

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## Four people train one model together, on this machine, without a server or the internet
	cargo build --workspace --bins --locked
	$(BIN)/flair-testnet demo

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
