"""Pools of problems that do not overlap with what is held out of them, and the page of runs whose savings are known."""

import json
import math

import numpy as np
import pytest

from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, pack_prices
from bitsample_llm.tasks import Problem
from eval.studies.curriculum.__main__ import curriculum_study, read
from eval.studies.curriculum.claims import DRAW_FLOPS, TRAIN_FLOPS, predicted_factor
from eval.studies.curriculum.make_by_first_digit import facts
from eval.studies.curriculum.make_pools import LEVELS, SPLITS, main

PRICE = {"target": 2e10, "uniform": 1e10, "thompson": 8e9, "exact_half": 5e9, "probe": 4e10, "sft": 1e9, "sft_exact_half": 2e9}


def made_run(rung: str, model: str, arm: str, seed: int, p: float = 0.01) -> PricedRun:
    """A run that gains in proportion to its FLOPs until it has all but a twentieth of the bits; 90 % of them at its price."""
    flops = np.array([0.0, *np.geomspace(2e7, 2e11, 80)])
    gained = np.clip(0.9 * flops / (PRICE[arm] * (1 + 0.01 * seed)), 0, 0.95)
    log2_p = math.log2(p) * (1 - gained)
    settings = {"learning_rate": 1e-4, "per_device_train_batch_size": 8} | ({} if arm.startswith("sft") else {"num_generations": 8})
    amounts = {"updates": (flops / 1e8).tolist(), "samples": (flops / 1e8).tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [None] * len(flops)}
    about = {"tags": {"rung": rung, "model": model, "reason": "latent"}, "settings": settings, "flop_budget": 2e11}
    return PricedRun(
        f"{rung} {model}", arm, seed, log2_p_before=[math.log2(p)] * 4, gains_elsewhere={}, **about, **amounts, **state
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of a packed record."""
    runs = [made_run("latent G", model, arm, seed) for model in "ab" for arm in PRICE for seed in (1, 2, 3)]
    pack_prices(runs, tmp_path_factory.mktemp("record"))
    folder = tmp_path_factory.getbasetemp() / "packed"
    pack_prices(runs, folder)
    return read([folder])


def test_factors_are_the_quotients_of_the_prices_and_the_page_says_so(found):
    for arm, plain in (("exact_half", "target"), ("probe", "target"), ("sft_exact_half", "sft")):
        for target in (HALF, NINE_TENTHS):
            estimate = found.factor("latent G", arm, target).estimate
            assert estimate.mean == pytest.approx(PRICE[plain] / PRICE[arm], rel=0.02) and estimate.n == 2
            assert estimate.interval[0] <= estimate.mean <= estimate.interval[1]
    study = curriculum_study(found, "made")
    assert "4 [" in study.answer and "2.5 [" in study.answer
    verdicts = {claim.text: claim.verdict for claim in study.claims}
    assert verdicts["Asking for p = .5 saves FLOPs of RL."] == "supported"
    assert verdicts["Asking for p = .5 hardly saves FLOPs of SFT."] == "supported"  # it costs twice as much: the essay is right
    assert verdicts["Are probing rollouts worth their price, compared with the pool in turn?"] == "no"
    assert [row[1] for row in study.table.rows[1:]] == [
        *("the target alone", "the pool in turn", "Thompson sampling", "4 probing rollouts", "exact p nearest .5"),
        *("SFT, the target alone", "SFT, exact p nearest .5"),
    ]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_the_closed_form_is_the_mean_price_of_an_informative_group_on_the_way():
    run = made_run("latent G", "a", "target", 1)
    ways = np.exp(np.linspace(np.log(0.01), np.log(0.1), 20001))  # half of the bits of p = .01
    wait = np.mean(1 / (1 - (1 - ways) ** 8 - ways**8))
    expected = (DRAW_FLOPS * wait + TRAIN_FLOPS) / (DRAW_FLOPS / (1 - 2 * 0.5**8) + TRAIN_FLOPS)
    assert predicted_factor(run, run, HALF) == pytest.approx(expected, rel=1e-3)


def test_what_separate_skills_allow_follows_from_their_pass_rates():
    problems = [Problem(str(place), f"E{digit}0+11<", "1", 2) for place, digit in enumerate((1, 1, 2, 3))]
    found = facts(np.array([0.4, 0.6, 0.5, 0.1]), problems, np.array([0.5, 0.5]))
    assert found["p_by_first_digit"] == pytest.approx({1: 0.5, 2: 0.5, 3: 0.1})
    q = np.array([0.48, 0.5, 0.18])  # 2p(1 - p), of the two problems of the first skill a mean
    assert found["groups of 2"]["q_by_first_digit"] == pytest.approx(q.tolist())
    assert found["groups of 2"]["largest q over mean q"] == pytest.approx(0.5 / q.mean())
    assert found["groups of 2"]["largest 1/q over mean 1/q"] == pytest.approx((1 / 0.18) / (1 / q).mean())


def operands(prompt: str) -> frozenset[str]:
    return frozenset(prompt.strip("ABCDEFGHIJKL<=").split("+"))


def test_no_operand_pair_of_a_pool_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_pools", str(tmp_path)])
    main()
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    names = {
        target: ["pool", "target", "heldout", *(f"only_{mark}" for mark, _ in levels if target in "GH")]
        for target, levels in LEVELS.items()
    }
    assert rows.keys() == {f"{target}-{kind}-{name}" for target in LEVELS for kind in SPLITS for name in names[target]}
    heldout = {operands(row["prompt"]) for name, of_file in rows.items() if name.endswith("heldout") for row in of_file}
    asked = {operands(row["prompt"]) for name, of_file in rows.items() if not name.endswith("heldout") for row in of_file}
    assert heldout and asked and not heldout & asked
    for name, of_file in rows.items():
        levels = {row["level"] for row in of_file}
        assert levels <= set(range(1, 10)) if name.startswith("gates") else levels <= set(range(len(LEVELS[name.split("-")[0]])))
        if name.endswith("target") and not name.startswith("gates"):
            assert levels == {len(LEVELS[name.split("-")[0]]) - 1}  # the target is the hardest level
