# `make demo` and `make test` need Python 3.10+ and make, nothing else: all the rest goes into the folder $(VENV).
# CPU=1 installs PyTorch without its CUDA libraries, from CPU_INDEX where that can be reached.
PYTHON ?= python3
VENV ?= .venv
VENV_CLIENTS ?= .venv-clients
DEMO_EPOCHS ?= 30
PYTEST_ARGS ?=
CPU ?=
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin

.PHONY: demo test test-slow test-all parity fuzz kill installed clients lint types types-baseline docs docs-options format clean

FUZZ_SECONDS ?= 600  # of each reader
DOCS_VENV ?= .venv-docs

demo: $(VENV)/.installed
	$(BIN)/python train.py --data data/demo.yaml --cfg models/yolov5n-swinv2.yaml --weights '' --img 160 --batch-size 8 \
	  --hyp data/hyps/hyp.demo.yaml --epochs $(DEMO_EPOCHS) --name demo
	@best=$$(ls -t runs/train/demo*/weights/best.pt | head -n 1); set -- data/demo/images/val/*; \
	$(BIN)/python detect.py --weights "$$best" --source "$$1" "$$2" --img 160 --conf 0.45 --name demo --exist-ok && \
	printf '%s\n' '' 'Two images with what was found drawn in:' "  runs/detect/demo/$${1##*/}" "  runs/detect/demo/$${2##*/}" \
	  'To go on by hand:' '  . $(BIN)/activate'

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

installed: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/installed.py

# Programs of others around this one: docs/clients.md. PyTorch and the rest come from $(VENV).
clients: $(VENV_CLIENTS)/.installed
	NODE_MODULES=$(VENV_CLIENTS)/node_modules $(VENV_CLIENTS)/bin/python -m tests.clients.table

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/test_imports.py
	$(BIN)/codespell
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

# The pages of docs/ as a site, in the folder `site`; a link that leads nowhere is an error.
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict --quiet
	@echo 'The pages are in site/index.html'

$(DOCS_VENV)/.installed: requirements-docs.txt
	@$(DOCS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-docs.txt
	@touch $@

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-clients .venv-docs site .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make the second call fast; a changed requirements file installs again.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	  sys.exit(None if sys.version_info >= (3, 10) else f"Python {v} is too old: make PYTHON=/path/to/python3.10-or-newer")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo 'No virtual environment: run `apt install python3-venv`, or `virtualenv $(VENV)`, and make again.' >&2; exit 1; }
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then :; \
	elif [ -z "$(CPU)" ]; then \
	  echo 'PyTorch from PyPI has its CUDA libraries: $(VENV) will take 6.2 GB on Linux, 4.6 GB of it for them.'; \
	  echo 'Ctrl-C and `make CPU=1 ...` if this machine has no GPU.'; \
	elif grep '^torch' requirements.txt > $(VENV)/torch.txt && \
	  $(BIN)/python -m pip install --disable-pip-version-check --index-url $(CPU_INDEX) -r $(VENV)/torch.txt; then :; \
	else \
	  echo '$(CPU_INDEX) cannot be used: PyTorch comes from PyPI, 6.2 GB with its CUDA libraries.'; \
	fi
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

CLIENTS := tests/clients/requirements
PIP_CLIENTS := $(VENV_CLIENTS)/bin/python -m pip install --disable-pip-version-check

$(VENV_CLIENTS)/.installed: $(CLIENTS).txt $(CLIENTS)-alone.txt $(VENV)/.installed-dev
	$(BIN)/python -m venv $(VENV_CLIENTS)
	site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	  $(BIN)/python -c "$$site" >"$$($(VENV_CLIENTS)/bin/python -c "$$site")/clone.pth"
	$(BIN)/python -m pip freeze >$(VENV_CLIENTS)/versions.txt
	$(PIP_CLIENTS) -c $(VENV_CLIENTS)/versions.txt -r $(CLIENTS).txt
	$(PIP_CLIENTS) --no-deps -r $(CLIENTS)-alone.txt
	@! $(VENV_CLIENTS)/bin/python -m pip freeze | grep -iE '^(yolov5|ultralytics)'  # never
	-npm install --ignore-scripts --no-audit --no-fund --prefix $(VENV_CLIENTS) onnxruntime-node onnxruntime-web
	@touch $@
