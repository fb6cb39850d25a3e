# make study   the main job: install, run the quick study, end with a table and the path of the report
# make test    install, run the tests
# make ablate  process reward against outcome reward: 240 runs, half an hour on two cores; goes on where it stopped
# make tune    the search behind the study's learning rates and batch sizes
PYTHON ?= python3
PIP_FLAGS ?=
STUDY ?= runs/study
BIN = .venv/bin

.PHONY: install study ablate test test-slow lint tune

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[test]' 2> .venv/install.log \
		|| { cat .venv/install.log; echo "error: the installation failed, see above"; exit 1; }
	@touch $@

study: install
	@$(BIN)/python recipes/study.py --config recipes/configs/study.yaml --output_dir $(STUDY)

ablate: install
	@$(BIN)/python recipes/study.py --config recipes/configs/ablate.yaml --output_dir runs/ablate

test: install
	@$(BIN)/python -m pytest -n auto -m 'not slow'

test-slow: install
	@$(BIN)/python -m pytest -n auto -m slow

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

tune: install
	@$(BIN)/python recipes/study.py --config recipes/configs/tune.yaml --output_dir runs/tune
