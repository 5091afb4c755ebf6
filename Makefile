# `make demo` and `make test` do all the set-up they need, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test faults clean
setup: .venv/installed

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: setup
	$(BIN)/python train_treerpo.py --config recipes/demo.yaml

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# The fault tests with many tries; a quarter to half an hour on 2 cores.
faults: setup
	KILLS=50 WORKER_KILLS=200 HOSTILE=100000 $(BIN)/python -m pytest -s tests/faults tests/test_scripts.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
