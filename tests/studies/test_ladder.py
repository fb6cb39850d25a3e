"""The ladder's rungs and claims, from runs and noise whose numbers are known."""

import json

import numpy as np
import pytest
from browsing import SCREENS, faults_of
from made_runs import make_run

from bitsample_llm.records import RecordError
from bitsample_llm.report.page import write_page
from bitsample_llm.report.runs import Arm, arms_of
from eval.studies.ladder import claims
from eval.studies.ladder.__main__ import ladder_study, prices_table
from eval.studies.ladder.rungs import Ladder, NoiseAt, read_ladder

SEEDS = (1, 2, 3)
LATENT = {"marked": (-0.01, 0.0)}  # the always-right mark shows the skill
TRAINING = {"config": {"training": {"learning_rate": 0.5, "per_device_train_batch_size": 2}}}


def cell_runs(folder, start, price, reason="latent", splits=LATENT, **options) -> list:
    """SFT that gains a bit in a step of ten labels, and GRPO and RLOO that need about `price` times as many rollouts."""
    runs, options = [], {"splits": splits, "tags": {"part": "cells", "reason": reason, "ladder": "3 digits"}, **options}
    for seed in SEEDS:
        runs.append(make_run(folder, start, "sft", "sft", seed, 1.0, **options))
        for arm in ("grpo", "rloo"):
            gain = 0.5 * (1 + 0.01 * seed)
            runs.append(make_run(folder, start, arm, "rl", seed, gain, samples_per_step=10 * price * gain, **options))
    return runs


def noise_at(start: str, pass_rate: float, scales: dict[str, float | None], reason: str = "latent") -> NoiseAt:
    arms = {
        name: {"noise_scale_in_samples": scale, "interval_in_samples": None if scale is None else [0.9 * scale, 1.1 * scale]}
        for name, scale in scales.items()
    }
    coherence = {"log_p": 0.9, "mean_p": 0.9}
    at = {"start": start, "tags": {"reason": reason}, "mean_pass_rate": pass_rate, "num_prompts": 64}
    return NoiseAt(at | {"coherence": coherence, "arms": arms})


def ceiling(arms: list[Arm], bits: float) -> None:
    for arm in arms:
        for run in arm.runs:
            (run.run.run_dir / "ceiling.json").write_text(json.dumps({"problems": 4, "ceiling_bits": bits}))


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (0.1, "supported"),  # 1.6 of 8 bits
        (1.0, "contradicted"),  # 16 of 8
        (-0.1, "undecided: sft is not known to have gained a bit, so nothing was near the ceiling"),
    ],
)
def test_claim_1_is_not_supported_by_an_arm_that_lost_bits(tmp_path, gain, verdict):
    runs = [make_run(tmp_path, "own draws", "sft", "sft", seed, gain * (1 + 0.01 * seed)) for seed in SEEDS]
    arms = arms_of(runs)
    ceiling(arms, 8.0)
    (claim,) = claims.claim_1(Ladder({"memorise": arms}))
    assert claim.verdict == verdict
    assert claim.estimate.mean == pytest.approx(4 * 4 * gain * 1.02 / 8)


@pytest.mark.parametrize(("bend", "verdict"), [(0.0, "supported"), (1.0, "contradicted: later ones cost more")])
def test_claim_3_asks_for_the_same_flops_per_half_decade(tmp_path, bend, verdict):
    runs = []
    for seed in SEEDS:
        tags = {"read_for": "decades"}
        run = make_run(tmp_path, "latent H", "sft_slow", "sft", seed, 0.2, steps=60, log2_start=-11.9, tags=tags)
        decades = np.log10(run.curve.pass_rate / run.curve.pass_rate[0])
        run.curve.flops[:] = 1e12 * (1 + 0.001 * seed) * (np.expm1(bend * decades) if bend else decades)
        runs.append(run)
    (claim,) = claims.claim_3(Ladder({"long": arms_of(runs)}))
    assert claim.verdict == verdict
    assert claim.estimate.mean == pytest.approx(bend / 2, abs=0.05)


def test_claims_of_noise_compare_late_with_early():
    early = noise_at("early", 0.06, {"rloo_expected": 100.0, "sft_0": 8.0, "sft_0.05": 9.0, "sft_0.2": 12.0})
    late = noise_at("late", 0.87, {"rloo_expected": 20.0, "sft_0": 2.0, "sft_0.05": 90.0, "sft_0.2": None})
    (rloo,) = claims.claim_4(Ladder({}, [early, late]))  # of grpo nothing was measured, so nothing is said
    assert rloo.verdict == "supported" and "rloo, latent" in rloo.statistic
    assert rloo.estimate.interval == pytest.approx((18 / 110, 22 / 90))
    assert claims.claim_5(Ladder({}, [early, late])) == []  # no noise scale at 0.2 late: it is not guessed
    late.measured["arms"] |= noise_at("late", 0.87, {"sft_0.2": 200.0}).measured["arms"]
    clean, little, much = claims.claim_5(Ladder({}, [early, late]))
    assert clean.estimate.mean == pytest.approx(0.25) and clean.verdict == "supported"
    assert (little.verdict, much.verdict) == ("supported", "supported")


