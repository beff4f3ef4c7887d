# Needs Python (3.10 or later) with its headers, make and a C compiler; each target makes the
# virtual environment it uses when it is missing. `make help` lists the targets.
#
#   PYTHON=python3.13   the interpreter; one other than python3 gets a .venv-<name> of its own
#   ARGS="-k wire -x"   more arguments for pytest; for fuzz: ARGS="wire frame"

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Expanded only where used.
LIBASAN = $(shell $${CC:-gcc} -print-file-name=libasan.so)
# Before other libraries' C++ (matplotlib's), whose exceptions the sanitizer wants to see.
LIBSTDCXX = $(shell $${CC:-gcc} -print-file-name=libstdc++.so.6)
PYTHON_H = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help develop build demo test test-long test-all soak graph site bench lint debug asan fuzz fuzz-tools clean
.PHONY: style types cython-style workflows warnings

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The pip of a fresh Python 3.10 or 3.11 does not know dependency groups.
$(VENV)/.stamp-venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-venv pyproject.toml setup.py
	$(PIP) install --group test
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.stamp-lint: $(VENV)/.stamp-venv pyproject.toml
	$(PIP) install --group lint
	@touch $@

develop: $(VENV)/.stamp-test $(VENV)/.stamp-lint build  ## everything needed to work on it, built in place

build: $(VENV)/.stamp-test  ## rebuild the compiled modules that changed
	$(PY) setup.py --quiet build_ext --inplace

demo: build  ## see it work, within seconds; ARGS=--all counts ten times as much
	$(PY) -m fastmgr demo $(ARGS)

# Without ARGS in parts side by side: most tests wait for something most of the time.  Each part takes
# about as long; the last has what no other has.
PARTS = tests/unit -- tests/conformance tests/model tests/packaging tests/faults/test_coherence.py
OTHERS = $(filter-out --,$(PARTS))
KILLED = $(wildcard tests/faults/test_*.py) tests/faults/waiters

test: build  ## the test suite, but for what takes long
	$(PY) $(if $(ARGS),-m pytest $(ARGS),tests/sides.py $(PARTS) -- \
	    $(filter-out $(OTHERS),$(KILLED)) -- tests $(addprefix --ignore=,$(OTHERS) $(KILLED)) --)

test-long: build  ## the tests that take long and say little more than others
	$(PY) -m pytest -m long $(ARGS)

SOAK_SECONDS = $(if $(filter file,$(origin SECONDS)),600,$(SECONDS))

soak: build  ## thousands of kills, a minute of everything at once, SECONDS (600) of reads and as many of a flat line of memory
	FASTMGR_KILLS=1000 FASTMGR_RING_KILLS=1000 FASTMGR_RING_STOPS=200 FASTMGR_MIXED_SECONDS=60 $(PY) -m pytest -m '' --timeout=1800 $(ARGS) \
	    tests/faults/test_soak.py tests/engines/test_soak.py tests/faults/test_mixed.py tests/faults/test_rings.py
	FASTMGR_COHERENCE_SECONDS=$(SOAK_SECONDS) FASTMGR_MEMORY_SECONDS=$(SOAK_SECONDS) \
	    $(PY) -m pytest --timeout=0 -s $(ARGS) tests/faults/test_coherence.py tests/faults/test_memory.py

test-all: build  ## CPython's own manager tests, with every interpreter found, and on a Valkey server
	$(PY) tests/conformance/runner.py --all
	$(PY) tests/conformance/runner.py --address valkey+embedded://

graph: $(VENV)/.stamp-venv  ## draw docs/rooms.svg: the rooms of src/fastmgr and who imports from whom
	$(PY) docs/rooms.py

# In an environment of its own: what makes the site is nothing that the tests should see.
DOCS_PY := $(VENV)-docs/bin/python

$(VENV)-docs/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(DOCS_PY) -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	$(DOCS_PY) -m pip --disable-pip-version-check --quiet install --group docs
	@touch $@

site: build $(VENV)-docs/.stamp  ## the pages of docs/ as a site in build/site; a warning is an error
	PYTHONPATH=src $(DOCS_PY) -m sphinx --quiet --fail-on-warning --keep-going --fresh-env docs build/site

bench: build  ## the benchmarks
	$(PY) -m pytest benchmarks $(ARGS)

# By turns where make cannot keep the words of each together, as on macOS.
LINTERS = style types cython-style workflows warnings
TOGETHER = $(if $(filter output-sync,$(.FEATURES)),--jobs=3 --output-sync=target)

lint: build $(VENV)/.stamp-lint  ## style, types, workflows and compiler warnings
	@$(MAKE) --no-print-directory --keep-going $(TOGETHER) $(LINTERS)

style: $(VENV)/.stamp-lint
	$(PY) -m ruff check --output-format=concise
	$(PY) -m ruff format --check

