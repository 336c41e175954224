# Two commands do everything on a fresh machine: `make audit` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNS ?= runs/digits
THREATS := --threat linf:0.1 --threat l2:0.5

.PHONY: audit test check bench verify-all docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(sed -n 's/^torch==/torch==/p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

## audit: train a small network on real digits and its hardened twin, audit both, compare, write the reports
audit: $(READY)
	$(BIN)/trustbound train cnn-small --data digits --recipe digits --out $(RUNS)/plain.safetensors
	$(BIN)/trustbound train cnn-small --data digits --recipe digits-hardened --out $(RUNS)/hardened.safetensors
	$(BIN)/trustbound audit cnn-small:$(RUNS)/plain.safetensors --data digits $(THREATS) --run $(RUNS)/plain
	$(BIN)/trustbound audit cnn-small:$(RUNS)/hardened.safetensors --data digits $(THREATS) --run $(RUNS)/hardened
	$(BIN)/trustbound compare $(RUNS)/plain $(RUNS)/hardened --out $(RUNS)/comparison.html
	@echo "reports: $(RUNS)/plain/report.html, $(RUNS)/hardened/report.html, $(RUNS)/comparison.html"

## test: everything CI runs
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q

## check: style, types, architecture, documents that must agree with the code
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(VENV)/site

## docs: write the generated tables and references again, and the site into site/
docs: $(READY)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

## bench: the hot paths beside their peers, as ratios (see benchmarks/README.md)
bench: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	GOMP_CPU_AFFINITY=0-1 OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks

## verify-all: every attack against every certifier, the certificate fuzz and its thousands of networks; results are kept
verify-all: $(READY)
	$(BIN)/python -m benchmarks.pairings
	$(BIN)/python -m benchmarks.certificate_fuzz

clean:
	rm -rf $(VENV) runs
