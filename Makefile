# Two commands: `make demo` shows it, `make test` proves it. Both set up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
JOBS ?= 2

FORMATS := .venv-formats

.PHONY: demo setup test test-latest test-formats test-kills check-tasks lint smoke adversaries measure-safety clean

demo: setup
	$(BIN)/robot-rl pipeline

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt $(wildcard requirements-ros.txt) scripts/setup.sh
	PYTHON=$(PYTHON) bash scripts/setup.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

smoke: setup
	rm -rf runs/smoke
	$(BIN)/robot-rl pipeline preset=smoke run=runs/smoke

test: lint smoke
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# 1,000 random episodes of every registered task; goes on where it was interrupted.
check-tasks: setup
	$(BIN)/python -m benchmarks.check_tasks --processes $(JOBS) --json benchmarks/results/check_tasks.json

# What we write, opened by lerobot's, Minari's and robomimic's own loaders, in an environment of their own.
test-formats: $(FORMATS)/.ready
	OMP_NUM_THREADS=1 $(FORMATS)/bin/python -m pytest tests/formats_env

$(FORMATS)/.ready: requirements-formats.txt pyproject.toml
	$(PYTHON) -m venv $(FORMATS)
	$(FORMATS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-formats.txt
	$(FORMATS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps lerobot==0.4.4 robomimic==0.3.0 -e .
	touch $@

# The recorder, killed 200 times at random moments.
test-kills: setup
	ROBOT_RL_KILLS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/data/test_recorder.py -k kills

# The core, without Meta-World and robosuite, on the newest MuJoCo.
test-latest: $(LATEST)/.ready
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest -n $(JOBS) -m "not adapters and not ros"

$(LATEST)/.ready: pyproject.toml constraints.txt | setup
	$(PYTHON) -m venv $(LATEST)
	grep -viE '^(mujoco|metaworld|robosuite)==' constraints.txt > $(LATEST)/constraints.txt
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LATEST)/constraints.txt -e '.[dev]'
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade mujoco
	touch $@

# 100,000 steps of each attack on the passivity filter, five seeds, and the same without it: an hour. Goes on
# from a file that is there.
adversaries: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.adversaries --json benchmarks/results/adversaries.json

# What docs/results.md says of the passivity filter; each goes on from the file that it wrote.
measure-safety: adversaries
	$(BIN)/pip install --quiet daqp casadi
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.safety --json benchmarks/results/safety.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.liveness --json benchmarks/results/liveness.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.liveness --json benchmarks/results/liveness.json --plot docs/liveness.svg
	OMP_NUM_THREADS=1 $(BIN)/robot-rl study passivity out=runs/passivity

clean:
	rm -rf $(VENV) $(LATEST) $(FORMATS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