@pytest.mark.parametrize(
    ("final", "verdict"),
    [
        (-1.0, "contradicted"),
        (-9.5, "supported"),
        (-10.5, "undecided: an arm that learns nothing scores the same, and this one is not known to have gained a bit"),
    ],
)
def test_claim_9_counts_problems_too_rare_for_their_rollouts_that_were_acquired(tmp_path, final, verdict):
    runs = []
    for seed in SEEDS:
        for arm, regime, gain in (("sft", "sft", 1.0), ("grpo", "rl", (final + 10) / 4), ("coin", "rl", 0.0)):
            options = {"tags": {"reason": "unacquired"}, "choices": {"reward": "random"} if arm == "coin" else {}}
            runs.append(make_run(tmp_path, "unacquired", arm, regime, seed, gain, log2_start=-10.0, **options))
    coin, grpo = claims.claim_9(Ladder({"long": arms_of(runs)}))
    assert grpo.verdict == verdict
    assert coin.verdict.startswith("control")
    assert "4 such problems per seed" in grpo.statistic


def test_claim_12_compares_bits_elsewhere_per_bit_gained(tmp_path):
    runs = []
    for seed in SEEDS:
        for arm, regime, factor in (("sft", "sft", 0.2), ("grpo", "rl", 0.6)):
            splits = LATENT | {"shifted": (-8.0, factor + 0.001 * seed * (arm == "grpo"))}
            runs.append(make_run(tmp_path, "latent E", arm, regime, seed, 0.5, splits=splits, tags={"reason": "latent"}))
    (claim,) = claims.claim_12(Ladder({"cells": arms_of(runs)}))
    assert claim.estimate.mean == pytest.approx(0.402)
    assert claim.verdict == "supported"
    assert "one digit more" in claim.text and "(sft 0.20)" in claim.statistic


def test_a_price_stands_beside_the_setting_it_was_paid_at(tmp_path):
    arms = arms_of(cell_runs(tmp_path, "latent E", 12, facts=TRAINING))
    table = prices_table("Prices", arms)
    sft = dict(zip(table.rows[0], table.rows[1], strict=True))
    assert (sft["learning rate"], sft["batch"], sft["seeds that gained it"]) == ("0.5", "2", "3 of 3")
    assert (sft["samples"], sft["GFLOP"], sft["rate × updates"]) == ("10", "1,000", "0.5")
    assert "no exchange rate" in table.note


def write_parts(folder) -> list[str]:
    """Cells from a latent and an unacquired rung, and noise at the latent one."""
    cell_runs(folder / "cells", "latent E", 12, facts=TRAINING)
    cell_runs(folder / "cells", "unacquired 3 digits", 12, "unacquired", {"marked": (-3.9, 0.0)}, facts=TRAINING)
    (folder / "noise" / "x").mkdir(parents=True)
    for name, content in (("noise", noise_at("latent E", 0.06, {"sft_0": 5.0}).measured), ("manifest", {})):
        (folder / "noise" / "x" / f"{name}.json").write_text(json.dumps(content))
    return [str(folder / "cells"), str(folder / "noise")]


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_its_page_is_whole_and_legible(browser, tmp_path, screen):
    page = write_page(ladder_study(read_ladder(write_parts(tmp_path)), "test"), tmp_path / "report")
    assert faults_of(browser, page, screen) == []


def test_the_page_is_made_of_the_parts_that_were_run_and_says_nothing_of_the_others(tmp_path):
    ladder = read_ladder(write_parts(tmp_path))
    study = ladder_study(ladder, "test")
    rungs = {row[0]: row[1:] for row in study.table.rows}
    assert rungs["latent E"][:4] == ["latent", "3 digits", "0.0625", "0.993"]
    assert rungs["unacquired 3 digits"][3] == "0.067" and rungs["latent E"][-1] == "0.9"
    assert [picture.name for picture in (study.main, *study.pictures)] == ["noise", "transfer", "decomposition"]
    assert study.claims == [] and "0 tests" in study.answer
    assert not any("not run" in cell for table in study.tables for row in table.rows for cell in row)
    json.dumps(study.results, allow_nan=False)


def test_runs_of_no_part_and_folders_without_a_finished_run_are_refused_by_name(tmp_path):
    make_run(tmp_path / "other", "latent E", "sft", "sft", 1, 1.0)
    with pytest.raises(RecordError, match="latent E-sft-1 has no tag `part`"):
        read_ladder([str(tmp_path / "other")])
    with pytest.raises(RecordError, match="is no run directory and holds none"):
        read_ladder([str(tmp_path / "absent")])
