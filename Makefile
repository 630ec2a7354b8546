# make run        set up, build, open the camera and the window; without them, the demo
# make test       set up (libtorch too) and run every test of the workspace
# make test-data  check the shipped models on ../shared/data (not part of the repository)
# make models     train both networks on ../shared/data, export them into models/, measure them, write their cards
# make test-vm    run mien on the cameras of a virtual machine (tests/vm)
# make soak       the whole loop on a camera that behaves badly, for MINUTES=60 (docs/endurance.md)
# make check      formatting, clippy, docs
# make bench      time mien beside onnxruntime and OpenCV; writes the tables of README.md and docs/performance.md
# make sanitize   the kernels' tests under AddressSanitizer
# make cross      build for aarch64 and run the unit tests under qemu-user

ARGS ?=
MINUTES ?= 60
DATA ?= ../shared/data
VENV ?= .venv
TORCH = 2.11.0

VENV_PATH := $(abspath $(VENV))
TORCH_LIB = $(shell $(VENV_PATH)/bin/python -c "import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path('purelib')) / 'torch' / 'lib')" 2>/dev/null)
# The workspace needs libtorch: torch-sys asks the Python of the venv where it lies.
WITH_TORCH = PATH="$(VENV_PATH)/bin:$$PATH" VIRTUAL_ENV="$(VENV_PATH)" LIBTORCH_USE_PYTORCH=1 \
	LD_LIBRARY_PATH="$(TORCH_LIB):$$LD_LIBRARY_PATH"

.PHONY: run build test test-data test-vm soak models bench check sanitize cross setup setup-train setup-cross setup-vm

run: build
	"$${CARGO_TARGET_DIR:-target}/release/mien" run --demo-save target/demo $(ARGS)

build: setup
	cargo build --release

test: setup-train
	$(WITH_TORCH) cargo test --release --workspace

test-data: setup-train
	$(WITH_TORCH) cargo build --release --workspace
	$(WITH_TORCH) "$${CARGO_TARGET_DIR:-target}/release/mien-train" measure --data "$(DATA)"

models: setup-train
	$(WITH_TORCH) cargo build --release --workspace
	$(WITH_TORCH) scripts/models "$(DATA)"

test-vm: build setup-vm
	tests/vm/run --mien "$${CARGO_TARGET_DIR:-target}/release/mien" $(CHECKS)

soak: build setup-vm
	tests/soak/run --mien "$${CARGO_TARGET_DIR:-target}/release/mien" --minutes $(MINUTES)

bench: build setup-train
	$(VENV_PATH)/bin/python -c "import cv2" 2>/dev/null || $(VENV_PATH)/bin/pip install --quiet opencv-python-headless
	$(VENV_PATH)/bin/python benches/compare.py --write --mien "$${CARGO_TARGET_DIR:-target}/release/mien"

check: setup-train
	cargo fmt --all --check
	$(WITH_TORCH) cargo clippy --release --workspace --all-targets -- -D warnings
	$(WITH_TORCH) RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

sanitize: setup
	scripts/sanitize

cross: setup-cross
	scripts/cross-test

setup:
	scripts/setup runtime

setup-train:
	scripts/setup train
	test -x $(VENV_PATH)/bin/python || python3 -m venv $(VENV_PATH)
	$(VENV_PATH)/bin/python -c "import torch, onnxruntime; assert torch.__version__.startswith('$(TORCH)')" 2>/dev/null \
		|| $(VENV_PATH)/bin/pip install --quiet --requirement train/requirements.txt

setup-cross:
	scripts/setup cross

setup-vm:
	scripts/setup vm
