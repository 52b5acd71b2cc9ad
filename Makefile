# make train   install, train the shipped configuration on the bundled data, backtest it, say where the report is
# make test    install, then lint, type-check and test
# make minimum tests with the oldest versions that setup.cfg admits, in an environment of their own
# make proof   ten million lane-steps of random worlds in both tiers (about 20 minutes on two cores)
# make bounds  the proof's worlds and hostile inputs on a kernel that checks every index (two minutes, with compiling)
# make mutants break the kernel in one place at a time: the proof must notice every time (about 10 minutes)
# make referee VectorBT replays a million orders
# make notebook  runs docs/evaluation.py and writes its outputs into docs/evaluation.ipynb (a minute)
# make bench   how fast every layer is, on this machine, with charts (a few minutes; keep the machine quiet)
# make bench-peers  the same beside FinRL, ElegantRL, Gym-Trading-Env and TorchTrade, in an environment of their own
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/$(shell date +%Y%m%d-%H%M%S)

PEERS  := benchmarks/peers/.venv

# What dependencies can change: data, features, both tiers, stable-baselines3, reports. Old versions warn of their own use.
MINIMUM       := .venv-minimum
MINIMUM_TESTS := tests/test_market.py tests/test_adjusted.py tests/test_features.py tests/test_windows.py \
    tests/test_turbulence.py tests/test_config.py tests/test_sb3.py tests/test_differential.py tests/test_cli.py \
    tests/test_ppo.py tests/stateful/test_curves.py tests/stateful/test_report.py tests/stateful/test_report_sections.py \
    tests/stateful/test_analysis.py tests/stateful/test_tear_sheet.py
OLD_MAY_WARN  := -W ignore::DeprecationWarning -W ignore::FutureWarning

.PHONY: install train test minimum proof bounds mutants referee notebook bench bench-peers lint format clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "batchenv needs Python 3.11 or newer, found $$($(PYTHON) --version). Use: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt --editable '.[dev]'
	@touch $@

train: install
	$(BIN)/batchenv train --config configs/fast_training_ppo.json --output $(RUN)
	$(BIN)/batchenv backtest --run $(RUN)

test: install lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

minimum: $(MINIMUM)/installed
	$(MINIMUM)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(OLD_MAY_WARN) $(MINIMUM_TESTS)

# The wheel's dependencies at their lower bounds; the tools of the tests are today's.
$(MINIMUM)/installed: setup.cfg pyproject.toml constraints-minimum.txt
	$(PYTHON) -m venv $(MINIMUM)
	$(MINIMUM)/bin/python -m pip install --disable-pip-version-check -c constraints-minimum.txt --editable . \
	    arch hypothesis pytest pytest-xdist
	@touch $@

proof: install
	$(BIN)/python -m tests.proof.run --lane-steps 10000000

bounds: install
	$(BIN)/python -m tests.proof.bounds

mutants: install
	$(BIN)/python -m tests.proof.mutate

referee: install
	$(BIN)/python -m tests.proof.referee --orders 1000000

notebook: install
	$(BIN)/python -m tests.notebook

bench: install
	@mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=benchmarks/results/layers.json
	$(BIN)/python -m benchmarks.learning --json benchmarks/results/learning.json
	$(BIN)/python -m benchmarks.curves --json benchmarks/results/curves.json
	$(BIN)/python -m benchmarks.page --json benchmarks/results/page.json
	$(BIN)/python -m benchmarks.features --json benchmarks/results/features.json
	$(BIN)/python -m benchmarks.baselines --json benchmarks/results/baselines.json
	$(BIN)/python -m benchmarks.summary
	$(BIN)/python -m benchmarks.guard

bench-peers: $(PEERS)/installed
	$(PEERS)/bin/python -m benchmarks.peers.run
	$(PEERS)/bin/python -m benchmarks.summary

$(PEERS)/installed: setup.cfg pyproject.toml constraints.txt benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -c constraints.txt --editable .
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --no-deps -r benchmarks/peers/requirements.txt
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(MINIMUM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
