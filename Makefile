# Every target prepares .venv by itself. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-slow lint coverage bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## start the demo: sample models and the proxy before them (PORT=8080)
	$(BIN)/python -m proxy demo $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev ## run the tests; get the real components they use where possible
	$(BIN)/python -m tests.components.install
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev ## run what takes minutes or gigabytes
	$(BIN)/python -m tests.components.install
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev ## check style, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/.dev ## require that the tests of the core reach every branch of it
	$(BIN)/coverage run -m pytest tests/oci tests/formats tests/model tests/test_errors.py
	$(BIN)/coverage report --include='proxy/oci/*,proxy/formats/*,proxy/model/*,proxy/errors.py' \
		--skip-covered --fail-under=100

bench: $(VENV)/.dev ## measure speed and memory
	$(BIN)/python -m bench.run

clean: ## remove .venv and everything made by tools
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find proxy tests bench -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml once its dependencies are installed.
$(VENV)/.runtime: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; cnai-proxy needs Python 3.11 or newer (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; cnai-proxy needs Python 3.11 or newer (make PYTHON=...)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