# The yardstick is a program for the stdlib: its types have to hold with our imports in their place.
types: build $(VENV)/.stamp-lint
	$(PY) -m mypy
	mkdir -p build/typing
	sed -e 's/^from multiprocessing import Manager$$/from fastmgr import Manager/' \
	    -e 's/^from multiprocessing.managers import/from fastmgr import/' \
	    tests/typing/stock_program.py >build/typing/moved_program.py
	set -e; for version in 3.10 3.14; do \
	    $(PY) -m mypy --python-version $$version tests/typing build/typing; \
	    $(VENV)/bin/basedpyright --pythonversion $$version; done
	$(PY) -m mypy.stubtest --concise --mypy-config-file pyproject.toml --allowlist tests/typing/stubtest.txt \
	    --ignore-missing-stub --ignore-positional-only --ignore-disjoint-bases --ignore-unused-allowlist fastmgr

# It looks for pycodestyle on the path.
cython-style: $(VENV)/.stamp-lint
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint src

workflows: $(VENV)/.stamp-lint
	$(VENV)/bin/zizmor --offline --no-progress --quiet --persona=pedantic .github
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docs/deploy/*compose.yml

# Our own C is held to more than what Cython generates.
warnings: $(VENV)/.stamp-test  ## build with every warning an error
	set -e; for header in src/fastmgr/*/*.h; do $${CC:-gcc} -x c -fsyntax-only -Isrc/fastmgr -isystem $(PYTHON_H) \
	    -Wall -Wextra -Wconversion -Werror $$header; done
	FASTMGR_WERROR=1 $(PY) setup.py --quiet build_ext \
	    --build-temp build/werror --build-lib build/werror/lib

# A variant is built beside the release build, and must be what the tests then import.
VARIANT = PYTHONPATH=$(CURDIR)/build/$@/lib PYTHONFAULTHANDLER=1
IMPORTED = import fastmgr; assert "/build/$@/lib/" in fastmgr.__file__, fastmgr.__file__

debug: $(VENV)/.stamp-test  ## unit and behaviour tests on a build with debug checks
	FASTMGR_DEBUG=1 $(PY) setup.py --quiet build --build-base build/$@ --build-lib build/$@/lib
	$(VARIANT) $(PY) -c '$(IMPORTED)'
	$(VARIANT) $(PY) -X dev -m pytest tests/unit tests/behaviour $(ARGS)

# CPython keeps objects alive at exit on purpose, which a leak check cannot tell from ours.  What was
# freed is kept for a while, and copied by each fork: not as much of it as by default.
SANITIZED = $(VARIANT) LD_PRELOAD='$(LIBASAN) $(LIBSTDCXX)' PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

# Left out is what runs no C of ours that other tests do not run: the command line and what is said of
# the package as a whole, which start one interpreter after the other; the Valkey engine but for its
# compiled modules; what goes wrong with Valkey servers, which waits for failovers.  The processes
# that are killed at random are fewer, too: each death runs what the others run.
COMPILED = $(patsubst src/fastmgr/%.pyx,%,$(wildcard src/fastmgr/engines/valkey/*.pyx))
UNSANITIZED = tests/faults/valkey $(addprefix tests/unit/,cli test_install.py test_main.py test_onengine.py \
	test_rooms.py test_signatures.py test_tests.py) $(filter-out \
	$(foreach module,$(COMPILED),tests/unit/$(dir $(module))test_$(notdir $(module)).py), \
	$(wildcard tests/unit/engines/valkey/test_*.py))
IGNORED = $(UNSANITIZED:%=--ignore=%)

asan: $(VENV)/.stamp-test  ## most unit, behaviour and fault tests under AddressSanitizer and UndefinedBehaviorSanitizer
	FASTMGR_SANITIZE=1 $(PY) setup.py --quiet build --build-base build/$@ --build-lib build/$@/lib
	$(SANITIZED) $(PY) -c '$(IMPORTED)'
	FASTMGR_KILLS=15 FASTMGR_RING_KILLS=15 $(SANITIZED) $(PY) $(if $(ARGS), \
	    -m pytest tests/unit tests/behaviour tests/faults $(IGNORED) $(ARGS), \
	    tests/sides.py tests/unit --ignore=tests/unit/kinds -- tests/unit/kinds -- \
	    tests/behaviour -- tests/faults -- $(IGNORED))

# libFuzzer, with the sanitizers' run-time library, comes from PyPI as atheris, where that has a
# wheel; an environment of its own keeps it from the others, which it would not serve.
FUZZ_PY := $(VENV)-fuzz/bin/python
CLANG ?= clang
SECONDS ?= 60

$(VENV)-fuzz/.stamp:
	$(PYTHON) -m venv $(VENV)-fuzz
	$(FUZZ_PY) -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	$(FUZZ_PY) -m pip --disable-pip-version-check --quiet install \
	    --only-binary atheris 'atheris>=3' --group build
	@touch $@

fuzz-tools:
	@command -v $(CLANG) >/dev/null || { echo "fuzzing needs clang" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(VENV)-fuzz/.stamp

fuzz: fuzz-tools  ## fuzzing with clang's counters and sanitizers, SECONDS for each target
	FASTMGR_FUZZ=1 CC=$(CLANG) $(FUZZ_PY) setup.py --quiet build \
	    --build-base build/fuzz --build-lib build/fuzz/lib
	$(FUZZ_PY) tests/fuzz/run.py --seconds $(SECONDS) $(ARGS)

clean:  ## remove what was built, but not the virtual environments
	rm -rf build dist src/*.egg-info
	find src/fastmgr -name '*.so' -delete -o -name '*.c' -delete
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f .venv*/.stamp-test
