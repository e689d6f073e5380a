# Everything runs in virtual environments inside this folder, by relative paths and `python -m`,
# so that the path to the folder may hold spaces.

PYTHON ?= python3
ARGS ?=
# Wheels are kept here, so that a fresh clone installs without a network.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fastrnn/wheels
# Recipes read these from the environment: a quote or a dollar sign in a path stays harmless.
export PYTHON WHEELS

STAMPS := .venv/.demo .venv/.test .venv/.lint .venv/.examples .venv-peers/.peers .venv-peers/.bench
.venv/.demo: EXTRAS := numba,cli
.venv/.test: EXTRAS := test
.venv/.lint: EXTRAS := lint
.venv/.examples: EXTRAS := test,examples
.venv-peers/.peers: EXTRAS := test,peers
.venv-peers/.bench: EXTRAS := bench

.DEFAULT_GOAL := help
.PHONY: help demo bench bench-compare test test-peers test-examples test-sanitize test-wide test-emulated test-neon test-ulp lint clean
.NOTPARALLEL: # targets share a virtual environment, and timings want the machine for themselves

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s%s\n", $$1, $$2 }' Makefile

demo: .venv/.demo ## train a character model for a minute; ARGS="--seconds 20 --cell gru" to change
	@.venv/bin/python -m fastrnn train $(ARGS)

bench: .venv-peers/.bench ## time all workloads against all others (half an hour), and make the report
	@.venv-peers/bin/python benchmarks/record.py $(ARGS)

bench-compare: .venv/.test ## what the last commit made slower; ARGS="BASE NEW" for others
	@.venv/bin/python benchmarks/compare.py $(ARGS)

test: .venv/.test ## every test but those against torch, ONNX Runtime and Keras; ARGS="-k lstm" to select, ARGS="-n 0" for one process
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

test-peers: .venv-peers/.peers ## the tests against torch, ONNX Runtime and Keras (a large download)
	@.venv-peers/bin/python -m pytest tests/peers fastrnn/torch fastrnn/keras $(ARGS)

test-examples: .venv/.examples ## the examples: published networks, downloaded on first use (40 MB)
	@.venv/bin/python -m pytest tests/examples $(ARGS)

# $(call server,name,compiler,flags) builds the kernels as a program of their own, in build/<name>.
server = $(MAKE) -s -j2 -f tests/native/Makefile OUT=build/$(1) CC="$(2)" CFLAGS="$(3)"
ADDRESS := -fsanitize=address,undefined
TEST_SERVER := .venv/bin/python -m pytest tests/native

test-sanitize: .venv/.test ## the kernels under sanitizers: of addresses and undefined behaviour, of threads
	@CFLAGS="-O1 -g1 $(ADDRESS) -fno-sanitize-recover=undefined" LDFLAGS="$(ADDRESS)" FASTRNN_REQUIRE_C=1 \
	    .venv/bin/python setup.py -q build --build-base build/address --build-lib build/address/lib
	@LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/address/lib .venv/bin/python -P -m pytest \
	    --capture=sys tests/test_backends.py tests/test_cells.py tests/test_layers.py tests/test_c.py \
	    tests/test_stream.py tests/test_convolution.py \
	    -k "not (numba or bits or beyond or interrupt or activations_float or instructions)" $(ARGS)
	@$(call server,thread,$(CC),-g1 -fsanitize=thread)
	@SERVER=build/thread/server $(TEST_SERVER) -k bits $(ARGS)

test-wide: .venv/.test ## the kernels with vectors of 64 bytes, whatever the machine's
	@$(call server,wide,$(CC),-DVECTOR_BYTES=64)
	@SERVER=build/wide/server $(TEST_SERVER) $(ARGS)

test-emulated: .venv/.test ## the kernels on older processors (qemu-user)
	@$(call server,plain,$(CC))
	@SERVER="qemu-x86_64 -cpu Nehalem build/plain/server" SERVER_ISAS=baseline $(TEST_SERVER) $(ARGS)
	@SERVER="qemu-x86_64 -cpu Haswell build/plain/server" SERVER_ISAS="baseline avx2" \
	    $(TEST_SERVER) $(ARGS)

test-neon: .venv/.test ## the kernels on ARM (gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user)
	@$(call server,neon,aarch64-linux-gnu-gcc,-static)
	@SERVER="qemu-aarch64 build/neon/server" SERVER_ISAS=neon $(TEST_SERVER) $(ARGS)

test-ulp: .venv/.test ## exp, sigmoid and tanh of every float32, on every instruction set (half an hour)
	@ULP_STRIDE=1 .venv/bin/python -m pytest tests/test_c.py -s -k activations_float \
	    -o faulthandler_timeout=0 $(ARGS)

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
