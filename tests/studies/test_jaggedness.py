"""Does the theory of two strategies hold for a bandit that is differentiated by numbers, and are the problems what they claim?"""

import itertools
import json

import numpy as np
import pytest

from bitsample_llm.tasks.authors import STRATEGY_SIGNS, sum_without_carries
from eval.studies.jaggedness.bandit import (
    GROUP,
    WEIGHTS,
    crossing,
    kinship,
    path,
    share_at_crossing,
    slope,
    slope_by_digits,
    slope_of_kin,
    strategies,
)
from eval.studies.jaggedness.make_problems import MARKS, SHARES, STARTS, main

STARTS_GH = [(0.08, 0.5), (0.28, 0.5), (0.42, 0.5), (0.15, 0.7)]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def numerical_gradient(function, at):
    steps = np.eye(len(at)) * 1e-6
    return np.array([(function(at + step) - function(at - step)) / 2e-6 for step in steps])


@pytest.mark.parametrize(("gh", "s"), itertools.product(STARTS_GH, (0.0, 0.5, 0.95)))
def test_the_equation_of_policy_gradient_is_the_gradient_of_the_mean_reward_of_a_bandit(gh, s):
    g, h = gh
    logits = np.log([g, h, 1 - g - h])
    found = numerical_gradient(lambda x: softmax(x) @ [1.0, s, 0.0], logits)
    assert strategies(g, h, s, WEIGHTS["pass_rate"]) == pytest.approx(found, abs=1e-8)
    r = g + h * s
    assert slope(g, h, s, WEIGHTS["pass_rate"]) == pytest.approx(g * (1 - r) - h * (s - r))
    assert (slope(g, h, s, WEIGHTS["pass_rate"]) > 0) == (g * (1 - g + h * (1 - s)) > h * s * (1 - h))


@pytest.mark.parametrize(("gh", "s"), itertools.product(STARTS_GH, (0.0, 0.5, 0.95)))
def test_the_equation_of_labels_is_the_gradient_of_the_mean_log_likelihood(gh, s):
    g, h = gh
    logits = np.log([g, h, 1 - g - h])
    found = numerical_gradient(lambda x: s * np.log(softmax(x)[:2].sum()) + (1 - s) * np.log(softmax(x)[0]), logits)
    assert strategies(g, h, s, WEIGHTS["log_likelihood"]) == pytest.approx(found, abs=1e-7)
    closed_form = (1 - s) * (1 - g + h) + s * (g - h) * (1 - g - h) / (g + h)
    assert slope(g, h, s, WEIGHTS["log_likelihood"]) == pytest.approx(closed_form)


@pytest.mark.parametrize("p", [0.05, 0.4, 0.9])
def test_the_weight_of_a_group_is_what_its_advantages_do_on_average(p):
    rng = np.random.default_rng(0)
    passed = rng.random((400_000, GROUP)) < p
    advantages = passed - passed.mean(axis=1, keepdims=True)
    advantages /= np.maximum(passed.std(axis=1, ddof=1, keepdims=True), 1e-12)
    # the score of a logit that decides between passing and failing is (passed - p), and dp is p (1 - p) of it
    pushed = (advantages * (passed - p)).mean()
    assert WEIGHTS["group of 8"](p) * p * (1 - p) == pytest.approx(pushed, rel=0.02)


def test_the_crossings_are_those_of_the_essay_and_the_slopes_are_zero_there():
    assert crossing(0.5, 0.8, WEIGHTS["pass_rate"]) / 0.5 == pytest.approx(0.46, abs=0.005)
    assert crossing(0.7, 0.8, WEIGHTS["pass_rate"]) / 0.7 == pytest.approx(0.25, abs=0.005)
    assert crossing(0.5, 0.5, WEIGHTS["log_likelihood"]) is None
    for weight in WEIGHTS.values():
        share = share_at_crossing(0.16, 0.5, weight)
        assert crossing(0.5, share, weight) == pytest.approx(0.16, rel=1e-3)
        assert slope(0.16, 0.5, share, weight) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kin", [-0.4, 0.0, 0.3])
def test_a_kinship_is_read_off_the_slopes_that_it_makes(kin):
    for weight in WEIGHTS.values():
        ratio = slope_of_kin(0.16, 0.5, 1.0, weight, kin) / slope_of_kin(0.16, 0.5, 0.0, weight, kin)
        assert kinship(0.16, 0.5, ratio, weight) == pytest.approx(kin)


def test_two_gates_in_a_row_never_let_the_general_strategy_recede():
    def mean_reward(logits):
        some, general = softmax(logits[:2])[0], softmax(logits[2:])[0]
        return 0.9 * some + 0.1 * some * general

    g, h = 0.1, 0.5
    found = numerical_gradient(mean_reward, np.log([g + h, 1 - g - h, g / (g + h), h / (g + h)]))
    assert slope_by_digits(g, h, 0.9, WEIGHTS["pass_rate"]) == pytest.approx(found[2] - found[3], abs=1e-8)
    assert found[2] - found[3] > 0


def test_a_path_begins_at_the_start_and_follows_the_slope():
    found = path(0.16, 0.5, 0.95, WEIGHTS["pass_rate"], [0, 0.01, 100])
    log_odds = np.log(found[:, 0] / found[:, 1])
    assert found[0] == pytest.approx((0.16, 0.5))
    assert (log_odds[1] - log_odds[0]) / 0.01 == pytest.approx(slope(0.16, 0.5, 0.95, WEIGHTS["pass_rate"]), rel=0.02)


def test_the_rule_is_right_on_the_share_of_the_problems_and_no_pair_is_on_both_sides(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_problems", str(tmp_path)])
    main()

    def rows(name):
        return [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]

    def pair(row):
        return tuple(map(int, row["prompt"][1:-1].split("+")))

    for kind, start, mark in itertools.product(("reported", "tuning"), STARTS, MARKS):
        sign = STRATEGY_SIGNS[0] * (start == "named")
        right, rule, easy = np.array_split(rows(f"{kind}-{start}-{mark}-heldout"), 3)
        held_out = {tuple(sorted(pair(row))) for row in (*right, *rule, *easy)}
        assert [pair(row)[::-1] for row in right] == [pair(row) for row in rule]
        assert all(row["answer"] == sign + str(sum(pair(row)))[::-1] for row in (*right, *easy))
        assert all(
            row["answer"][::-1].startswith(sum_without_carries(*pair(row))) and row["answer"] != other["answer"]
            for row, other in zip(rule, right, strict=True)
        )
        for share in SHARES:
            trained = rows(f"{kind}-{start}-{mark}-{share:g}")
            is_easy = [sum_without_carries(*pair(row)) == str(sum(pair(row))) for row in trained]
            assert np.mean(is_easy) == pytest.approx(share, abs=0.01) and {row["prompt"][0] for row in trained} == {mark}
            assert not held_out & {tuple(sorted(pair(row))) for row in trained}
