"""The study of learned rewards: runs whose prices, shares and falls are known, and the course of a real one."""

import math

import numpy as np
import pytest
from conftest import BASE
from test_real_models import ran

from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, pack_prices
from bitsample_llm.report.remedies import prices_of
from eval.studies.learned_reward.__main__ import courses_table, learned_reward_study, read
from eval.studies.learned_reward.claims import (
    DRAW_FLOPS,
    GIVEN,
    READ_FLOPS,
    as_good_as_exact,
    drift,
    exploited_counts,
    is_overrated,
    is_unlearned,
    since,
)
from eval.studies.learned_reward.courses import Course, course_of, pack_courses

PRICE = {
    "outcome": 2e10,
    "exact": 1e10,
    "learned_16": 2e10,
    "learned_64": 1.6e10,
    "learned_256": 3e10,
    "learned_16_on": 1e10,
    "shuffled": 1e13,
}
ROLLOUT_FLOPS = 1e8
SPENT = {"learned_64": 4e9, "learned_256": 1.4e10}  # before the judge had its verdicts


def made_run(model: str, arm: str, seed: int, falls: bool) -> PricedRun:
    """A run that reaches 90 % of the bits at its price, and a pass rate that ends at half of its best where it falls."""
    flops = np.array([0.0, *np.geomspace(5e8, 2e11, 80)])
    log2_p = math.log2(0.01) * (1 - np.clip(0.9 * flops / PRICE[arm], 0, 0.95))
    pass_rate = 2**log2_p
    pass_rate[-1] *= 0.5 if falls else 1
    about = {
        "tags": {"rung": "latent G", "model": model, "reason": "latent"},
        "settings": {"learning_rate": 3e-4},
        "flop_budget": 2e11,
    }
    amounts = {"updates": (flops / 1e9).tolist(), "samples": (flops / ROLLOUT_FLOPS).tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": pass_rate.tolist(), "kl_bits": [None] * len(flops)}
    return PricedRun(
        f"latent G {model}", arm, seed, log2_p_before=[math.log2(0.01)] * 4, gains_elsewhere={}, **about, **amounts, **state
    )


def made_course(model: str, arm: str, seed: int, true=(0.1, 0.4, 0.8, 0.6, 0.4), seen=(0.1, 0.2, 0.2, 0.3, 0.3)) -> Course:
    """Two updates in each fifth; of ten steps in each, nine are judged right at first and five in the end."""
    is_judge = arm not in ("outcome", "exact")
    shares = [value for value in true for _ in range(2)]
    steps, right = [0.0] * 9 + [10.0], [[0.0] * 9 + [float(9 - number // 2)] for number in range(10)]
    counts = (
        {"steps": [steps] * 10, "right": right, "probability": [[0.0] * 9 + [9.5]] * 10}
        if is_judge
        else {"steps": [], "right": [], "probability": []}
    )
    judged_shares = [value for value in seen for _ in range(2)] if is_judge else shares
    about = ("latent G", model, arm, seed, SPENT.get(arm, 0.0), 16 if is_judge else 0)
    return Course(*about, (np.arange(1, 11) * 2e10).tolist(), shares, shares, shares, shares, judged_shares, **counts)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of a packed record."""
    folder = tmp_path_factory.mktemp("record")
    places = [(model, arm, seed) for model in "ab" for arm in PRICE for seed in (1, 2, 3)]
    pack_prices([made_run(*place, falls=place[1] == "learned_16") for place in places], folder)
    pack_courses([made_course(*place) for place in places], folder)
    return read([str(folder)])


def test_factors_are_quotients_of_prices_and_a_judge_that_is_given_is_cheaper_by_what_it_took(found):
    assert found.factor("latent G", "exact", HALF).estimate.mean == pytest.approx(2, rel=0.02)
    assert found.factor("latent G", "learned_256", NINE_TENTHS).estimate.mean == pytest.approx(2 / 3, rel=0.02)
    given = prices_of(found.runs, "latent G", "learned_64" + GIVEN, NINE_TENTHS).by_model["a"][0]
    assert given == (pytest.approx(1.6e10 - 4e9, rel=0.02), True)
    run = since(made_run("a", "learned_64", 1, falls=False), 4e9)
    assert run.flops[0] == 0 and run.flops[1] > 0 and len(run.flops) == len(run.log2_p) == len(run.pass_rate)


def test_the_closed_form_adds_the_judges_rollouts_and_its_reading_of_all_others(found):
    quotient = as_good_as_exact(found, "latent G", "learned_64", NINE_TENTHS).estimate.mean
    expected = 1e10 + 64 * (DRAW_FLOPS + READ_FLOPS) + 1e10 / ROLLOUT_FLOPS * READ_FLOPS
    assert quotient == pytest.approx(expected / 1.6e10, rel=0.02)


def test_a_policy_unlearns_where_truth_falls_and_the_judge_does_not_see_it():
    falls, stays = (made_run("a", "learned_16", 1, falls) for falls in (True, False))
    course = made_course("a", "learned_16", 1)
    assert is_unlearned(falls, course) and not is_unlearned(stays, course) and not is_overrated(course)
    assert not is_unlearned(falls, made_course("a", "learned_16", 1, seen=(0.1, 0.2, 0.4, 0.3, 0.3)))  # the judge saw it
    assert is_overrated(made_course("a", "learned_16", 1, seen=(0.1, 0.2, 0.4, 0.5, 0.6)))
    assert not is_unlearned(falls, made_course("a", "exact", 1))  # what pays is the truth


def test_the_page_says_what_was_found(found):
    assert exploited_counts(found.pairs("latent G", "learned_16")) == (6, 0, 6, 6)
    assert drift(found, "latent G", "learned_64").mean == pytest.approx(-0.4)
    study = learned_reward_study(found, "made")
    verdicts = {(claim.text, claim.statistic.split(", ")[-1]): claim.verdict for claim in study.claims}
    said = {text: verdict for (text, _), verdict in verdicts.items()}
    assert said["Do exact verdicts on steps save FLOPs?"] == "helps"
    assert said["Does a judge of 256 rollouts save FLOPs?"] == "no, it costs more"
    assert (
        said["Is the reward exploited, judge of 16 rollouts?"] == "yes"
        and said["Is the reward exploited, judge of 64 rollouts?"] == "no"
    )
    assert said["Does a judge of shuffled verdicts teach?"] == "no: 0 of 6"
    assert said["How does the judge of 64 rollouts drift?"] == "it falls"
    assert said["Is the judge of 16, learning on, better in the end than the judge of 16 rollouts?"] == "yes"
    row = next(row for row in courses_table(found).rows if row[1] == "judge of 16 rollouts")
    assert row[2] == "6" and row[-4:] == ["0", "6", "0.9", "0.5"]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_the_course_of_a_run_begins_where_the_judge_had_learned(monkeypatch, tmp_path):
    options = {
        "answer_format": "reversed",
        "difficulty": 2,
        "mark": "E",
        "num_train_problems": 64,
        "num_heldout_problems": 4,
        "max_completion_length": 4,
    }
    options |= {
        "per_device_train_batch_size": 8,
        "reward": "first_error",
        "judge_rollouts": 16,
        "max_steps": 6,
        "disable_tqdm": "true",
    }
    tags = {"start": "latent G a", "arm": "learned_16", "tags": "rung=latent G"}
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", **options, **tags)
    run.manifest["tags"] |= {"model": "a"}
    course = course_of(run)
    assert (
        len(course.flops) == len(course.steps) == 4
        and course.verdicts == 16
        and course.key == ("latent G", "a", run.manifest["seed"])
    )
    assert course.judged_flops == run.steps[1]["flops/total"] < course.flops[0] == run.steps[2]["flops/total"]
    assert 0 <= course.accuracy(0) <= 1
