# make study   the main job: install, run the quick study and a reduced exchange rate, end with a table and the path of a page
# make test    install, run the tests
# make ablate  process reward against outcome reward: 240 runs, half an hour on two cores; goes on where it stopped
# make ladder  what a held-out target costs in FLOPs, latent and unacquired: two hours on two cores; goes on where it stopped
#              (LADDER=full: all arms and rungs, gradient noise, decades, what is acquired)
# make pretrained  the same questions to SmolLM2-135M: three hours on two cores; goes on where it stopped
# make test-slow  minutes: browsers, several processes, kills (CI runs it)
# make test-long  an hour: all ways to share a model, a hundred kills, a million completions for each verifier (outside CI)
# make tune, make tune-ladder   the searches behind their learning rates and batch sizes (hours)
PYTHON ?= python3
PIP_FLAGS ?=
STUDY ?= runs/study
BIN = .venv/bin
# several processes run side by side: two threads each beside one busy core are many times slower
export OMP_NUM_THREADS ?= 1

LADDER ?= headline
PRICES_headline = latent unacquired
PRICES_full = $(PRICES_headline) unacquired_second third_of_the_rate others more_latent more_unacquired unacquired_longer other_ages
CLAIMS_full = noise decades acquire
AGES = $(foreach seed,0 1 2 3 4,runs/models/ages-seed$(seed)/model)
RUN_STUDY = $(BIN)/python recipes/study.py --config eval/studies

.PHONY: install study ablate ages ladder pretrained test test-slow test-long lint tune tune-ladder

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[test]' 2> .venv/install.log \
		|| { cat .venv/install.log; echo "error: the installation failed, see above"; exit 1; }
	@touch $@

study: install
	@$(BIN)/python -m eval.studies.exchange.make_data_limited --config eval/studies/exchange/small.yaml --output_dir $(STUDY)/exchange
	@$(BIN)/python -m eval.studies.exchange $(STUDY)/exchange > $(STUDY)/exchange/table.txt
	@echo "what n labels and n rollouts teach, reduced: $(STUDY)/exchange/report/report.html"
	@$(RUN_STUDY)/quick/study.yaml --output_dir $(STUDY)

ablate: install
	@$(RUN_STUDY)/process_outcome/study.yaml --output_dir runs/ablate

runs/models/ages-seed%/model: | install
	@$(BIN)/python data/pretraining/pretrain.py --config data/pretraining/pretrain_ages.yaml --ladder_pass_rates 0.03 0.1 0.3 0.6 \
		--stop_at_pass_rate 0.6 --seed $* --output_dir runs/models/ages-seed$*

ages: install
	@$(MAKE) --no-print-directory -j2 $(AGES)

ladder: ages
	@set -e; for part in $(PRICES_$(LADDER)); do \
		echo "prices: $$part"; $(RUN_STUDY)/price/$$part.yaml --output_dir runs/ladder/prices/$$part; done
	@set -e; for part in $(CLAIMS_$(LADDER)); do \
		echo "claims: $$part"; $(RUN_STUDY)/ladder/$$part.yaml --output_dir runs/ladder/claims/$$part; done
	@if [ -n "$(CLAIMS_$(LADDER))" ]; then $(BIN)/python -m eval.studies.ladder $(addprefix runs/ladder/claims/,$(CLAIMS_$(LADDER))) \
		--output_dir runs/ladder/claims_report; fi
	@$(BIN)/python -m eval.studies.price $(addprefix runs/ladder/prices/,$(PRICES_$(LADDER))) --output_dir runs/ladder/report

test: install
	@$(BIN)/python -m pytest -n auto -m 'not slow and not long'

# Two processes on one CPU abort now and then as they end (torch's gloo), so what failed here runs once more, by itself; the first
# failure stays in the output.
test-slow: install
	@$(BIN)/python -m pytest -n auto -m slow || { echo "once more, what failed:"; \
		$(BIN)/python -m pytest -n 0 -m slow --last-failed --last-failed-no-failures none; }

# DeepSpeed changes what other packages import, so it lies beside them and only the tests that ask for it see it; it compiles a part of
# itself when it first runs (g++, ninja). Without it these tests are skipped.
.venv/deepspeed: | install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --no-deps --target $@ \
		deepspeed einops hjson msgpack ninja py-cpuinfo || { rm -rf $@; echo "no DeepSpeed: its tests are skipped"; }

test-long: install .venv/deepspeed
	@$(BIN)/python -m pytest -n auto -m long
	@rm -rf runs/killed
	@$(BIN)/python tests/kill_runs.py --num 100 --folder runs/killed
	@$(BIN)/python tests/tasks/fuzz_verifier.py --num 1000000 --seed 1

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

tune: install
	@$(RUN_STUDY)/quick/tune.yaml --output_dir runs/tune

tune-ladder: ages
	@set -e; for reason in latent unacquired; do $(BIN)/python recipes/search.py --config eval/studies/price/search_$$reason.yaml \
		--output_dir runs/ladder/search_$$reason --output_file eval/studies/price/tuned_$$reason.yaml; done

PRETRAINED = runs/pretrained
MODEL ?=

pretrained: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[gguf,reasoning-gym]'
	@$(BIN)/python data/pretraining/get_smollm2.py $(if $(MODEL),--model_name_or_path $(MODEL))
	@$(BIN)/python -m eval.studies.pretrained.make_problems $(PRETRAINED)/problems
	@set -e; for part in compute compute_more; do $(RUN_STUDY)/pretrained/$$part.yaml --output_dir $(PRETRAINED)/$$part; done
	@$(BIN)/python -m eval.studies.exchange.make_data_limited --config eval/studies/pretrained/samples.yaml --output_dir $(PRETRAINED)/samples
	@$(BIN)/python -m eval.studies.pretrained $(PRETRAINED) --output_dir $(PRETRAINED)/report
