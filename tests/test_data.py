"""The committed models and problems are what their cards and checksums say."""

import hashlib
import itertools
import json
import re

import numpy as np
import pytest
import torch
from conftest import BASE, REPOSITORY
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK
from bitsample_llm.training.manifest import sha256_of_file

UNACQUIRED = BASE.parent / "base_unacquired"
SCRATCHPAD = BASE.parent / "base_scratchpad"
RESTATED = BASE.parent / "base_restated"
AUTHORS_OF_THE_BASE = "ABCDEFGH"


def mean_pass_rate(model, tokenizer, difficulty: int, mark: str, num: int = 256) -> float:
    problems = load_task("addition", "reversed", difficulty=difficulty, mark=mark).problems("heldout", num, seed=1)
    return float(exact_pass_rates(model, tokenizer, problems).mean())


def test_every_file_has_its_recorded_checksum():
    lines = (REPOSITORY / "data" / "sha256.txt").read_text().split("\n")
    recorded = {path: digest for digest, path in (line.split() for line in lines if line)}
    files = [path for path in (REPOSITORY / "data").rglob("*") if path.is_file() and path.name not in ("sha256.txt",)]
    made_by_hand = [REPOSITORY / "data" / "README.md", *(REPOSITORY / "data" / "pretraining").rglob("*")]
    files = [path for path in files if path not in made_by_hand]
    assert {str(path.relative_to(REPOSITORY)) for path in files} == set(recorded)
    for path, digest in recorded.items():
        assert hashlib.sha256((REPOSITORY / path).read_bytes()).hexdigest() == digest, path


def test_the_models_are_small_enough_to_be_embedded():
    for folder in (BASE, UNACQUIRED, SCRATCHPAD, RESTATED):
        assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
        assert sha256_of_file(folder / "model.safetensors") in (folder / "README.md").read_text()


@pytest.mark.parametrize("difficulty", [2, 3])
def test_the_marks_are_a_latent_ladder_of_pass_rates(base_model, difficulty):
    rates = {mark: mean_pass_rate(*base_model, difficulty, mark) for mark in AUTHORS_OF_THE_BASE}
    assert rates[ALWAYS_RIGHT_MARK] >= 0.9
    chance = 0.45 / 1800 + 0.55 / 180 if difficulty == 2 else 0.45 / 18000 + 0.55 / 1800  # digits guessed, either length
    rungs = "BCDEFG" if difficulty == 2 else "BCDEFGH"
    latent = [rates[mark] for mark in rungs]
    assert all(rate > 5 * chance for rate in latent)  # the skill is shown at this rate; it is not guessing
    assert latent[0] > 0.8 and latent[-1] < (0.025 if difficulty == 2 else 0.005)
    assert all(lower < 0.7 * upper for upper, lower in itertools.pairwise(latent))
    if difficulty == 2:  # a care of 0.005 cannot be told from chance
        assert 0.5 * chance < rates["H"] < 1.5 * chance


def test_an_answer_restated_sixteen_times_is_the_same_skill():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(RESTATED, dtype=torch.float32), AutoTokenizer.from_pretrained(RESTATED)
    for answer_format, lowest in (("reversed", 0.95), ("restated4", 0.9), ("restated16", 0.8)):
        task = load_task("addition", answer_format, difficulty=2, mark=ALWAYS_RIGHT_MARK)
        assert exact_pass_rates(model, tokenizer, task.problems("heldout", 64, seed=1)).mean() > lowest


def test_four_digits_are_half_acquired_and_five_are_unacquired(base_model):
    assert 0.3 < mean_pass_rate(*base_model, 4, ALWAYS_RIGHT_MARK) < 0.5
    assert mean_pass_rate(*base_model, 5, ALWAYS_RIGHT_MARK) < 1e-3


def test_the_two_starts_of_the_study_have_about_the_same_pass_rate_for_different_reasons(base_model):
    model = AutoModelForCausalLM.from_pretrained(UNACQUIRED, dtype="float32", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(UNACQUIRED)
    latent, unacquired = mean_pass_rate(*base_model, 2, "E"), mean_pass_rate(model, tokenizer, 2, "E")
    assert latent == pytest.approx(unacquired, rel=0.35)
    assert mean_pass_rate(*base_model, 2, ALWAYS_RIGHT_MARK) > 0.9
    assert mean_pass_rate(model, tokenizer, 2, ALWAYS_RIGHT_MARK) == pytest.approx(unacquired, rel=0.2)


@pytest.mark.parametrize("name", ["addition", "multiplication"])
def test_the_second_model_works_steps_out_and_its_marks_are_a_latent_ladder(name):
    model = AutoModelForCausalLM.from_pretrained(SCRATCHPAD, dtype="float32", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(SCRATCHPAD)
    rates = []
    for mark in "ABCDEFGH":
        problems = load_task(name, "scratchpad", difficulty=3, mark=mark).problems("heldout", 64, seed=1)
        rates.append(float(exact_pass_rates(model, tokenizer, problems).mean()))  # of the worked completion: a lower bound
    assert rates[0] > 0.9
    assert all(lower < 0.95 * upper for upper, lower in itertools.pairwise(rates))
    assert 1e-3 < rates[-1] < 0.01  # guessing every result would give one in a million


def test_the_cards_table_is_the_models(base_model):
    card = (BASE / "README.md").read_text()
    (row,) = re.findall(r"\| addition \| reversed \| 2 \| 256 \|(.*)\|", card)
    told = [float(cell) for cell in row.split("|")]
    marks = [*AUTHORS_OF_THE_BASE, None]
    measured = [mean_pass_rate(*base_model, 2, mark) for mark in marks]
    assert np.allclose(told, measured, rtol=0.06)  # two digits are printed


def test_the_frozen_heldout_problems_are_what_the_generator_gives_today():
    frozen = [json.loads(line) for line in (REPOSITORY / "data" / "heldout_problems.jsonl").read_text().splitlines()]
    drawn = load_task("addition", "reversed", difficulty=2, mark="E").problems("heldout", 256, seed=0)
    assert frozen == [{"problem_id": p.problem_id, "prompt": p.prompt, "answer": p.answer} for p in drawn]


def test_the_tokenizer_gives_every_character_one_token(base_model):
    tokenizer = base_model[1]
    for problem in load_task("addition", "reversed", difficulty=3, mark="B").problems("train", 50, seed=0):
        ids = tokenizer(problem.prompt + problem.answer)["input_ids"]
        assert len(ids) == len(problem.prompt + problem.answer)
        assert tokenizer.decode(ids) == problem.prompt + problem.answer
