# The whole of leanpipe's life: run · up · test · check · bench-… · pictures. Everything is installed into .venv from constraints.txt.

PYTHON ?= python3.11
BIN := .venv/bin
export TOKENIZERS_PARALLELISM ?= true
# Images often forbid Python to keep what it compiles, and then every start compiles hundreds of files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run up serve test quick check install clean

run: .venv/installed
	$(BIN)/leanpipe run $(ARGS)

up: .venv/installed
	$(BIN)/leanpipe up $(ARGS)

serve: .venv/installed
	$(BIN)/leanpipe serve $(ARGS)

test: .venv/installed-dev lint chromium
	$(BIN)/pytest $(ARGS)

# What fits between two thoughts: lint, the house, the forms, and the tests of what changed since main.
quick: lint
	$(BIN)/python -m tests.changed

check: lint
	$(BIN)/pytest tests/test_house.py tests/test_layers.py tests/flows/test_forms.py

# Stages and runs stopped, killed and cut off at many points: a quarter of an hour on two quiet cores.
.PHONY: chaos
chaos: .venv/installed-dev
	$(BIN)/pytest -m chaos $(ARGS)

.PHONY: lint
lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy leanpipe tasks flows

# The browser tests skip, and say so, where Chromium is missing and cannot be installed.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || test "$$(id -u)" != 0 || \
		(apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium) >/dev/null || true

install: .venv/installed

# Compiling every package while installing takes as long as installing; what is used is compiled when first imported.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "leanpipe needs Python 3.11 or newer: make PYTHON=/path/to/python")'
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '$(1)'
endef

.venv/installed: pyproject.toml constraints.txt
	$(call install,.)
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(call install,.[dev])
	touch $@ .venv/installed

# Ours and the peer in one run, on a machine that does nothing else; results in benchmarks/results/.
.PHONY: bench-corpus
bench-corpus: .venv/installed-bench
	for part in corpus filters "extraction $(if $(WEB),--web $(WEB))" languages tokens; do $(BIN)/python -m benchmarks.$$part || exit 1; done

.PHONY: bench-training
bench-training: .venv/installed-bench
	for part in distillation students training finetuning plan attention; do $(BIN)/python -m benchmarks.$$part || exit 1; done

# The curve takes long, and nobody has run it whole yet; each PART of it may be run by itself, on different days.
.PHONY: bench-student
bench-student: .venv/installed-bench
	$(BIN)/python -m benchmarks.student curve 8_192 25_600 100_000 400_000 1_600_000 --seeds 3
	$(BIN)/python -m benchmarks.student fit
	$(BIN)/python -m benchmarks.student answers --seeds 3
	$(BIN)/python -m benchmarks.prunings

# Three seeds of a quarter fewer parameters, and a search over shapes beside one distillation: hours on two cores, less with
# LEANPIPE_BENCH_TOKENS=25_600 LEANPIPE_BENCH_REPEATS=1; ARGS=cost counts what the search takes and runs nothing.
.PHONY: bench-shapes
bench-shapes: .venv/installed-bench
	$(BIN)/python -m benchmarks.shapes $(ARGS)

# CASES=FILE measures on texts with their spans too (see benchmarks/personal_data.py).
.PHONY: bench-personal-data
bench-corpus: bench-personal-data
bench-personal-data: .venv/installed-bench
	$(BIN)/python -m benchmarks.personal_data $(CASES)

.PHONY: bench-compression
bench-compression: .venv/installed-bench
	$(BIN)/python -m benchmarks.compression $(ARGS)
	for part in '' types; do $(BIN)/python -m benchmarks.compression_budget $$part || exit 1; done

# How often the gate is wrong, by simulation from real scores of default runs: HOMES="FOLDER ..." of such runs, .leanpipe by default.
.PHONY: bench-gate
bench-gate: .venv/installed-bench
	$(BIN)/python -m benchmarks.gate_scores $(firstword $(HOMES) .leanpipe)
	$(BIN)/python -m benchmarks.gate $(or $(HOMES),.leanpipe)
	$(BIN)/python -m benchmarks.gate_power $(or $(HOMES),.leanpipe)
	$(BIN)/python -m benchmarks.gate_models

# How runs get on beside other work, and what a first plan says of the time they take.
.PHONY: bench-operation
bench-operation: .venv/installed-bench
	for part in under_load outages plan; do $(BIN)/python -m benchmarks.$$part run || exit 1; done

.venv/installed-bench: pyproject.toml constraints.txt
	$(call install,.[bench])
	touch $@ .venv/installed

# Every picture in docs/images, from a real run: about ten minutes on two cores, two with ARGS="--preset smoke".
.PHONY: pictures
pictures: .venv/installed-dev chromium
	$(BIN)/python -m docs.make_pictures $(ARGS)

clean:
	rm -rf .venv .leanpipe build *.egg-info .mypy_cache .ruff_cache .pytest_cache
