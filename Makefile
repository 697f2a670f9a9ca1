# Thin: setup.sh makes the environment, run.sh starts Snakemake, lock.sh writes requirements.lock.
CORES := $(shell nproc)
CONFIG :=
TORCH_INDEX ?=
export TORCH_INDEX
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup run suite test test-cluster check config-reference publish publish-suite publish-pilot evidence compare-evidence lock clean

help:
	@echo "make run     set up, then run the workflow (CORES=4, CONFIG=config/other.yaml; default: the quickstart)"
	@echo "make suite   set up, then collect the local suite's 15 data sets and describe them"
	@echo "make test    set up, then run all tests"
	@echo "make test-cluster   run the workflow on a SLURM cluster of its own (INSTALL=1 installs Debian's SLURM first; root)"
	@echo "make check   set up, then check style, types and the workflow"
	@echo "make config-reference   write the config's schema and table of keys anew"
	@echo "make publish run the quickstart and copy what the docs quote to results/published"
	@echo "make publish-suite   collect the suite and copy what the docs quote"
	@echo "make publish-pilot   the same of the pilot: two hours"
	@echo "make evidence   run the evidence (docs/protocol.md) and copy what the docs quote: a day on 2 cores, resumable"
	@echo "make compare-evidence   its comparison and figures again, from the published scores alone: seconds"
	@echo "make lock    write requirements.lock anew from pyproject.toml"
	@echo "make clean   remove .venv and caches, never results"
	@echo "TORCH_INDEX=ADDRESS at the first 'make run' takes torch (CPU-only or CUDA) from that package index."

setup:
	@sh setup.sh

run: setup
	@exec sh run.sh --cores $(CORES) $(if $(CONFIG),--configfile "$(CONFIG)")
	@$(PYTHON) -m dawm report-path $(if $(CONFIG),"$(CONFIG)",config/quickstart.yaml)

# 15.9 million transitions: 34 minutes on 2 cores, 3.4 GB.
suite: setup
	@exec sh run.sh datasets --cores $(CORES) --configfile config/local-suite.yaml

# One thread for each test process: torch's own threads would fight over the cores. A file's tests share a process, in
# the order that tests/conftest.py gives the files.
test: setup
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder

# On a real SLURM of its own: some 15 minutes.
test-cluster: setup
	@$(if $(INSTALL),sh tests/cluster/install.sh,true)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --override-ini addopts=-q tests/cluster

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m snakefmt --check Snakefile workflow
	$(PYTHON) -m snakemake --lint

# The JSON schema and the table of keys, from the dataclasses in dawm/config.
config-reference: setup
	$(PYTHON) -m dawm document-config --schema workflow/schemas/config.schema.json --keys config/README.md

# What README.md and the docs quote of the quickstart.
publish: override CONFIG :=
publish: run
	mkdir -p results/published/quickstart/tables results/published/quickstart/timings results/published/quickstart/figures
	cp results/quickstart/tables/*.csv results/quickstart/tables/*.json results/published/quickstart/tables/
	cp results/quickstart/timings/*.csv results/quickstart/timings/*.png results/published/quickstart/timings/
	cp results/quickstart/figures/*.png results/quickstart/comparison/*.png results/published/quickstart/figures/
	cp results/quickstart/report.html results/quickstart/config.yaml results/published/quickstart/

# What docs/datasets.md quotes of the suite.
publish-suite: suite
	mkdir -p results/published/local-suite/inspections
	cp results/local-suite/overview/datasets.csv results/local-suite/overview/datasets.md \
		results/local-suite/overview/returns.png results/published/local-suite/
	for folder in results/local-suite/inspections/*; do \
		cp "$$folder/inspection.json" "results/published/local-suite/inspections/$$(basename "$$folder").json"; done
	mkdir -p results/published/local-suite/benchmarks
	cp results/local-suite/benchmarks/export/*.tsv results/published/local-suite/benchmarks/

# What docs/fidelity.md and docs/pilot.md quote: two hours on 2 cores.
publish-pilot: setup
	@sh run.sh --cores $(CORES) --configfile config/pilot.yaml -- all fidelity steering animations
	mkdir -p results/published/pilot/timings results/published/fidelity/animations results/published/steering
	for table in datasets scores summary learning_curves; do \
		cp "results/pilot/tables/$$table.csv" results/published/pilot/; done
	cp results/pilot/timings/timings.csv results/published/pilot/timings/
	cp results/pilot/config.yaml results/published/pilot/
	cp results/pilot/tables/*.json results/pilot/figures/*.png results/published/pilot/
	cp results/pilot/fidelity/*.csv results/pilot/fidelity/*.json results/pilot/fidelity/*.md \
		results/pilot/fidelity/*.png results/published/fidelity/
	cp results/pilot/steering-page/*.csv results/pilot/steering-page/*.json results/pilot/steering-page/*.md \
		results/pilot/steering-page/*.png results/published/steering/
	for folder in results/pilot/animations/*; do \
		cp "$$folder"/dawm/seed-0/*.gif "results/published/fidelity/animations/$$(basename "$$folder").gif"; done
	$(PYTHON) benchmarks/efficiency.py

# What docs/first-attempt.md quotes.
evidence: setup
	@sh run.sh --cores $(CORES) --configfile config/evidence.yaml
	$(PYTHON) benchmarks/evidence.py publish config/evidence.yaml

compare-evidence: setup
	$(PYTHON) -m dawm compare results/published/evidence/scores.csv --output results/published/evidence/comparison

lock:
	@sh lock.sh

clean:
	@exec 9>.make.lock; flock -n 9 || { echo "another make is at work in this folder; wait until it has ended" >&2; exit 2; }; \
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis; \
	find dawm tests workflow benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
