"""The forecast study on made-up runs whose law is known, and what it left in the library."""

import json
import math

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.report.plan.forecast import CALIBRATION, Law
from bitsample_llm.report.prices import HALF, PricedRun, read_prices
from eval.studies.forecast.__main__ import calibration_of, forecast_study
from eval.studies.forecast.noise_features import forms_with, with_noise
from eval.studies.forecast.observed import (
    FORMS,
    LAW,
    fitted_law,
    observed_beginnings,
    told_by_law,
    told_left_out,
)

TRUE = Law(0.2, 0.4, 0.0)


def made_run(start: str, arm: str, rng, slope: float | None = None, last: float = 400.0, **tags) -> PricedRun:
    """A run that gains bits at a constant rate until update 20, and then so that half of them cost what the law says, give or take."""
    slope = 10 ** rng.uniform(-3.3, -2.0) if slope is None else slope  # share of the bits per update
    half = max(0.5 / slope * math.exp(rng.normal(TRUE.log_factor, TRUE.log_sd)), 21.0)
    updates = np.array([0.0, 4, 8, 20, *np.geomspace(21, last, 60)])
    later = 20 * slope + (0.5 - 20 * slope) * (updates - 20) / (half - 20)
    share = np.minimum(np.where(updates <= 20, slope * updates, later), 1.0)
    return PricedRun(
        start=start,
        arm=arm,
        seed=1,
        tags={"reason": "latent", "rung": start, "model": "a"} | tags,
        settings={"learning_rate": 1e-4},
        log2_p_before=[-4.0, -4.5],
        flop_budget=None,
        updates=updates.tolist(),
        samples=updates.tolist(),
        flops=(updates * 1e9).tolist(),
        log2_p=(-4 * (1 - share)).tolist(),
        pass_rate=np.exp2(-4 * (1 - share)).tolist(),
        kl_bits=[None] * len(updates),
        gains_elsewhere={},
    )


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    return [made_run(f"start {n}", arm, rng, last=3000.0) for n in range(40) for arm in ("sft", "grpo")]


def test_the_law_is_found_again_with_prices_that_are_bounds(runs):
    observed = observed_beginnings(runs, "labels", [20])
    assert 10 < sum(one.is_known for one in observed) < len(observed) == 40  # some never get there, or cannot show that it is kept
    law = fitted_law(observed)
    assert law.log_factor == pytest.approx(TRUE.log_factor, abs=0.25) and law.log_sd == pytest.approx(TRUE.log_sd, rel=0.4)
    only_known = [one for one in observed if one.is_known]
    assert fitted_law(only_known).log_factor < law.log_factor  # the slow ones are missing there


def test_a_start_says_nothing_of_its_own_forecast(runs):
    rest = [run for run in runs if run.start != "start 0"]
    told = []
    for seed in (1, 2):  # the same beginning, another price
        one = made_run("start 0", "grpo", np.random.default_rng(seed), slope=0.004, last=3000.0)
        told.append(told_left_out(observed_beginnings([one, *rest], "rollouts", [20])))
    assert told[0].y_N[0] != told[1].y_N[0]
    assert told[0].mean_N[0] == pytest.approx(told[1].mean_N[0]) and told[0].sd_N[0] == pytest.approx(told[1].sd_N[0])
    assert told[0].mean_N[1] != told[1].mean_N[1]  # of the others it does say something


def test_where_the_law_is_true_it_is_as_sure_as_it_says_and_beats_the_rest(runs):
    observed = observed_beginnings(runs, "labels", [20])
    scores = {form: told_left_out(observed, FORMS.get(form)).scores() for form in (LAW, *FORMS)}
    assert 0.65 < scores[LAW]["coverage"] <= 0.95 and scores[LAW]["brier"] < scores[LAW]["brier_of_the_rate"]
    assert all(scores[LAW]["log_score"] > scores[form]["log_score"] for form in ("mean price", "1/p", "reason"))
    surer = told_by_law(observed, Law(TRUE.log_factor, TRUE.log_sd / 10, 0.0)).scores()
    assert surer["coverage"] < 0.3 and surer["log_score"] < scores[LAW]["log_score"]


def test_the_page_has_a_verdict_on_new_starts_only_where_there_are_some(runs):
    new = [
        made_run(f"new {n}", arm, np.random.default_rng(n), last=3000.0, part="new") for n in range(8) for arm in ("sft", "grpo")
    ]
    study = forecast_study([*runs, *new], "made")
    assert len(study.claims) == 2 and all(claim.verdict in ("held", "failed") for claim in study.claims)
    assert not forecast_study(runs, "made").claims


def test_noise_tells_of_prices_where_it_makes_them(runs):
    priced = [run for run in runs if run.arm == "sft"]
    noise = {}
    for run in priced[:-1]:  # at one start it was not measured
        scale = {"noise_scale_in_samples": run.price(HALF)[0] ** 2}
        noise[run.rung, run.model] = {"arms": {"sft_0": scale}, "coherence": {"log_p": 0.5}}
    noise[priced[0].rung, priced[0].model]["arms"]["sft_0"]["noise_scale_in_samples"] = None  # no more signal than noise
    observed = with_noise(observed_beginnings(runs, "labels", [20]), noise, "labels")
    assert len(observed) == 38
    scores = {name: told_left_out(observed, form).scores() for name, form in forms_with(noise, "labels").items()}
    assert scores["noise"]["rms_error"] < 0.1 < scores["mean price"]["rms_error"]
    assert scores["beginning and noise"]["log_score"] > scores[LAW]["log_score"]


@pytest.mark.slow
def test_what_the_plan_reads_is_made_from_the_records():
    kept = json.loads(CALIBRATION.read_text())
    folders = [REPOSITORY / folder for folder in kept.pop("made_by").split()[4:]]
    made = json.loads(json.dumps(calibration_of(read_prices(folders))))
    for kind, law in made["laws"].items():
        assert law == pytest.approx(kept["laws"][kind], rel=1e-3)
        assert made["scores"][kind] == pytest.approx(kept["scores"][kind], rel=1e-2)
