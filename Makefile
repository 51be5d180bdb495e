# Flair: what can be made. `make` alone tells.

.PHONY: help demo image wheel trainer test lint determinism docs bench bench-aggregation bench-storage bench-flower bench-python tools clean
.DEFAULT_GOAL := help

BUILT := $(or $(CARGO_TARGET_DIR),target)
BIN := $(BUILT)/debug

# The container image: its name, and the profile its programs are built with.
IMAGE := flair
PROFILE := release
# For the programs alone, whose libraries then serve static and other builds alike: nothing is compiled twice.
STATIC := -C target-feature=+crt-static

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Four people train one model together, on this machine, without a server or the internet
	cargo build --workspace --bins --locked
	$(BIN)/flair-testnet demo

image: ## The container image `flair`: both programs, statically linked, and nothing else
	cargo rustc --profile $(PROFILE) --locked -p flair-node --bin flair-node -- $(STATIC)
	cargo rustc --profile $(PROFILE) --locked -p flair-cli --bin flair -- $(STATIC)
	rm -rf $(BUILT)/image
	mkdir -p $(BUILT)/image/root/bin $(BUILT)/image/root/home/flair
	mkdir -m 1777 $(BUILT)/image/root/tmp
	cd $(BUILT)/$(PROFILE:dev=debug) && install --strip flair flair-node $(abspath $(BUILT))/image/root/bin/
	docker build --quiet --file Dockerfile --tag $(IMAGE) $(BUILT)/image
	rm -rf $(BUILT)/image

wheel: ## The Python package `flair-ml` with both programs inside, in target/wheels
	.ci/tools wheel
	cargo rustc --profile $(PROFILE) --locked -p flair-node --bin flair-node
	rm -rf target/wheels python/flair_ml.data
	mkdir -p python/flair_ml.data/scripts
	install --strip $(BUILT)/$(PROFILE:dev=debug)/flair-node python/flair_ml.data/scripts/
	cp LICENSE-MIT LICENSE-APACHE python/
	cd python && ../target/tools/bin/maturin build --profile $(PROFILE) --locked --strip --out ../target/wheels
	rm -rf python/flair_ml.data python/LICENSE-*

trainer: ## `flair train` and `flair eval`, without Python, in target/trainer; gets libtorch (0.7 GB) from PyPI's PyTorch
	.ci/tools python
	.ci/trainer build --locked --profile $(PROFILE) --bins
	@echo 'Copy them beside flair, or put them on PATH: $(BUILT)/trainer/$(PROFILE:dev=debug)/flair-{train,eval}'

test: tools ## Everything that must hold, from a clean checkout; installs the tools it needs
	.ci/stages

lint: tools ## The checks that need no run: format, clippy, documentation, licences
	.ci/stages format lint docs licences

determinism: ## The same bits for several processors, block sizes and languages; installs a cross compiler and qemu
	.ci/stages determinism

docs: ## The documentation of the crates, in target/doc
	cargo doc --workspace --no-deps --locked

bench: ## The figures: kernels, codecs, the network on loopback
	.ci/bench

bench-aggregation: ## Rules of aggregation beside Flower, numpy and torch
	.ci/bench-aggregation

bench-storage: ## What versions of a model cost, beside git-lfs, DVC, git-theta and rsync
	.ci/bench-storage

bench-flower: ## A round of Flower's with and without Flair inside
	.ci/bench-flower

bench-python: ## What Flair adds to a training in PyTorch, and a large commit beside torch.save
	.ci/bench-python

tools: ## Installs what the checks need
	.ci/tools

clean: ## Removes what was built, the tools, and the networks that `flair-testnet up` left
	cargo clean
