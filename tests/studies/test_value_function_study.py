"""The page of the value function, of runs whose savings, verdicts and values are known."""

import math

import numpy as np
import pytest

from bitsample_llm.report.prices import HALF, PricedRun, pack_prices
from bitsample_llm.report.stops import StopRun, calibration, lost_passes, pack_stops
from eval.studies.value_function.__main__ import read, value_study
from eval.studies.value_function.claims import SPOKEN, predicted_factors

PRICE = {
    "plain": 2e10,
    "first_error": 1.4e10,
    "low_value": 1.6e10,
    "as_others": 4e10,
    "run_on": 2e10,
    "baseline": 3e10,
    "both": 3e10,
}
STEPS = [0.5, 0.5, 1.0, 1.0]  # pass rates of the tokens of every answer


def made_run(model: str, arm: str, seed: int) -> PricedRun:
    """A run that gains in proportion to its FLOPs until it has all but a twentieth of the bits."""
    flops = np.array([0.0, *np.geomspace(2e7, 2e11, 80)])
    gained = np.clip(0.5 * flops / (PRICE[arm] * (1 + 0.01 * seed)), 0, 0.95)
    log2_p = math.log2(0.25) * (1 - gained)
    samples = flops / (5e8 if arm == "first_error" else 1e9)
    amounts = {"updates": (flops / 1e8).tolist(), "samples": samples.tolist(), "flops": flops.tolist()}
    state = {"log2_p": log2_p.tolist(), "pass_rate": (2**log2_p).tolist(), "kl_bits": [None] * len(flops)}
    about = {"tags": {"rung": "restated C", "model": model}, "settings": {"learning_rate": 1e-4}, "flop_budget": 2e11}
    return PricedRun("restated C", arm, seed, log2_p_before=[-2.0] * 4, gains_elsewhere={}, **about, **amounts, **state)


def made_stops(model: str, arm: str, seed: int) -> StopRun:
    """A value that tells nothing at the first token and everything from the middle on; one pass in eight falls below the threshold."""
    line = {
        **{"threshold": 0.1, "num_tokens": [4] * 16, "passed": [True] * 8 + [False] * 8, "ends_after": [1, *[None] * 15]},
        "values": [[0.5, 1.0, None]] * 8 + [[0.5, 0.0, None]] * 8,
    }
    flops = {"prefill": 1e9, "decode": 4e9, "train_forward": 5e9, "train_backward": 1e10, "reward_model": 1e8, "total": 2.01e10}
    noted = [line | {"step": step} for step in range(10)] if arm in ("low_value", "as_others", "run_on", "baseline", "both") else []
    return StopRun("restated C", model, arm, seed, flops, 100, 50, 4.0, 0.0, [np.log2(STEPS).tolist()] * 4, noted)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The runs of a packed record."""
    folder = tmp_path_factory.mktemp("record")
    names = [(model, arm, seed) for model in "ab" for arm in SPOKEN for seed in (1, 2, 3)]
    pack_prices([made_run(*name) for name in names], folder)
    pack_stops([made_stops(*name) for name in names], folder)
    return read([folder])


def test_factors_and_verdicts_are_those_of_the_prices(found):
    for arm in ("first_error", "as_others"):
        assert found.factor("restated C", arm, HALF).estimate.mean == pytest.approx(PRICE["plain"] / PRICE[arm], rel=0.02)
    study = value_study(found, "made")
    verdicts = {claim.text.split(",")[0]: claim.verdict for claim in study.claims}
    assert verdicts["An ideal value function saves at least half of what is predicted"] == "supported"
    assert verdicts["Does an end by chance save FLOPs?"] == "no"
    assert verdicts["Is a low value a better end than chance?"] == "yes"
    assert verdicts["Does the value explain verdicts (first token)?"] == "no"
    assert verdicts["Does the value explain verdicts (half)?"] == "yes"
    assert verdicts["Are fewer than a tenth of the passes lost?"] == "no"
    assert [row[1] for row in study.table.rows[1:]] == list(SPOKEN.values())
    ends = next(table for table in study.tables if table.title == "What the ends save")
    assert [row[4] for row in ends.rows[1:3]] == ["1", "2"]
    for picture in study.all_pictures:
        assert picture.draw().axes


def test_a_closed_form_by_hand(found):
    """One token in two right, twice: p = .25 and 1 + .5 + .25 + .25 of 4 tokens at the start, and p^(1 - s) on the way."""
    run = found.stops_of("restated C", "plain")[0]
    ways = (np.arange(20000) + 0.5) / 20000 / 2
    p, right = 0.25 ** (1 - ways), 0.5 ** (1 - ways)
    q = 1 - p**8 - (1 - p) ** 8
    prefill, decode, update = 1e7, 4e7, 3e8
    plain = np.mean((prefill + decode) / q + update)
    drawn = (1 + right + 2 * right**2) / 4
    forms = predicted_factors(run, HALF)
    assert forms["first_error"] == pytest.approx(plain / np.mean((prefill + decode * drawn) / q + update), rel=1e-3)
    assert forms["low_value"] == pytest.approx(plain / np.mean((prefill + decode * (0.25 + 0.75 * drawn)) / q + update), rel=1e-3)
    assert forms["baseline"] == pytest.approx(plain / np.mean((prefill + decode + update) / q), rel=1e-3)


def test_calibration_is_of_the_rollouts_that_got_to_a_place():
    runs = [made_stops("a", "run_on", seed) for seed in (1, 2)]
    first, middle = (calibration(runs, place, half=1) for place in (0, 1))
    assert (first.num, first.squared, first.gap) == (2 * 5 * 16, 0.25, 0.0)
    assert first.explained.mean == 0 and middle.explained.mean == 1 and middle.squared == 0
    assert calibration(runs, 2, 1) is None
    lost = lost_passes(runs)
    assert (lost.mean, lost.n) == (1 / 8, 2 * 10 * 8)
    assert lost_passes([made_stops("a", "plain", 1)]).mean is None
