# `make demo` and `make test` do all the set-up they need, in .venv, in either order.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: setup setup-dev demo compare test faults clean

# What running needs.
setup: .venv/installed-run
.venv/installed-run: requirements.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements.txt
	touch $@

# What tests and benchmarks need beside it.
setup-dev: .venv/installed-dev
.venv/installed-dev: requirements-dev.txt requirements-optional.txt .venv/installed-run
	$(INSTALL) -r requirements-dev.txt
	$(INSTALL) -r requirements-optional.txt || echo "without reasoning-gym: its tests are skipped"
	touch $@

# TreeRPO, and what GRPO reached with as many tokens in the committed runs.
RUN := results/demo-$(shell date +%Y%m%d-%H%M%S)
demo: setup
	$(BIN)/python train_treerpo.py --config recipes/demo.yaml --output_dir $(RUN)
	$(BIN)/python results/beside_grpo.py $(RUN)

# Both afresh.
compare: setup
	$(BIN)/python run_ablations.py recipes/ablations/compare.yaml --seeds 1

test: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# The fault tests with many tries; a quarter to half an hour on 2 cores.
faults: setup-dev
	KILLS=50 WORKER_KILLS=200 HOSTILE=100000 $(BIN)/python -m pytest -s tests/faults tests/test_scripts.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
