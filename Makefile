# Everything runs in virtual environments inside this folder, by relative paths and `python -m`,
# so that the path to the folder may hold spaces.

PYTHON ?= python3
ARGS ?=
# Wheels are kept here, so that a fresh clone installs without a network.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fastrnn/wheels
# Recipes read these from the environment: a quote or a dollar sign in a path stays harmless.
export PYTHON WHEELS

STAMPS := .venv/.demo .venv/.test .venv/.lint .venv-peers/.peers
.venv/.demo: EXTRAS := numba,cli
.venv/.test: EXTRAS := test
.venv/.lint: EXTRAS := lint
.venv-peers/.peers: EXTRAS := test,peers

.DEFAULT_GOAL := help
.PHONY: help demo test test-peers test-ulp lint clean
.NOTPARALLEL: # targets share a virtual environment, and timings want the machine for themselves

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

demo: .venv/.demo ## train a character model for a minute; ARGS="--seconds 20 --cell gru" to change
	@.venv/bin/python -m fastrnn train $(ARGS)

test: .venv/.test ## every test but those against torch and ONNX Runtime; ARGS="-k lstm" to select
	@.venv/bin/python -m pytest $(ARGS)

test-peers: .venv-peers/.peers ## the tests against torch and ONNX Runtime (a large download)
	@.venv-peers/bin/python -m pytest tests/peers $(ARGS)

test-ulp: .venv/.test ## exp, sigmoid and tanh of every float32, on every instruction set (half an hour)
	@ULP_STRIDE=1 .venv/bin/python -m pytest tests/test_c.py -k activations_float32 $(ARGS)

lint: .venv/.lint ## style, format and types
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy fastrnn $(wildcard tests/oracle.py)

clean: ## remove all that make made here (not the kept wheels)
	@echo "clean: removing virtual environments, caches and build products"
	@rm -rf fastrnn/_c.* .venv .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -prune \
	    -exec rm -rf {} +

# A stamp says that its environment holds an editable install with its extras. Kept wheels are
# tried first; what they lack is downloaded as pip is configured, wheels only: no compiler is needed.
# The build requirements go in first, since building in isolation would need the network again.
$(STAMPS): pyproject.toml setup.py $(wildcard csrc/* csrc/*/*)
	@set -eu; venv=$(@D); py=$$venv/bin/python; \
	if ! $$py -m pip --version >/dev/null 2>&1; then \
	    "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	        echo "fastrnn needs Python 3.11 or newer, and '$$PYTHON' is not:" \
	            "try make PYTHON=python3.12" >&2; exit 1; }; \
	    "$$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || { \
	        echo "'$$PYTHON' cannot make virtual environments:" \
	            "install the package python3-venv" >&2; exit 1; }; \
	    echo "$$venv: making a virtual environment"; \
	    "$$PYTHON" -m venv --clear $$venv; \
	fi; \
	pip() { command=$$1; shift; \
	    $$py -m pip --disable-pip-version-check "$$command" -qq "$$@"; }; \
	build_requires() { $$py -c 'import tomllib; print(*tomllib.load( \
	    open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'; }; \
	download() { \
	    pip download --only-binary :all: -d "$$WHEELS" "$$@" || { \
	        echo "$$venv: no wheels to install from: is there a network?" >&2; exit 1; }; }; \
	from_wheels() { \
	    build_requires | pip install --no-index --find-links "$$WHEELS" -r /dev/stdin && \
	    pip install --no-index --find-links "$$WHEELS" --no-build-isolation -e '.[$(EXTRAS)]'; }; \
	mkdir -p "$$WHEELS"; \
	echo "$$venv: installing fastrnn[$(EXTRAS)] (where there is a C compiler, it takes a minute)"; \
	if ! from_wheels >/dev/null 2>&1; then \
	    echo "$$venv: downloading wheels to $$WHEELS"; \
	    build_requires | download -r /dev/stdin; \
	    build_requires | pip install --no-index --find-links "$$WHEELS" -r /dev/stdin; \
	    download --no-build-isolation '.[$(EXTRAS)]'; \
	    from_wheels; \
	fi; \
	touch $@
