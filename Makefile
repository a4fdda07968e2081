# Every target makes what it needs; a second run finds it made. `make run` leaves tasks to the worker beside the web process.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKERS := ruff==0.17.6 mypy==2.4.1 types-requests types-python-jose types-passlib types-requests-oauthlib types-greenlet

.PHONY: run test check bench

run: $(VENV)/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" TOKEN_PORT=$${TOKEN_PORT:-9004} WORKER_PROCESSES=$${WORKER_PROCESSES:-0} \
		$(BIN)/honcho start -p $${PORT:-9003}

# More processes than a small machine has cores: many tests wait. tests/dealing.py says which process gets what.
test: $(VENV)/ready
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder $(if $(K),-k '$(K)')

check: $(VENV)/checkers
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary

bench: $(VENV)/ready
	$(BIN)/python -m tests.bench $(ROWS)

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with: make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/checkers: $(VENV)/ready Makefile
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CHECKERS)
	@touch $@
