"""Prices of kept targets on made-up runs of which the truth is known, and their page from a packed record."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.records import RecordError
from bitsample_llm.report.prices import (
    HALF,
    NINE_TENTHS,
    TARGETS,
    PricedRun,
    mean_log_price,
    median_price,
    pack_prices,
    priced_run,
    read_prices,
)
from eval.both_regimes import both_regimes_figure
from eval.studies.price.__main__ import price_study
from eval.studies.price.cells import FORMS, cells_of, form_errors, points_of, ratio, rollouts_per_informative_update
from eval.studies.price.claims import claims_of
from eval.studies.price.sgd_noise import over_noise_ratio

BUDGET = 1e11
RECORDS = REPOSITORY / "eval" / "records"
RUNGS = {
    "latent E": ("latent", 0.1, "abc"),
    "latent C": ("latent", 0.5, "abc"),
    "latent K": ("latent", 0.95, "bc"),
    "unacquired 0.1": ("unacquired", 0.1, "uvw"),
}


def made_run(
    rung: str,
    model: str,
    arm: str,
    seed: int,
    price_flops: float,
    flops_per_sample: float = 1e8,
    spent: float = BUDGET,
    lost_at=None,
) -> PricedRun:
    """A run that gains in proportion to its FLOPs, 90 % of the bits at `price_flops`, until 5 % are left; lost again from `lost_at` on."""
    reason, p, _ = RUNGS[rung]
    flops = np.array([0.0, *np.geomspace(2e7, spent, 60)])
    gained = np.clip(0.9 * flops / price_flops, 0, 0.95)
    gained[flops >= (lost_at or math.inf)] = 0
    log2_p = math.log2(p) * (1 - gained)
    batch = 1 if arm == "sft" else 8
    settings = {"learning_rate": 3e-4 if arm == "sft" else 1e-4, "per_device_train_batch_size": batch}
    settings |= {} if arm == "sft" else {"num_generations": 8}
    return PricedRun(
        start=f"{rung} {model}",
        arm=arm,
        seed=seed,
        tags={"rung": rung, "model": model, "reason": reason},
        settings=settings,
        log2_p_before=[math.log2(p)] * 4,
        flop_budget=BUDGET,
        updates=list(range(61)),
        samples=(flops / flops_per_sample).tolist(),
        flops=flops.tolist(),
        log2_p=log2_p.tolist(),
        pass_rate=np.exp2(log2_p).tolist(),
        kl_bits=[None] * 61,
        gains_elsewhere={"shifted": 0.5},
    )


def made_runs(rollouts_per_label=lambda p: 1 / p, arms=("grpo", "rloo", "reinforce")) -> list[PricedRun]:
    """SFT pays 4 labels from every start, RL so many rollouts for each of them as told."""
    rng = np.random.default_rng(0)
    runs = []
    for rung, (_, p, models) in RUNGS.items():
        for model in models:
            for seed in (1, 2, 3):
                noise = rng.uniform(1, 1.05)
                runs.append(made_run(rung, model, "sft", seed, 4e8 * noise))
                runs += [made_run(rung, model, arm, seed, 4e8 * rollouts_per_label(p) * noise) for arm in arms]
    return runs


def test_a_price_is_that_of_the_first_evaluation_from_which_the_target_is_kept():
    run = made_run("latent E", "a", "sft", 1, 1e9)
    price, is_reached = run.price(NINE_TENTHS)
    assert is_reached and price == pytest.approx(1e9, rel=0.03)  # linear but for the last stretch
    assert run.price(NINE_TENTHS, "samples")[0] == pytest.approx(price / 1e8)
    assert not run.has_before(HALF) and made_run("latent C", "a", "sft", 1, 1e9).has_before(TARGETS[2])


def test_what_is_lost_again_is_not_reached_and_what_came_late_is_not_known_to_be_kept():
    lost = made_run("latent E", "a", "sft", 1, 1e9, lost_at=2e9)
    late = made_run("latent E", "a", "sft", 1, 0.5 * BUDGET)
    for run in (lost, late):
        bound, is_reached = run.price(NINE_TENTHS)
        assert not is_reached and BUDGET / 3.6 < bound <= BUDGET / 3
        assert run.kept_at(NINE_TENTHS) is None


def test_the_median_counts_runs_that_never_got_there():
    assert median_price([(1.0, True), (2.0, True), (9.0, False)]) == 2.0
    assert median_price([(1.0, True), (9.0, False), (9.0, False)]) is None
    assert median_price([(5.0, False)]) is None
    assert median_price([(1.0, False), (2.0, True), (3.0, True)]) == 2.0  # what ended early says nothing of what came later


def test_a_search_prefers_what_got_there_and_then_what_came_nearer():
    early, late = (made_run("latent E", "a", "sft", 1, price) for price in (1e9, 1e10))
    never = made_run("latent E", "a", "sft", 1, 1e12)
    assert mean_log_price(early) < mean_log_price(late) < mean_log_price(never)
    lost = replace(never, log2_p=[*never.log2_p[:-1], 2 * never.log2_p[0]])
    assert mean_log_price(never) < mean_log_price(lost)
    near = made_run("latent E", "a", "sft", 1, 0.5 * BUDGET)  # not known to be kept
    assert mean_log_price(near) < mean_log_price(never)


def test_the_form_that_made_the_runs_is_found():
    errors = form_errors(points_of(cells_of(made_runs()), NINE_TENTHS))
    assert errors["1/p"][0] < 0.15 and errors["1/p"][1] == 3 * (3 + 3 + 2 + 3)
    others = [errors[name][0] for name in ("essay, -log2 p / H(p)", "rollouts per informative update", "null: a constant")]
    assert min(others) > 0.3
    by_essay = form_errors(points_of(cells_of(made_runs(lambda p: -math.log2(p) / binary_entropy_bits(p))), NINE_TENTHS))
    assert by_essay["essay, -log2 p / H(p)"][0] < 0.15 < by_essay["1/p"][0]


def test_rollouts_per_informative_update_is_the_closed_form():
    cells = cells_of(made_runs())
    p_P = cells["latent E", "grpo"].p("a")
    assert rollouts_per_informative_update(cells["latent E", "reinforce"], p_P) == pytest.approx(8 / (1 - 0.9**8))
    assert rollouts_per_informative_update(cells["latent E", "grpo"], p_P) == pytest.approx(8 / (1 - 0.9**8 - 0.1**8))


def test_a_group_asks_one_problem():
    p_P = np.array([0.2, 0.8])
    reinforce = replace(
        made_run("latent E", "a", "reinforce", 1, 1e9), settings={"per_device_train_batch_size": 4, "num_generations": 2}
    )
    (cell,) = cells_of([reinforce]).values()
    silent = (0.8**2 + 0.2**2) / 2
    assert rollouts_per_informative_update(cell, p_P) == pytest.approx(4 / (1 - silent**2))


def test_a_price_after_a_state_without_a_number_is_that_of_the_evaluation():
    run = made_run("latent E", "a", "sft", 1, 1e9)
    at = run.kept_at(HALF)
    diverged = replace(run, log2_p=[-math.inf if index == at - 1 else value for index, value in enumerate(run.log2_p)])
    assert diverged.price(HALF) == (run.flops[at], True)


def test_on_the_way_is_the_logarithmic_mean_of_both_ends():
    cells = cells_of(made_runs())
    way = FORMS["1/p, on the way"](cells["latent E", "grpo"], cells["latent E", "sft"], np.array([0.01, 0.01]), 0.5)
    assert way == pytest.approx((100 - 10) / math.log(10), rel=1e-3)


def test_a_ratio_is_not_measured_where_one_pretraining_seed_never_gets_there():
    runs = [run for run in made_runs() if (run.rung, run.arm, run.model) != ("latent E", "grpo", "b")]
    runs += [made_run("latent E", "b", "grpo", seed, 1e13) for seed in (1, 2, 3)]
    cells = cells_of(runs)
    assert ratio(cells["latent E", "grpo"], cells["latent E", "sft"], NINE_TENTHS).mean is None
    assert cells["latent E", "grpo"].price_text(NINE_TENTHS).startswith("> ")
    known = [cells["latent E", "grpo"].price(model, NINE_TENTHS) for model in "ac"]
    assert known[0] < cells["latent E", "grpo"].bound(NINE_TENTHS) < (known[0] * known[1] * BUDGET) ** (1 / 3)
    assert ratio(cells["latent E", "rloo"], cells["latent E", "sft"], NINE_TENTHS).mean == pytest.approx(10, rel=0.2)


def test_under_plain_sgd_rollouts_per_label_are_held_against_noise_scales():
    runs = [made_run("latent E", model, "sft_sgd", seed, 4e8) for model in "abc" for seed in (1, 2)]
    runs += [made_run("latent E", model, "rloo_sgd", seed, 8e9) for model in "abc" for seed in (1, 2)]  # 20 rollouts a label
    cells = cells_of([*made_runs(), *runs])
    rl, sft = cells["latent E", "rloo_sgd"], cells["latent E", "sft_sgd"]

    def noise(scale: float | None) -> dict:
        arms = {"rloo_expected": {"noise_scale_in_samples": scale}, "sft_0": {"noise_scale_in_samples": 5.0}}
        return {("latent E", model): {"arms": arms} for model in "abc"}

    assert over_noise_ratio(rl, sft, HALF, noise(50.0)).mean == pytest.approx(2, rel=0.01)
    assert over_noise_ratio(rl, sft, HALF, noise(None)).mean is None
    tables = {table.title: table for table in price_study([*made_runs(), *runs], "made").tables}
    assert [row[2] for row in tables["Plain SGD in place of AdamW"].rows[1:]] == ["rloo_sgd"] and "Other arms" not in tables


def test_verdicts_follow_the_prices():
    claims = {(claim.text, claim.statistic): claim for claim in claims_of(cells_of(made_runs()))}
    more = next(claim for (text, what), claim in claims.items() if "latent E (p = 0.1), what does GRPO" in text and "90 %" in what)
    assert more.verdict == "more"
    law = next(
        claim
        for (text, what), claim in claims.items()
        if "latent E" in text and "are rollouts per label 1/p" in text and "90 %" in what
    )
    assert law.verdict == "yes, within a factor of 1.25"
    same = next(claim for (text, _), claim in claims.items() if "what does SFT pay from an unacquired start" in text)
    assert same.verdict == "the same within 1.25"
    (second,) = {claim.verdict for claim in claims.values() if claim.number == 2}
    assert second.startswith("contradicted")
    cheap = claims_of(cells_of(made_runs(lambda p: 0.5)))
    assert {claim.verdict for claim in cheap if claim.number == 2} == {"supported"}


def with_transfer(run: PricedRun, share: float, kl_bits: float) -> PricedRun:
    gained = run.log2_p[-1] - run.log2_p[0]
    return replace(run, kl_bits=[*run.kl_bits[:-1], kl_bits], gains_elsewhere={"shifted": share * gained + 0.001 * run.seed})


def test_claim_12_compares_at_the_same_gain_and_kl():
    runs = [with_transfer(run, 0.6 if run.arm == "grpo" else 0.2, 2.0) for run in made_runs()]
    latent, unacquired = [claim for claim in claims_of(cells_of(runs)) if claim.number == 12]
    assert (latent.verdict, unacquired.verdict) == ("supported", "supported") and "one digit more" in latent.text
    assert latent.estimate.mean == pytest.approx(0.4) and latent.estimate.n == 3
    lost = [replace(run, log2_p=[*run.log2_p[:-1], run.log2_p[0]]) if run.arm == "grpo" and run.seed == 1 else run for run in runs]
    assert next(claim for claim in claims_of(cells_of(lost)) if claim.number == 12).estimate.mean == pytest.approx(0.4, abs=0.01)
    far = [with_transfer(run, 0.5, 3.0) if run.arm == "grpo" else run for run in runs]
    assert not [claim for claim in claims_of(cells_of(far)) if claim.number == 12]


def test_the_page_of_a_packed_record_is_that_of_its_runs(tmp_path):
    runs = made_runs()
    pack_prices(runs, tmp_path / "runs")
    again = read_prices([tmp_path / "runs"])
    assert again == runs
    study = price_study(again, "made here")
    assert "1/p" in study.tables[3].rows[1][0] and study.answer.startswith("To gain and keep 90 %")
    for picture in study.all_pictures:
        assert picture.draw().axes
    with pytest.raises(RecordError, match="no run directory"):
        read_prices([tmp_path])


def test_both_regimes_are_drawn_from_two_results():
    (record,) = sorted(RECORDS.glob("*_exchange"))[-1:]
    exchange = json.loads((record / "results.json").read_text())
    price = price_study(made_runs(), "made here").results
    left, right = both_regimes_figure(exchange, price).axes
    drawn = [line for line in right.get_lines() if line.get_markersize() == 7]
    assert len(left.get_lines()) > 10 and len(drawn) == 3 * 4  # arms of RL, starts


def test_a_recorded_run_is_priced_as_it_was_recorded(tmp_path):
    from made_runs import make_run  # noqa: PLC0415

    facts = {"config": {"study": {"flop_budget": 1e11}, "training": {"learning_rate": 1e-4}}}
    recorded = make_run(tmp_path, "base", "sft", "sft", 1, 2.0, facts=facts)
    run = priced_run(recorded.run)
    assert run.log2_p == pytest.approx((-recorded.curve.surprisal_bits).tolist())
    assert run.flops == recorded.curve.flops.tolist() and run.pass_rate == pytest.approx(recorded.curve.pass_rate.tolist())
    assert run.settings["learning_rate"] == 1e-4 and set(run.kl_bits) == {None}


def test_a_second_program_finds_the_prices_of_the_record():
    record = RECORDS / "2026-11-27_price"
    program = [sys.executable, "-m", "eval.studies.price.check", record / "runs", "--results", record / "results.json"]
    done = subprocess.run(list(map(str, program)), capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "179 prices, largest relative difference" in done.stdout
