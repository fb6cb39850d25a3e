"""What the study of process rewards makes of runs whose numbers are known."""

import json

import pytest
from browsing import SCREENS, faults_of
from conftest import REPOSITORY
from made_runs import make_run, two_starts

from bitsample_llm.records import RecordError
from bitsample_llm.report.page import write_page
from bitsample_llm.report.runs import Arm, arms_of
from eval.studies.process_outcome.__main__ import HACKING, process_study

NAMES = ("studies.process_outcome", "studies/process_outcome", "test_process_outcome")


def credit_arms(folder, first_error_gain: float, rates=None) -> list[Arm]:
    """Outcome and process arms from a start of 2^-9, three seeds each; early stop changes nothing."""
    runs = []
    for seed in (1, 2, 3):
        for reward, gain in (("outcome", 0.1), ("process_sum", 0.1), ("first_error", first_error_gain)):
            for stops in (False, True):
                choices = {"trainer": "grpo", "reward": reward, "stop_at_first_error": stops}
                config = {"choices": choices, "training": {"learning_rate": (rates or {}).get(reward, 1e-4)}}
                name, noisy = f"{reward}{'_stop' * stops}", gain * (1 + 0.01 * seed)
                facts = {"config": config}
                runs.append(make_run(folder, "low", name, "rl", seed, noisy, steps=8, log2_start=-9.0, facts=facts))
    return arms_of(runs)


@pytest.mark.parametrize(
    ("gain", "verdict", "curve"), [(0.5, "supported", "it helps"), (0.2, "contradicted", "it makes no difference that matters")]
)
def test_claim_8_asks_for_three_times_the_rate_and_the_curve_for_a_margin(tmp_path, gain, verdict, curve):
    study = process_study(credit_arms(tmp_path, gain), "test")
    (asked,) = [claim for claim in study.claims if claim.number == 8]
    assert asked.verdict == verdict and asked.estimate.mean == pytest.approx(gain / 0.1)
    assert "the offered bits predict 4" in asked.statistic  # 12 over 3
    verdicts = {claim.text: claim.verdict for claim in study.claims}
    assert verdicts["From the low start, does first_error help?"] == curve
    assert verdicts["From the low start, does process_sum help?"] == "it makes no difference that matters"
    assert verdicts["From the low start, does the credit of first_error help beyond the bits of process_sum?"] == curve
    assert verdicts["From the low start, does an early stop help outcome?"] == "it makes no difference that matters"
    assert [headline.value for headline in study.headlines] == ["× 4", f"× {gain / 0.1:.3g}"]


def test_credit_is_told_from_bits_only_at_the_same_learning_rate(tmp_path):
    claims = process_study(credit_arms(tmp_path, 0.5, {"process_sum": 3e-5}), "test").claims
    asked = next(claim for claim in claims if "beyond the bits of" in claim.text)
    assert asked.verdict == "undecided: they ran at learning rates 0.0001 and 3e-05" and asked.estimate.mean > 0
    helped = next(claim for claim in claims if claim.text == "From the low start, does first_error help?")
    assert helped.verdict == "it helps"


def test_hacking_is_counted_from_the_rollouts(tmp_path):
    run = credit_arms(tmp_path, 0.5)[0].runs[0]
    values = {column.name: run.value(column) for column in HACKING}
    assert values["tokens, first tenth"] == values["steps, last tenth"] == 4.0
    assert values["passes with a wrong step"] == 0.0
    assert values["fails with all steps right"] == 0.0  # at most three of the four steps are right


def test_runs_without_an_outcome_reward_are_refused_in_one_line(tmp_path):
    with pytest.raises(RecordError, match="rewarded for the outcome alone"):
        process_study(two_starts(tmp_path), "test")


def test_the_scores_of_all_starts_fit_a_terminal(tmp_path):
    study = process_study(credit_arms(tmp_path, 0.5), "test")
    (table,) = study.terminal
    assert table.rows[0] == ["curve score (bits)", "low"]
    assert [row[0] for row in table.rows[1:]] == ["outcome", "process_sum", "first_error"]
    json.dumps(study.results, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_its_page_is_whole_and_legible(browser, tmp_path, screen):
    page = write_page(process_study(credit_arms(tmp_path / "runs", 0.5), "test"), tmp_path / "report")
    assert faults_of(browser, page, screen) == []


def test_nothing_but_this_test_names_the_study():
    """Deleting eval/studies/process_outcome breaks nothing else."""
    folders = [REPOSITORY / name for name in ("bitsample_llm", "recipes", "eval", "tests")]
    sources = [path for folder in folders for pattern in ("*.py", "*.yaml") for path in folder.rglob(pattern)]
    others = [path for path in sources if "process_outcome" not in (path.parent.name, path.stem.removeprefix("test_"))]
    assert len(others) > 100
    assert [str(path) for path in others if any(name in path.read_text() for name in NAMES)] == []
