# `make demo` and `make test` need nothing but Python >= 3.10 and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test slow sanitize lint format types kernels cuda bench docs docs-fast docs-check clean

# scikit-learn is there for its file of digits, which is read without importing it: it comes without
# SciPy and the rest that it requires.
DEMO = matplotlib safetensors tqdm
demo: $(VENV)/demo
	$(BIN)/fastgen demo

# One thread in each of two processes: on small tensors more of them wait for each other.
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

slow: $(VENV)/ready
	$(BIN)/pytest -q -m slow

# The extension under GCC's address, undefined-behaviour and thread sanitizers, called from Python
# with each instruction set, and the assignment solver by itself.
sanitize: $(VENV)/ready
	$(BIN)/python -m tests.sanitize
	$(BIN)/pytest -q -m slow tests/couplings/test_sanitizers.py

# Style, and that imports run down only ([tool.importlinter] in pyproject.toml).
lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

types: $(VENV)/ready
	$(BIN)/mypy

# The Triton kernels compiled ahead of time for NVIDIA and AMD GPUs, with a gate on the code.
kernels: $(VENV)/ready
	$(BIN)/python -m fastgen.kernels.aot

# The CUDA C++ kernels compiled ahead of time, where nvcc is installed; the same gate.
cuda: $(VENV)/ready
	$(BIN)/python -m fastgen.kernels.assignment.cuda_aot

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

# The site, in docs/_build/html; warnings are errors. docs-fast leaves the gallery's programs unrun.
docs: $(VENV)/ready
	FASTGEN_DOCS_JOBS=2 OMP_NUM_THREADS=1 \
		$(BIN)/python -m sphinx -j 2 -W --keep-going docs docs/_build/html

docs-fast: $(VENV)/ready
	FASTGEN_DOCS_GALLERY=0 OMP_NUM_THREADS=1 \
		$(BIN)/python -m sphinx -j 2 -W --keep-going docs docs/_build/html

# The built site in Chromium: consoles, pictures, links, narrow screens, the search, contrast.
# EVERY=4 opens a quarter of those that are made by a rule.
EVERY = 1
docs-check: $(VENV)/ready
	$(BIN)/python docs/check.py docs/_build/html --every $(EVERY)

SOURCES = pyproject.toml setup.py constraints.txt $(wildcard csrc/* csrc/*/* csrc/*/*/*)
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/demo: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable . $(DEMO)
	$(PIP) --no-deps scikit-learn
	touch $@

$(VENV)/ready: $(VENV)/demo $(SOURCES)
	# The extension is there: it was built for the demo, in place.
	FASTGEN_EXTENSION=none $(PIP) --editable '.[demo,test,docs,peers]'
	# Only parts of them are read or run, for parity tests; their requirements are many and large, and
	# a torchvision that does not fit the torch above breaks diffusers' pipelines.
	$(PIP) --no-deps azula k-diffusion torchcfm pot
	touch $@

clean:
	rm -rf $(VENV) build docs/_build docs/gallery fastgen/_C*.so
