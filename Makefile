# make study   the main job: install, run the quick study, end with a table and the path of the report
# make test    install, run the tests
# make ablate  process reward against outcome reward: 240 runs, half an hour on two cores; goes on where it stopped
# make ladder  what a held-out bit costs in labels, rollouts and FLOPs, by exact pass rate; goes on where it stopped
#              (LADDER=full: transfer, pass@k, memorisation and rollout length as well)
# make tune, make tune-ladder   the searches behind their learning rates and batch sizes
PYTHON ?= python3
PIP_FLAGS ?=
STUDY ?= runs/study
BIN = .venv/bin

LADDER ?= headline
LADDER_PARTS_headline = cells push noise
LADDER_PARTS_full = $(LADDER_PARTS_headline) long memorise length
RUN_STUDY = $(BIN)/python recipes/study.py --config recipes/configs

.PHONY: install study ablate ladder test test-slow lint tune tune-ladder

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[test]' 2> .venv/install.log \
		|| { cat .venv/install.log; echo "error: the installation failed, see above"; exit 1; }
	@touch $@

study: install
	@$(RUN_STUDY)/study.yaml --output_dir $(STUDY)
	@$(RUN_STUDY)/ladder_small.yaml --output_dir $(STUDY)/ladder/cells
	@$(BIN)/python -m eval.ladder_report $(STUDY)/ladder

ablate: install
	@$(RUN_STUDY)/ablate.yaml --output_dir runs/ablate

runs/pretrain_ages/model: | install
	@$(BIN)/accelerate launch --config_file recipes/accelerate/one_cpu.yaml recipes/pretrain.py \
		--config recipes/configs/pretrain_ages.yaml --output_dir runs/pretrain_ages

ladder: install runs/pretrain_ages/model
	@set -e; for part in $(LADDER_PARTS_$(LADDER)); do \
		echo "ladder: $$part"; $(RUN_STUDY)/ladder_$$part.yaml --output_dir runs/ladder/$$part; done
	@$(BIN)/python -m eval.ladder_report runs/ladder

test: install
	@$(BIN)/python -m pytest -n auto -m 'not slow'

test-slow: install
	@$(BIN)/python -m pytest -n auto -m slow

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

tune: install
	@$(RUN_STUDY)/tune.yaml --output_dir runs/tune

tune-ladder: install runs/pretrain_ages/model
	@$(RUN_STUDY)/ladder_tune_latent.yaml --output_dir runs/ladder_tune_latent
	@$(RUN_STUDY)/ladder_tune_unacquired.yaml --output_dir runs/ladder_tune_unacquired
	@$(BIN)/python -m eval.tuned runs/ladder_tune_latent runs/ladder_tune_unacquired --output_file recipes/configs/ladder_tuned.yaml
