# make run        set up, build, open the camera and the window; without them, the demo
# make test       set up (libtorch too) and run every test of the workspace
# make test-data  check the shipped models on ../shared/data (not part of the repository)
# make models     train both networks on ../shared/data, export them into models/, measure them, write their cards
# make test-vm    run mien on the cameras of a virtual machine (tests/vm)
# make soak       the whole loop on a camera that behaves badly, for MINUTES=60 (docs/endurance.md)
# make fuzz       fuzz what reads foreign bytes for MINUTES=60; TARGET=mjpeg fuzzes that alone (docs/endurance.md)
# make check      formatting, clippy, docs
# make bench      time mien beside onnxruntime and OpenCV, count its instructions on aarch64; writes the tables of README.md and
#                 docs/performance.md
# make sanitize   the kernels' tests under AddressSanitizer
# make cross      build for aarch64, run the unit tests and whole pictures under qemu-user; MACHINE=armv7 for 32 bits
# make dist       build for x86-64 and aarch64 with an old glibc: target/dist/MACHINE/mien
# make deb        pack both for Debian: target/deb/*.deb
# make deb-test   install, run and purge the package for x86-64 in a fresh Debian (as root), run the other under qemu-user

ARGS ?=
TARGET ?=
MINUTES ?= 60
MACHINE ?= aarch64
DATA ?= ../shared/data
VENV ?= .venv
TORCH = 2.11.0

VENV_PATH := $(abspath $(VENV))
TORCH_LIB = $(shell $(VENV_PATH)/bin/python -c "import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path('purelib')) / 'torch' / 'lib')" 2>/dev/null)
# The workspace needs libtorch: torch-sys asks the Python of the venv where it lies.
WITH_TORCH = PATH="$(VENV_PATH)/bin:$$PATH" VIRTUAL_ENV="$(VENV_PATH)" LIBTORCH_USE_PYTORCH=1 \
	LD_LIBRARY_PATH="$(TORCH_LIB):$$LD_LIBRARY_PATH"

.PHONY: run build test test-data test-vm soak fuzz models bench check sanitize cross dist deb deb-test
.PHONY: setup setup-train setup-cross setup-deb setup-vm setup-bench

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

# The check of the service needs root, to make a Debian.
test-vm: build setup-vm setup-deb
	scripts/deb "$${CARGO_TARGET_DIR:-target}/release/mien" target/vm
	tests/vm/run --mien "$${CARGO_TARGET_DIR:-target}/release/mien" \
		$$([ "$$(id -u)" -ne 0 ] || echo --deb target/vm/mien_*.deb) $(CHECKS)

soak: build setup-vm
	tests/soak/run --mien "$${CARGO_TARGET_DIR:-target}/release/mien" --minutes $(MINUTES)

fuzz: setup
	scripts/fuzz $$(($(MINUTES) * 60)) $(TARGET)

bench: build setup-train setup-bench
	VENV="$(VENV_PATH)" scripts/bench

check: setup-train
	cargo fmt --all --check
	$(WITH_TORCH) cargo clippy --release --workspace --all-targets -- -D warnings
	$(WITH_TORCH) RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

sanitize: setup
	scripts/sanitize

cross: setup-cross
	scripts/cross-check $(MACHINE)

dist: setup setup-cross setup-deb
	VENV="$(VENV)" scripts/dist

deb: dist
	scripts/deb target/dist/x86_64/mien
	scripts/deb target/dist/aarch64/mien

deb-test: setup-deb setup-cross
	scripts/deb-test target/deb/mien_*_amd64.deb
	scripts/deb-test target/deb/mien_*_arm64.deb

setup:
	scripts/setup runtime

setup-train:
	scripts/setup train
	test -x $(VENV_PATH)/bin/python || python3 -m venv $(VENV_PATH)
	$(VENV_PATH)/bin/python -c "import torch, onnxruntime, facenet_pytorch; assert torch.__version__.startswith('$(TORCH)')" \
		2>/dev/null || { $(VENV_PATH)/bin/pip install --quiet --requirement train/requirements.txt \
		&& $(VENV_PATH)/bin/pip install --quiet --no-deps facenet-pytorch==2.6.0; }

setup-cross:
	scripts/setup cross-$(MACHINE)

setup-deb:
	scripts/setup deb

setup-vm:
	scripts/setup vm

# Instructions are counted on aarch64 binaries where those can be built: on x86-64.
setup-bench: $(if $(filter x86_64,$(shell uname -m)),setup-cross)
	scripts/setup bench
