# `make demo` and `make test` need Python 3.10+ and make, nothing else: all the rest goes into the folder $(VENV).
PYTHON ?= python3
VENV ?= .venv
DEMO_EPOCHS ?= 30
PYTEST_ARGS ?=

BIN := $(VENV)/bin

.PHONY: demo test test-slow test-all parity fuzz kill lint types types-baseline docs-options format clean

FUZZ_SECONDS ?= 600  # of each reader

demo: $(VENV)/.installed
	$(BIN)/python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --weights '' --img 160 --batch-size 8 \
	  --hyp data/hyps/hyp.demo.yaml --epochs $(DEMO_EPOCHS) --name demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu" -rs $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs $(PYTEST_ARGS)

parity: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --measured tests/models/test_swinv2_parity.py tests/models/weights/test_imagenet.py \
	  tests/models/test_paper_models.py tests/models/test_half_precision.py

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/properties --hypothesis-profile=long
	$(BIN)/python -m pip install --disable-pip-version-check atheris
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

kill: $(VENV)/.installed
	$(BIN)/python -m tests.killed_training

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/test_imports.py
	@$(MAKE) --no-print-directory types

# No error of types beyond tests/types-baseline.txt. With another PyTorch than the baseline's, errors that name a type of
# PyTorch do not count, as they change from release to release.
BASELINE_TORCH := 2.14

types: $(VENV)/.installed-dev
	@found=$$($(BIN)/mypy); [ $$? -le 1 ] || { echo "$$found"; exit 1; }; \
	torch=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))'); \
	case $$torch in $(BASELINE_TORCH).*) set -- ;; *) set -- --ignore '.*(Tensor|Module|Optimizer|Data|torch).*' ;; esac; \
	echo "$$found" | $(BIN)/mypy-baseline filter "$$@"

types-baseline: $(VENV)/.installed-dev
	$(BIN)/mypy | $(BIN)/mypy-baseline sync

docs-options: $(VENV)/.installed
	$(BIN)/python -m utils.options.page

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make the second call fast; a changed requirements file installs again.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	  sys.exit(None if sys.version_info >= (3, 10) else f"Python {v} is too old: make PYTHON=/path/to/python3.10-or-newer")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo 'No virtual environment: run `apt install python3-venv`, or `virtualenv $(VENV)`, and make again.' >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  echo 'opencv-python does not load here (no libGL?): replacing it with opencv-python-headless'; \
	  $(BIN)/python -m pip uninstall -q -y opencv-python && \
	  $(BIN)/python -m pip install --disable-pip-version-check --force-reinstall --no-deps \
	    'opencv-python-headless>=4.6' && \
	  $(BIN)/python -c 'import cv2'; }
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@
