# `make demo` and `make test` work on a fresh clone; all set up .venv with plain pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What pip leaves to Python to compile, Python must keep: each start would take twice as long.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test long gpu fuzz browser lint docs bench clean

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "reslab needs Python 3.11 or newer; run: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'  # Python does it, where used
	@touch $@

demo: $(VENV)/ready
	$(BIN)/reslab train digits

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Three processes of a thread each, since tests of kills and clocks also wait; by file, so that what
# a file's tests share is made once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

# What the tests of pages drive; without it they are skipped. Debian's, so it needs apt and root.
browser: $(VENV)/ready
	@command -v chromium >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; }

# The tests of kills, faults and hostile inputs in their whole numbers: 216 kills, 10,000 flipped
# bits, 20,000 cases of each property and so on.
long: $(VENV)/ready
	$(BIN)/python -m pip install --quiet schemathesis
	RESLAB_LONG=1 $(BIN)/python -m pytest -s tests/test_faults.py tests/test_features.py \
	  tests/test_nothing_slips.py tests/test_properties.py tests/test_hostile_requests.py \
	  tests/test_processes.py tests/test_predicting.py tests/test_anytime.py

# The tests that need a GPU, exactness on it, and the times of cifar10-fast and of extraction.
gpu: $(VENV)/ready
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m pytest -m gpu && $(BIN)/python benchmarks/gpu.py; \
	else echo "make gpu: torch finds no CUDA device here, so nothing was run"; fi

# An hour: what reads strangers' bytes, guided by coverage.
fuzz: $(VENV)/ready
	$(BIN)/python -m pip install --quiet atheris
	for target in decoder header lists; do $(BIN)/python tests/fuzzing.py $$target || exit 1; done

docs: $(VENV)/ready
	$(BIN)/python tests/reference.py --write

# Each is a command of its own too; they need ../shared. Longer ones: python benchmarks/... --help
bench: $(VENV)/ready
	$(BIN)/python benchmarks/published.py mnist-resnet --accuracy
	$(BIN)/python benchmarks/published.py cifar10-resnet18 --steps 10
	$(BIN)/python benchmarks/fast.py mnist
	$(BIN)/python benchmarks/fast.py cifar10
	$(BIN)/python benchmarks/start_up.py --repeats 1
	$(BIN)/python benchmarks/prediction.py --photos 200
	$(BIN)/python benchmarks/transfer.py --network resnet18 --views 1 --steps 2

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
