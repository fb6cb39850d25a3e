"""The slope of a price against the length of the rollout, on made-up runs of which the truth is known, and by a second program."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.report.prices import HALF, PricedRun, pack_prices
from eval.studies.price.length import length_study
from eval.studies.price.length_slopes import TOKENS, Lengths, at_one_setting

RECORD = REPOSITORY / "eval" / "records" / "2026-11-30_length"


def made_run(model: str, answer_format: str, arm: str, seed: int, price_flops: float, spent: float = 1e12) -> PricedRun:
    """A run that has half of the bits at `price_flops` and gains in proportion to its FLOPs, at one pass rate of .1."""
    flops = np.array([0.0, *np.geomspace(1e6, spent, 400)])
    log2_p = math.log2(0.1) * (1 - np.clip(0.5 * flops / price_flops, 0, 0.95))
    settings = {"learning_rate": 1e-4, "per_device_train_batch_size": 1 if arm == "sft" else 2, "answer_format": answer_format}
    settings |= {} if arm == "sft" else {"num_generations": 2}
    return PricedRun(
        start=f"x {model}",
        arm=arm,
        seed=seed,
        tags={"rung": answer_format, "model": model, "reason": "latent", "part": "length"},
        settings=settings,
        log2_p_before=[math.log2(0.1)] * 4,
        flop_budget=spent,
        updates=list(range(len(flops))),
        samples=(flops / TOKENS[answer_format]).tolist(),
        flops=flops.tolist(),
        log2_p=log2_p.tolist(),
        pass_rate=np.exp2(log2_p).tolist(),
        kl_bits=[None] * len(flops),
        gains_elsewhere={},
    )


def made_runs(slopes: dict[str, float]) -> list[PricedRun]:
    """Prices of SFT grow as the tokens; of RL by a power of them more, which is given for each pretraining seed."""
    rng = np.random.default_rng(0)
    return [
        made_run(model, name, arm, seed, 1e7 * TOKENS[name] ** (1 + (arm != "sft") * slope) * rng.uniform(0.98, 1.02))
        for model, slope in slopes.items()
        for name in ("reversed", "restated4", "restated16")
        for arm in ("sft", "grpo", "reinforce")
        for seed in (1, 2, 3)
    ]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("eval.studies.price.length_slopes.NUM_DRAWS", 400)


def test_the_verdict_follows_the_slope():
    claims = {slope: length_study(made_runs({"a": slope, "b": slope}), "made here").claims for slope in (0.0, 0.7, -0.7)}
    assert {slope: {claim.verdict for claim in of} for slope, of in claims.items()} == {
        0.0: {"no growth"},
        0.7: {"grows"},
        -0.7: {"falls"},
    }
    assert claims[0.7][0].estimate.mean == pytest.approx(0.7, abs=0.02)
    apart = length_study(made_runs({"a": 0.0, "b": 0.7}), "made here")
    assert {claim.verdict.split(":")[0] for claim in apart.claims} == {"undecided"}
    assert apart.results["slopes"]["FLOPs per sample, SFT"]["mean"] == pytest.approx(1)
    assert apart.main.draw().axes


def test_a_price_that_a_draw_does_not_know_widens_the_slope_on_its_own_side():
    runs = [run for run in made_runs({"a": 0.0}) if (run.settings["answer_format"], run.arm, run.seed) != ("restated16", "grpo", 3)]
    found = Lengths([*runs, made_run("a", "restated16", "grpo", 3, 1e13)])
    slope = found.slope(*((arm, found.log_price(arm, HALF)) for arm in ("grpo", "sft")))
    assert slope.estimate.mean == pytest.approx(0, abs=0.02) and slope.estimate.interval[1] == math.inf
    assert slope.estimate.interval[0] == pytest.approx(0, abs=0.05)
    never = Lengths([*runs, *(made_run("a", "restated16", "grpo", seed, 1e13) for seed in (3, 4, 5))])
    assert never.slope(*((arm, never.log_price(arm, HALF)) for arm in ("grpo", "sft"))).estimate.mean is None


def test_the_one_setting_is_that_of_its_own_arms_and_of_cells_that_chose_it():
    chosen = made_run("a", "reversed", "grpo", 1, 1e8)
    other = replace(chosen, settings=chosen.settings | {"learning_rate": 3e-4})
    added = replace(chosen, arm="grpo_same", seed=2)
    assert [(run.arm, run.seed) for run in at_one_setting([chosen, other, added])] == [("grpo", 1), ("grpo", 2)]


def second_program(runs, results) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "eval.studies.price.check_length", runs, "--results", results]
    return subprocess.run(list(map(str, program)), capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_a_second_program_finds_the_slopes_of_the_record():
    done = second_program(RECORD / "runs", RECORD / "results.json")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "37 slopes compared" in done.stdout


def test_the_second_program_says_where_a_slope_differs(tmp_path):
    pack_prices(made_runs({"a": 0.2}), tmp_path / "runs")
    results = {"slopes": json.loads(json.dumps(length_study(made_runs({"a": 0.2}), "made here").results["slopes"]))}
    for change, status in ((0.0, 0), (0.01, 1)):
        results["slopes"]["FLOPs, GRPO over SFT, half of the bits"]["mean"] += change
        (tmp_path / "results.json").write_text(json.dumps(results))
        assert second_program(tmp_path / "runs", tmp_path / "results.json").returncode == status
