"""Does the theory of two strategies hold for a bandit that is differentiated by numbers, and are the problems what they claim?"""

import itertools
import json

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.report.page import write_page
from bitsample_llm.tasks.authors import STRATEGY_SIGNS, sum_without_carries
from eval.studies.jaggedness.__main__ import jaggedness_study, read
from eval.studies.jaggedness.bandit import (
    GROUP,
    WEIGHTS,
    crossing,
    kinship,
    path,
    share_at_crossing,
    slope,
    slope_apart,
    slope_by_digits,
    slope_of_kin,
    strategies,
)
from eval.studies.jaggedness.claims import BRIDGE, bridge
from eval.studies.jaggedness.courses import Course, pack_courses
from eval.studies.jaggedness.kinship import AS_IT_IS, components, mean_ratio, rank_correlation, shifts
from eval.studies.jaggedness.kinship import read as read_models
from eval.studies.jaggedness.make_problems import MARKS, SHARES, STARTS, main
from eval.studies.jaggedness.make_signs import of_folder, swap
from eval.studies.jaggedness.models import models_study

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


@pytest.mark.parametrize(("gh", "s"), itertools.product(STARTS_GH, (0.5, 0.95)))
def test_an_episode_of_two_problems_is_that_of_a_bandit_that_chooses_once_or_anew(gh, s):
    g, h = gh
    logits = np.log([g, h, 1 - g - h])
    right_K = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # on problems that both strategies solve, and on the others
    shares_K = np.array([s, 1 - s])

    def passed(x, chooses_once):
        p = softmax(x)
        pairs = [(one, other, shares_K[one] * shares_K[other]) for one, other in itertools.product((0, 1), repeat=2)]
        if chooses_once:
            return sum(chance * p @ (right_K[one] * right_K[other]) for one, other, chance in pairs)
        return sum(chance * (p @ right_K[one]) * (p @ right_K[other]) for one, other, chance in pairs)

    weight = WEIGHTS["pass_rate"]
    together, apart = (numerical_gradient(lambda x, once=once: passed(x, once), logits) for once in (True, False))
    assert slope(g, h, s**2, weight) == pytest.approx(together[0] - together[1], abs=1e-8)
    assert 2 * slope_apart(g, h, s, weight, 2) == pytest.approx(apart[0] - apart[1], abs=1e-8)  # each of the two problems pushes


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


def made_slopes(start: str, model: str, mark: str, g: float, h: float, kin: float) -> dict:
    """An author whose slopes are those of a kinship, in a unit of its own."""
    by_objective = {
        name: {kind: [7 * slope_of_kin(g, h, s, weight, kin)] * 8 for kind, s in (("easy", 1.0), ("hard", 0.0))}
        for name, weight in WEIGHTS.items()
    }
    return {"start": start, "model": model, "mark": mark, "right": g, "rule": h, "log_odds": float(np.log(g / h)), **by_objective}


def made_course(mark: str, share: float, arm: str, model: str, seed: int) -> Course:
    """A run that goes one way at a steady pace: GRPO with SGD to the rule at F, the others to the general strategy."""
    flops = np.linspace(0, 100e9, 41)
    log_odds = -1 + (-1 if (mark, share, arm) == ("F", 0.95, "sgd") else 1) * flops / 25e9
    right = 1 / (1 + np.exp(-log_odds))
    about = {"settings": {"learning_rate": 1e-3}, "flop_budget": 100e9, "updates": list(range(41)), "flops": flops.tolist()}
    state = {"log_odds": log_odds.tolist(), "right": right.tolist(), "rule": (1 - right).tolist(), "easy": right.tolist()}
    return Course("named", mark, share, model, arm, seed, **about, **state)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    authors = {"C": (0.35, 0.35), "D": (0.25, 0.45), "E": (0.16, 0.54), "F": (0.08, 0.62)}
    rows = [
        made_slopes(start, model, mark, *gh, kin)
        for start, kin in (("named", -0.45), ("silent", 0.0))
        for model in "ab"
        for mark, gh in authors.items()
    ]
    (folder / "slopes.json").write_text(json.dumps(rows))
    cells = [("D", 0.95), ("E", 0.8), *(("F", share) for share in (0.0, 0.5, 0.8, 0.95))]
    courses = [made_course(*cell, "sgd", model, seed) for cell in cells for model in "ab" for seed in (1, 2, 3)]
    pack_courses(
        courses
        + [made_course("F", 0.95, arm, model, seed) for arm in BRIDGE if arm != "sgd" for model in "ab" for seed in (1, 2, 3)],
        folder,
    )
    return folder


