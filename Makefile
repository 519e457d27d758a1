PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Inside the checkout, so that a second run starts with compiled kernels.
export TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/.cache/inductor

# Beside other processes, threads that spin while they wait cost more than they save.
# A benchmark runs alone, and threads that sleep would make it twice as slow.
quick test nightly fuzz coverage: export OMP_WAIT_POLICY ?= PASSIVE
# A process per core, of one thread each: tracing, most of the tests' time, is serial.
quick test nightly fuzz: export OMP_NUM_THREADS ?= 1

# Random examples of `make fuzz` in all, and where they start from: another seed every
# day. The last line of a run says which, and `make fuzz SEED=...` runs it again.
EXAMPLES ?= 2000
SEED ?= $(shell date +%Y%m%d)
MINUTES ?= 20
TRAJECTORIES ?= 200

PYTEST := $(BIN)/pytest -q -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo docs test quick nightly check bench coverage fuzz soak upstream

demo: $(INSTALLED)
	$(BIN)/rfc-compile demo --output demo

# At every push: at most 15 minutes on 2 cores.
test: $(INSTALLED)
	$(PYTEST) -m 'not nightly'

# At every change: at most 2 minutes. The passes see a few models.
quick: $(INSTALLED)
	$(PYTEST) -m 'not slow and not nightly' tests/unit tests/passes

# Everything: every denoiser and every pipeline.
nightly: $(INSTALLED)
	$(PYTEST)

fuzz: $(INSTALLED)
	RFC_FUZZ_EXAMPLES=$(EXAMPLES) RFC_FUZZ_SEED=$(SEED) $(PYTEST) --timeout 7200 \
		tests/passes/test_random.py tests/runtime/test_random_runs.py \
		tests/zoo/test_upstream.py

soak: $(INSTALLED)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) \
		--trajectories $(TRAJECTORIES)

# The compile tests of a source tree of diffusers, as `make upstream DIFFUSERS=path`.
INNER ?= inductor
upstream: $(INSTALLED)
	@test -d '$(DIFFUSERS)/tests/models' || \
		{ echo "DIFFUSERS='$(DIFFUSERS)' is no source tree of diffusers" >&2; exit 2; }
	cd '$(DIFFUSERS)' && RFC_INNER=$(INNER) \
		PYTHONPATH='$(CURDIR)/tests/support/upstream:$(abspath $(DIFFUSERS))/src' \
		$(CURDIR)/$(BIN)/python -m pytest -q -p rfc_by_default \
		tests/models/transformers

# mypy does not see a package that lives in another folder (passes/), so it is given
# the package laid out as it is installed.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .mypy_build
	mkdir .mypy_build
	cp -Rp rfc_compile .mypy_build/rfc_compile
	cp -Rp passes .mypy_build/rfc_compile/passes
	cd .mypy_build && ../$(BIN)/mypy --config-file ../pyproject.toml \
		--cache-dir ../.mypy_cache -p rfc_compile
	cd .mypy_build && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache
	$(BIN)/python tests/repository/sources.py

# The site, in site/; a broken link or a name that is gone is an error (`--quiet` would
# hide it).
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

bench: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/rfc-compile bench --output benchmarks/results --readme docs/comparison.md

coverage: $(INSTALLED)
	$(BIN)/python -m benchmarks.coverage

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@
