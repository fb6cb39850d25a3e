"""The plan: its estimators against what is exact, its verdicts on records of known pass rates, and the page."""

import json
import math
import re
from math import comb

import numpy as np
import pytest
from made_runs import HALF, MEASUREMENT, make_measurement
from scipy import stats

from bitsample_llm.estimators import beta_binomial_fit, group_pass_probabilities, jackknife_entropy_bits
from bitsample_llm.information import binary_entropy_bits, break_even_pass_rate, informative_group_probability, surprisal_bits
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.report.plan.command import plan as plan_command
from bitsample_llm.report.plan.numbers import plan_of


@pytest.mark.parametrize("pass_rate", [0.0, 0.03, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("group_size", [1, 4, 12])
def test_passes_in_a_group_are_estimated_without_bias(pass_rate, group_size):
    num, counts = 12, np.arange(13)
    estimates = group_pass_probabilities(counts, np.full(13, num), group_size)
    expected = stats.binom.pmf(counts, num, pass_rate) @ estimates
    assert expected == pytest.approx(stats.binom.pmf(np.arange(group_size + 1), group_size, pass_rate), abs=1e-12)
    if group_size > 1:
        informative = expected[1:-1].sum()
        assert informative == pytest.approx(informative_group_probability(pass_rate, group_size), abs=1e-12)
    for count, row in zip(counts.tolist(), estimates, strict=True):
        assert row[0] == pytest.approx(comb(num - count, group_size) / comb(num, group_size))
        assert row[-1] == pytest.approx(comb(count, group_size) / comb(num, group_size))


def test_groups_larger_than_the_rollouts_at_hand_are_refused():
    with pytest.raises(ValueError, match="group_size must lie between 1 and num_samples, got 9 of 8"):
        group_pass_probabilities([1, 2], [8, 16], 9)


def test_the_beta_fit_finds_what_the_counts_were_drawn_from_and_bears_the_edges():
    rng = np.random.default_rng(1)
    counts = rng.binomial(16, rng.beta(0.5, 2.0, 4000))
    assert beta_binomial_fit(counts, np.full(4000, 16)) == pytest.approx((0.5, 2.0), rel=0.1)
    for edge in (0, 16):
        a, b = beta_binomial_fit(np.full(50, edge), np.full(50, 16))
        assert a / (a + b) == pytest.approx(edge / 16, abs=1e-3)


@pytest.mark.parametrize("cost_ratio", [0.1, 1.0, 1.5, 4.0, 12.0])
def test_at_the_break_even_pass_rate_both_tell_as_much_per_flop(cost_ratio):
    p = break_even_pass_rate(cost_ratio)
    assert binary_entropy_bits(p) / cost_ratio == pytest.approx(surprisal_bits(p), rel=1e-6)


def test_no_pass_at_all_is_a_waste_and_keeps_nothing(tmp_path):
    plan, _, keep = plan_of(make_measurement(tmp_path / "run", np.zeros(200)))
    assert plan["advice"]["verdict"].startswith("RL would be a waste: nearly every group")
    assert not keep.any() and plan["kept"]["num_prompts"] == 0
    assert plan["kept"]["offered_bits_per_rollout"] == {"mean": None, "interval": None, "n": 0}
    assert plan["best_group_size"]["informative_groups"] is None
    assert plan["rollouts_needed"]["prompts_needed"] is None
    assert plan["prices"]["label_over_rollout"] is None and plan["prices"]["offered_bits_per_rollout"]["mean"] == 0


def test_always_passing_is_a_waste_because_it_is_solved(tmp_path):
    plan, _, keep = plan_of(make_measurement(tmp_path / "run", np.ones(200)))
    assert plan["advice"]["verdict"] == "RL would be a waste: solved already"
    assert not keep.any()


def test_half_hopeless_and_half_solved_is_a_waste_though_the_mean_is_one_half(tmp_path):
    plan, _, keep = plan_of(make_measurement(tmp_path / "run", np.repeat([0.0, 1.0], 100)))
    assert plan["pass_rate"]["mean"] == 0.5
    assert plan["advice"]["verdict"].startswith("RL would be a waste: nearly every group") and not keep.any()


@pytest.mark.parametrize("pass_rate", [0.0, 1.0])
def test_a_handful_of_prompts_that_are_alike_prove_nothing(tmp_path, pass_rate):
    pass_rates = np.full(4, pass_rate)
    plan, _, _ = plan_of(make_measurement(tmp_path / "run", pass_rates, {"mark": pass_rates}, half=2))
    assert plan["advice"]["verdict"] == "undecided: too few prompts or rollouts"


def test_evenly_spread_pass_rates_give_the_numbers_of_the_even_distribution(tmp_path):
    pass_rates = (np.arange(400) + 0.5) / 400
    plan, _, keep = plan_of(make_measurement(tmp_path / "run", pass_rates))
    assert plan["advice"]["verdict"] == "RL can pay"
    assert keep[(pass_rates > 0.3) & (pass_rates < 0.7)].mean() > 0.98 and 0.8 < keep.mean() < 1
    assert [row["source"] for row in plan["groups"]] == ["counts"] * 4 + ["fit"]
    for row in plan["groups"]:
        low, high = row["informative_fraction"]["interval"]
        assert low <= 1 - 2 / (row["group_size"] + 1) <= high
    offered = plan["prices"]["offered_bits_per_rollout"]
    assert offered["interval"][0] <= 1 / (2 * math.log(2)) <= offered["interval"][1]  # mean of H(p) over even p
    assert plan["best_group_size"]["informative_groups"] == 4
    break_even = break_even_pass_rate(8e6 / 4e6)
    assert plan["prices"]["break_even_pass_rate"] == pytest.approx(break_even)
    assert plan["prices"]["share_of_prompts_above"] == pytest.approx(1 - break_even, abs=0.05)


def test_the_hopeless_and_the_solved_are_dropped_where_prompts_differ_and_luck_drops_none_where_they_do_not(tmp_path):
    differing = np.repeat([0.0, 0.5, 1.0], 100)
    _, _, keep = plan_of(make_measurement(tmp_path / "differing", differing))
    assert (keep == (differing == 0.5)).all()
    run = make_measurement(tmp_path / "alike", np.full(300, 0.06))
    assert sum(row["num_passed"] == 0 for row in run.table("prompts").to_pylist()) > 100
    assert plan_of(run)[2].all()


def test_exact_pass_rates_take_the_place_of_counts(tmp_path):
    pass_rates = np.linspace(0.01, 0.6, 60)
    plan, _, _ = plan_of(make_measurement(tmp_path / "run", pass_rates, is_exact=True))
    assert plan["prices"]["offered_bits_per_rollout"]["mean"] == pytest.approx(binary_entropy_bits(pass_rates).mean())
    for row, estimated in zip(plan["groups"], plan["groups_estimated"], strict=True):
        expected = informative_group_probability(pass_rates, row["group_size"]).mean()
        assert row["source"] == "exact" and row["informative_fraction"]["mean"] == pytest.approx(expected)
        low, high = estimated["informative_fraction"]["interval"]
        assert low - 0.03 <= expected <= high + 0.03


def test_bits_of_the_kept_prompts_are_those_of_rollouts_that_did_not_select_them(tmp_path):
    rng = np.random.default_rng(3)
    errors, flattered = [], []
    for repeat in range(10):
        pass_rates = rng.beta(0.15, 1.5, 200)
        run = make_measurement(tmp_path / str(repeat), pass_rates, rng=rng, half=32)
        plan, _, keep = plan_of(run, group_size=4)
        errors.append(plan["kept"]["pass_rate_estimate"]["mean"] - pass_rates[keep].mean())
        rows = [row for row in run.table("prompts").to_pylist() if row["generation_step"] == 1]
        selected = np.array([row["num_passed"] / row["group_size"] for row in rows])[keep]
        flattered.append(selected.mean() - pass_rates[keep].mean())
    spread = np.std(errors, ddof=1) / math.sqrt(len(errors))
    assert abs(np.mean(errors)) < 3 * spread
    assert np.mean(flattered) > 3 * spread  # the selecting half would have reported too much


def test_rollouts_needed_follow_from_the_variance_within_prompts(tmp_path):
    num = 3000
    plan, _, _ = plan_of(make_measurement(tmp_path / "run", np.full(num, 0.1), half=8))
    passed = np.arange(9)
    weights, bits = stats.binom.pmf(passed, 8, 0.1), jackknife_entropy_bits(passed, np.full(9, 8))
    mean = weights @ bits
    within = (weights @ bits**2 - mean**2) / 2  # of the mean of two halves
    needed = plan["rollouts_needed"]
    assert needed["within_variance"] == pytest.approx(within, rel=0.1)
    assert needed["between_variance"] == pytest.approx(0, abs=within / 10)
    assert needed["prompts_needed"] == pytest.approx(within * (1.96 / (0.1 * mean)) ** 2, rel=0.2)
    assert needed["rollouts_needed"] == 16 * needed["prompts_needed"]


LOW = np.linspace(0.05, 0.15, 80)
PROBES = {
    "a better prompt shows it": ({"prefix": LOW * 8 * 0.8}, {}, "RL can pay: the skill is latent"),
    "updates show it": ({"heldout": LOW, "updates": LOW * 3, "mark": LOW}, {}, "RL can pay: the skill is latent"),
    "nothing shows it": ({"mark": LOW, "heldout": LOW, "updates": LOW}, {}, "labels first: the skill is not there yet"),
    "the probe broke the prompt": ({"shots": LOW * 0}, {}, "undecided"),
    "the updates moved nothing": ({"heldout": LOW, "updates": LOW}, {"updates_moved_bits": 0.01}, "undecided"),
    "no probe": ({}, {}, "undecided"),
}


@pytest.mark.parametrize("name", PROBES)
def test_at_a_low_pass_rate_the_probe_decides(tmp_path, name):
    probed, manifest, verdict = PROBES[name]
    plan, _, _ = plan_of(make_measurement(tmp_path / "run", LOW, probed, is_exact=True, **manifest))
    assert plan["advice"]["verdict"].startswith(verdict)


def test_a_better_prompt_is_found_at_a_middling_pass_rate_too(tmp_path):
    run = make_measurement(tmp_path / "run", LOW * 4, {"prefix": LOW * 6}, is_exact=True)
    assert plan_of(run)[0]["advice"]["do"].startswith("use the better prompt first (a prefix)")


def test_the_plan_is_printed_and_written_with_a_text_for_every_picture(tmp_path, capsys):
    pass_rates = np.linspace(0, 1, 50)
    make_measurement(tmp_path / "run", pass_rates, {"mark": np.sqrt(pass_rates)})
    plan_command([str(tmp_path / "run"), "--group_size", "16"])
    printed = capsys.readouterr().out
    assert printed.startswith("RL CAN PAY") and "plan.html" in printed
    folder = tmp_path / "run" / "plan"
    page = (folder / "plan.html").read_text()
    assert not re.findall(r"(?:src|href)=['\"](?!#)", page)
    pictures = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert len(pictures) == 4 and all(len(text) >= 40 for text in pictures)
    assert sorted(path.stem for path in folder.glob("figures/*")) == ["essay", "groups", "pass_rates", "probes"]
    plan = json.loads((folder / "plan.json").read_text())
    kept = [json.loads(line) for line in (folder / "keep.jsonl").read_text().splitlines()]
    assert len(kept) == plan["kept"]["num_prompts"] and plan["kept"]["group_size"] == 16
    for line in kept:
        assert line["prompt"] == f"{line['answer']}+0=" and line["problem_id"] == f"p{line['answer']}"
        assert line["estimated_from"] == "selection half" and line["num_rollouts"] == HALF


REFUSED = {
    "another run": ({"regime": "rl", "trainer": "GRPOTrainer"}, "finished", "is a run of GRPOTrainer: a plan needs one of"),
    "a failed one": ({}, "failed", "holds a failed measurement (Trouble: it broke): go on with"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_finished_measurement_is_refused_in_one_line(tmp_path, name):
    manifest, state, message = REFUSED[name]
    make_measurement(tmp_path / "run", LOW, state=state, **manifest)
    with pytest.raises(SystemExit, match=re.escape(message)):
        plan_command([str(tmp_path / "run")])


def test_a_killed_measurement_says_so(tmp_path):
    RunWriter.create(tmp_path / "killed", MEASUREMENT)
    with pytest.raises(SystemExit, match="holds a running measurement, killed or still under way"):
        plan_command([str(tmp_path / "killed")])
