# `make demo` and `make test` do everything on a machine that has Python 3.10-3.13, make and a compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-browser style quality clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	# For its weights alone, which a test compares with; what it requires does not install beside the rest.
	$(BIN)/python -m pip install --quiet --no-deps resemblyzer==0.1.4
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m hf_affectcodec.demo --out demo_out

# One thread a process: the workers already fill the cores.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python -m pytest -n 2 --durations=10

test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python -m pytest -n 2 -m slow --durations=10

# The pages in Debian's chromium, one browser at a time; skipped where it is not installed.
test-browser: $(VENV)/installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python -m pytest -m browser tests/spaces --durations=5

style: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist demo_out