def test_a_record_says_what_it_was_made_of(record, tmp_path):
    found = read([record])
    assert found.ratio("silent", "pass_rate", 0.8).mean == pytest.approx(1)
    assert found.ratio("named", "pass_rate", 0.8, -0.45).mean == pytest.approx(1)
    assert found.ratio("named", "pass_rate", 0.8).interval[1] < 0.5
    assert all(author.kinship(name) == pytest.approx(-0.45) for author in found.authors("named")["a"] for name in WEIGHTS)
    study = jaggedness_study(found, "a test")
    verdicts = {(claim.text, claim.statistic.partition(":")[0]): claim.verdict for claim in study.claims}
    assert verdicts["Is the crossing where the closed form says?", "silent, pass_rate, s = 0.8"] == "yes, within a factor of 2"
    assert verdicts["Is the crossing where the closed form says?", "named, pass_rate, s = 0.8"].startswith("contradicted")
    assert verdicts["Does GRPO with SGD fix on the rule?", "GRPO, SGD, F at 0.95"] == "yes"
    assert bridge(found)["GRPO, SGD, s = 0"][1].is_above  # the runs that fix have no price
    assert write_page(study, tmp_path).is_file()


def test_many_models_are_told_apart_by_their_first_pretraining_and_by_their_signs(tmp_path):
    authors = {"C": (0.35, 0.35), "D": (0.25, 0.45), "E": (0.16, 0.54), "F": (0.08, 0.62)}
    kin = {"base.1": -0.45, "base.2": -0.44, "base_unused.1": 0.0, "rungs1.1": 0.0, "rungs1.2": 0.01, "gates0.1": 0.02}
    rows = [
        made_slopes("named", model, mark, g, h - place / 100, of_model)
        for place, (model, of_model) in enumerate(kin.items())
        for mark, (g, h) in authors.items()
    ]
    rows += [made_slopes("named", "rungs2.1", mark, g / 3, h / 3, 0.0) for mark, (g, h) in authors.items()]  # knows neither
    for row in rows:
        row["group of 8"]["sign"] = {"0.95": 1.0}
    (tmp_path / "slopes.json").write_text(json.dumps(rows))
    signs = {
        model.partition(".")[0]: {"nearness": -1.0, "squared_distance": 20.0 * (of_kin < -0.1)} for model, of_kin in kin.items()
    }
    (tmp_path / "signs.json").write_text(json.dumps(signs | {"rungs2": signs["rungs1"]}))
    pack_courses([made_course("F", 0.95, arm, "base.1", 1) for arm in ("sgd", "adamw")], tmp_path)
    found = read_models([tmp_path])
    natural = found.of([AS_IT_IS])
    assert [model.name for model in found.models if not model.counts] == ["rungs2.1"]
    assert {group: len(models) for group, models in natural.items()} == {"base": 2, "rungs1": 2, "gates0": 1}
    assert mean_ratio(found.of(["unused"])).mean == pytest.approx(1, rel=0.05)
    assert components(natural, lambda model: model.kinship).share.interval[0] > 0.5
    assert components({"gates0": natural["gates0"]}, lambda model: model.kinship) is None
    assert shifts(found, "unused").interval == pytest.approx((0.445, 0.445))
    assert rank_correlation(natural, lambda model: model.foretold).mean is None  # too few
    study = models_study(found, "a test")
    verdicts = {claim.statistic.partition(":")[0]: claim.verdict for claim in study.claims}
    assert verdicts["a new sign for right"] == "yes" and verdicts["a known sign for the rule"] == "undecided: not measured"
    assert write_page(study, tmp_path / "page").is_file()


def test_a_sign_swapped_with_another_character_takes_its_place(tmp_path):
    base = REPOSITORY / "data" / "base"
    swap(base, tmp_path / "rule", "=:")
    swap(base, tmp_path / "unused", "=;")
    before, rule, unused = (of_folder(folder) for folder in (base, tmp_path / "rule", tmp_path / "unused"))
    assert rule["norms"] == [before["norms"][place] for place in (1, 0, 2)]
    assert before["nearness"] == pytest.approx(-rule["nearness"]) and before["squared_distance"] == rule["squared_distance"] > 20
    assert unused["squared_distance"] < 1
