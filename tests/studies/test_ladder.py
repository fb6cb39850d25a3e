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
from eval.studies.ladder.__main__ import ladder_study
from eval.studies.ladder.rungs import Ladder, NoiseAt, read_ladder

SEEDS = (1, 2, 3)


def noise_at(rung: str, pass_rate: float, scales: dict[str, float | None], model: str = "a") -> NoiseAt:
    arms = {
        name: {"noise_scale_in_samples": scale, "interval_in_samples": None if scale is None else [0.9 * scale, 1.1 * scale]}
        for name, scale in scales.items()
    }
    coherence = {"log_p": 0.9, "mean_p": 0.9}
    tags = {"reason": "latent", "rung": rung, "model": model}
    at = {"start": f"{rung} {model}", "tags": tags, "mean_pass_rate": pass_rate, "num_prompts": 64}
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
        (-0.1, "undecided: grpo is not known to have gained a bit, so nothing was near the ceiling"),
    ],
)
def test_claim_1_is_not_supported_by_an_arm_that_lost_bits(tmp_path, gain, verdict):
    runs = [make_run(tmp_path, "own draws", "grpo", "rl", seed, gain * (1 + 0.01 * seed)) for seed in SEEDS]
    arms = arms_of(runs)
    ceiling(arms, 8.0)
    (claim,) = claims.claim_1(Ladder({"memorise": arms}))
    assert claim.verdict == verdict
    assert claim.estimate.mean == pytest.approx(4 * 4 * gain * 1.02 / 8)


def test_claim_1_cannot_be_tested_by_labels(tmp_path):
    arms = arms_of([make_run(tmp_path, "own draws", "sft", "sft", seed, 0.1 * (1 + 0.01 * seed)) for seed in SEEDS])
    ceiling(arms, 8.0)
    assert claims.claim_1(Ladder({"memorise": arms}))[0].verdict.startswith("control")


@pytest.mark.parametrize(("bend", "verdict"), [(0.0, "supported"), (1.0, "contradicted: later ones cost more")])
def test_claim_3_asks_for_the_same_flops_per_half_decade(tmp_path, bend, verdict):
    runs = []
    for model in "abc":
        for seed in SEEDS:
            tags = {"rung": "latent G", "model": model}
            run = make_run(tmp_path, f"latent G {model}", "sft_slow", "sft", seed, 0.2, steps=60, log2_start=-11.9, tags=tags)
            decades = np.log10(run.curve.pass_rate / run.curve.pass_rate[0])
            run.curve.flops[:] = 1e12 * (1 + 0.001 * seed) * (np.expm1(bend * decades) if bend else decades)
            runs.append(run)
    (claim,) = claims.claim_3(Ladder({"decades": arms_of(runs)}))
    assert claim.verdict == verdict and claim.estimate.n == 3
    assert claim.estimate.mean == pytest.approx(bend / 2, abs=0.05)


def test_claims_of_noise_compare_late_with_early():
    noise = []
    for model, factor in (("a", 1.0), ("b", 1.1), ("c", 1.2)):
        noise.append(noise_at("early", 0.06, {"rloo_expected": 100.0, "sft_0": 8.0, "sft_0.05": 9.0, "sft_0.2": 12.0}, model))
        late = {"rloo_expected": 20.0 * factor, "sft_0": 2.0 * factor, "sft_0.05": 90.0}
        noise.append(noise_at("late", 0.87, late | {"sft_0.2": None if model == "c" else 200.0}, model))
    (rloo,) = claims.claim_4(Ladder({}, noise))  # of grpo nothing was measured, so nothing is said
    assert rloo.verdict == "supported" and "rloo, latent" in rloo.statistic and rloo.estimate.n == 3
    assert rloo.estimate.values == pytest.approx((0.2, 0.22, 0.24))
    assert claims.claim_4(Ladder({}, noise[:2]))[0].verdict.endswith("for 1 of 1 pretraining seeds")
    clean, little, much = claims.claim_5(Ladder({}, noise))
    assert clean.estimate.values == pytest.approx((0.25, 0.275, 0.3)) and clean.verdict == "supported"
    assert little.verdict == "supported" and much.estimate.n == 2  # at one seed no scale was measured: it is not guessed


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
    for model in "abc":
        tags = {"reason": "unacquired", "rung": "unacquired", "model": model}
        for seed in range(7):
            for arm, regime, gain in (("sft", "sft", 2.2), ("grpo", "rl", (final + 10) / 4), ("coin", "rl", 0.0)):
                options = {"tags": tags, "choices": {"reward": "random"} if arm == "coin" else {}}
                runs.append(make_run(tmp_path, f"unacquired {model}", arm, regime, seed, gain, log2_start=-10.0, **options))
    sft, coin, grpo = claims.claim_9(Ladder({"acquire": arms_of(runs)}))
    assert grpo.verdict == verdict and grpo.estimate.n == 84  # four problems in each of 21 runs
    assert coin.verdict.startswith("control") and sft.verdict.startswith("control")
    assert sft.estimate.mean == 1.0  # labels of the same problems


def write_parts(folder) -> list[str]:
    """SFT and RL from an unacquired rung, and noise at a latent one."""
    tags = {"part": "acquire", "reason": "unacquired", "rung": "unacquired 0.03", "model": "a"}
    splits = {"marked": (-3.9, 0.0)}
    for seed in SEEDS:
        for arm, regime in (("sft", "sft"), ("grpo", "rl")):
            make_run(folder / "acquire", "unacquired 0.03 a", arm, regime, seed, 0.5, splits=splits, tags=tags)
    (folder / "noise" / "x").mkdir(parents=True)
    for name, content in (("noise", noise_at("latent E", 0.06, {"sft_0": 5.0}).measured), ("manifest", {})):
        (folder / "noise" / "x" / f"{name}.json").write_text(json.dumps(content))
    return [str(folder / "acquire"), str(folder / "noise")]


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_its_page_is_whole_and_legible(browser, tmp_path, screen):
    page = write_page(ladder_study(read_ladder(write_parts(tmp_path)), "test"), tmp_path / "report")
    assert faults_of(browser, page, screen) == []


def test_the_page_is_made_of_the_parts_that_were_run_and_says_nothing_of_the_others(tmp_path):
    study = ladder_study(read_ladder(write_parts(tmp_path)), "test")
    assert [row[0] for row in study.table.rows[1:]] == ["unacquired 0.03 a"]
    assert [picture.name for picture in (study.main, *study.pictures)] == ["noise", "pass_at_k"]
    assert {claim.number for claim in study.claims} == {9} and "1 tests" in study.answer
    assert not any("not run" in cell for table in study.tables for row in table.rows for cell in row)
    json.dumps(study.results, allow_nan=False)


def test_runs_of_no_part_and_folders_without_a_finished_run_are_refused_by_name(tmp_path):
    make_run(tmp_path / "other", "latent E", "sft", "sft", 1, 1.0)
    with pytest.raises(RecordError, match="latent E-sft-1 has no tag `part`"):
        read_ladder([str(tmp_path / "other")])
    with pytest.raises(RecordError, match="is no run directory and holds none"):
        read_ladder([str(tmp_path / "absent")])
