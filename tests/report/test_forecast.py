"""Forecasts of a run from its beginning: the arithmetic, and what the plan says of short runs."""

import json
import math

import numpy as np
import pytest
from made_runs import make_measurement, make_run

from bitsample_llm.records import RecordError, read_run
from bitsample_llm.report.plan.command import plan as plan_command
from bitsample_llm.report.plan.forecast import (
    LEAST_SHARE,
    TYPICAL_SHARE,
    Beginning,
    Law,
    Money,
    beginning_of,
    calibration,
    forecast_of,
    label_price,
    law_of,
    short_run,
    training_costs,
)
from bitsample_llm.report.prices import priced_run

FACTS = {"config": {"training": {"learning_rate": 1e-4}, "study": {}}}


def begun(share: float, flops=1e9, samples=10.0, to_half=None) -> Beginning:
    return Beginning(20, samples, flops, share, to_half)


def test_a_forecast_goes_along_a_straight_line_through_the_beginning():
    found = forecast_of(begun(0.1), Law(0.0, 0.5, 0.0))
    assert found.median == pytest.approx(5e9)  # five times the bits for five times the FLOPs
    assert np.log(np.array(found.interval) / 5e9) == pytest.approx([-0.5 * 1.2816, 0.5 * 1.2816], abs=1e-3)
    assert found.probability_within(5e9) == pytest.approx(0.5) and found.probability_within(1e8) == 0
    assert forecast_of(begun(0.1), Law(math.log(2), 0.5, 0.0)).median == pytest.approx(1e10)


def test_next_to_no_gain_and_a_loss_say_the_same_and_less_than_a_gain():
    law = Law(0.0, 0.5, -1.0)
    lost, nothing, some = (forecast_of(begun(share), law) for share in (-0.2, 0.0, TYPICAL_SHARE))
    assert lost == nothing and nothing.median == pytest.approx(1e9 * 0.5 / LEAST_SHARE)
    assert some.log_sd == pytest.approx(0.5) and nothing.log_sd == pytest.approx(0.5 * TYPICAL_SHARE / LEAST_SHARE)


def test_what_was_spent_without_getting_there_was_not_enough_and_what_is_there_is_known():
    low, _ = forecast_of(begun(0.45), Law(0.0, 2.0, 0.0)).interval
    assert low == 1e9
    there = forecast_of(begun(0.7, to_half=4e8), Law(0.0, 2.0, 0.0))
    assert there.interval == pytest.approx((4e8, 4e8), rel=1e-3) and there.probability_within(5e8) == 1


def test_a_label_may_cost_what_rollouts_cost_more_over_the_labels_they_save():
    sure = Law(0.0, 1e-9, 0.0)
    labels, rollouts = forecast_of(begun(0.1, flops=1e9, samples=10), sure), forecast_of(begun(0.05, flops=1e10), sure)
    price = label_price(labels, rollouts, 1e9, Money.of(None, None))
    assert price["median"] == pytest.approx((1e11 - 5e9) / 50, rel=1e-6) and price["unit"] == "FLOPs"
    assert price["probability_rollouts_cheaper"] == 0
    dear = label_price(labels, rollouts, 1e-5, Money.of(2.0, 1e12))  # two a hour of 1e12 FLOP/s
    assert dear["median"] == pytest.approx((1e11 - 5e9) / 50 * 2 / 3600e12, rel=1e-6) and dear["probability_rollouts_cheaper"] == 1
    free = label_price(rollouts, labels, None, Money.of(None, None))
    assert free["median"] < 0 and free["probability_rollouts_cheaper"] is None


def test_the_calibration_is_of_recorded_runs_and_its_laws_are_usable():
    found = calibration()
    for kind in ("labels", "rollouts"):
        assert law_of(kind).sd(0.1) > 0 and 0 <= found["scores"][kind]["coverage"] <= 1
        assert len(found["points"][kind]) == found["scores"][kind]["n"] > 100
    assert "eval/records/" in found["made_by"]


@pytest.fixture(scope="module")
def short_runs(tmp_path_factory):
    """A run by labels that gains a tenth of the bits, and one by rollouts that gains a fortieth."""
    folder = tmp_path_factory.mktemp("short")
    make_run(folder, "latent", "sft", "sft", 1, 0.1, facts=FACTS)
    make_run(folder, "latent", "grpo", "rl", 1, 0.025, facts=FACTS)
    make_measurement(folder / "measured", np.linspace(0.05, 0.2, 40))
    return folder


def test_the_plan_says_what_training_would_cost_and_what_a_label_may(short_runs, capsys):
    runs = [str(short_runs / f"latent-{arm}-1") for arm in ("sft", "grpo")]
    plan_command([str(short_runs / "measured"), "--short_runs", *runs, "--flop_budget", "3e13", "--label_cost", "1e12"])
    printed = capsys.readouterr().out
    plan = json.loads((short_runs / "measured" / "plan" / "plan.json").read_text())
    labels, rollouts = plan["training"]["short_runs"]
    assert (labels["learns_from"], rollouts["learns_from"]) == ("labels", "rollouts")
    assert labels["share_gained"] == pytest.approx(0.1) and labels["updates"] == 4 and labels["samples"] == 40
    assert labels["flops_to_half"]["median"] == pytest.approx(4e12 * 5 * math.exp(law_of("labels").log_factor))
    assert labels["samples_to_half"]["median"] == pytest.approx(labels["flops_to_half"]["median"] * 1e-11)
    assert labels["probability_within_budget"] > rollouts["probability_within_budget"]
    assert "Below" in printed and "per label half of the bits is cheaper by labels" in printed and "short run" in printed
    page = (short_runs / "measured" / "plan" / "plan.html").read_text()
    assert "What would training cost?" in page and "How good are such forecasts?" in page


def test_a_run_of_a_plain_script_is_a_short_run_too(tmp_path):
    make_run(tmp_path, "latent", "sft", "sft", 1, 0.1, facts={"config": None})
    assert short_run(read_run(tmp_path / "latent-sft-1")).learning_rate is None


def test_what_learns_from_a_teacher_is_refused(tmp_path):
    make_run(tmp_path, "latent", "distilled", "distillation", 1, 0.1, facts=FACTS)
    with pytest.raises(RecordError, match="learns from distillation, of which no forecast was ever checked"):
        short_run(read_run(tmp_path / "latent-distilled-1"))


def test_only_one_kind_has_no_price_of_a_label_and_none_has_nothing(short_runs):
    run = short_run(read_run(short_runs / "latent-sft-1"))
    costs = training_costs([run], None, None, Money.of(None, None))
    assert costs["label_price"] is None and costs["short_runs"][0]["probability_within_budget"] is None
    assert training_costs([], None, None, Money.of(None, None)) is None


def test_a_run_has_no_beginning_before_its_first_evaluation(short_runs):
    run = priced_run(read_run(short_runs / "latent-sft-1"))
    assert run.useful_flops == pytest.approx([0.5 * flops for flops in run.flops]) and run.seconds == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert beginning_of(run, most_updates=0.5) is None and beginning_of(run, most_updates=2).share == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu_hour_price", "2"], "--gpu_hour_price and --gpu_flops_per_second go together"),
        (["--flop_budget", "0"], "--flop_budget must be above 0"),
        (["--short_runs", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_forecast_from_is_one_line(short_runs, capsys, words, message):
    with pytest.raises(SystemExit) as raised:
        plan_command([str(short_runs / "measured"), *words])
    assert message in f"{raised.value} {capsys.readouterr().err}"
