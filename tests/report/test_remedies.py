"""Factors of remedies against ratios known by hand."""

import numpy as np
import pytest

from bitsample_llm.report.remedies import Prices, factor, price_text

TEN = Prices({"a": [(10.0, True)] * 3, "b": [(20.0, True)] * 3})
TWO = Prices({"a": [(2.0, True)] * 3, "b": [(5.0, True)] * 3})


def test_a_factor_is_the_ratio_of_medians_over_pretraining_seeds():
    found = factor(TEN, TWO)
    assert found.estimate.mean == pytest.approx(np.sqrt(5 * 4)) and found.estimate.values == (5.0, 4.0)
    assert found.estimate.interval == (
        pytest.approx(4.0),
        pytest.approx(5.0),
    )  # training seeds agree: the pretraining seeds are what is drawn
    assert factor(TWO, TEN).estimate.mean == pytest.approx(1 / np.sqrt(20))
    assert price_text(TEN, 0.1) == "1.41" and TEN.kept_text() == "6 of 6"


def test_what_has_no_price_bounds_the_factor():
    never = Prices({"a": [(100.0, False)] * 3, "b": [(100.0, False)] * 3})
    assert factor(never, TWO).text() == f"> {np.sqrt(50 * 20):.3g}"
    assert factor(TWO, never).text() == "< 0.0316"
    assert factor(never, never).text() == "–" and price_text(never) == "> 100"
    assert factor(TEN, Prices({"c": [(1.0, True)]})).text() == "–"


def test_the_interval_holds_runs_that_got_lost():
    unsure = Prices({"a": [(2.0, True), (2.0, True), (2.0, True), (9.0, False), (9.0, False)]})
    low, high = factor(Prices({"a": [(10.0, True)] * 5}), unsure).estimate.interval
    assert low == 0 and high == pytest.approx(5)
    lost = Prices({"a": [(10.0, True)] * 3 + [(99.0, False)] * 2, "b": [(10.0, True)] * 5})
    found = factor(lost, Prices({"a": [(2.0, True)] * 5, "b": [(2.0, True)] * 3 + [(9.0, False)] * 2}))
    assert found.estimate.mean == pytest.approx(5) and found.estimate.interval == (0, np.inf)
    assert found.text() == "5 [0, ∞]" and found.estimate.fields()["interval"] == [0.0, None]  # JSON knows no infinity


def test_the_interval_covers_the_truth():
    """Of ratios of log-normal prices with the factor 3, at one pretraining seed."""
    rng, hits = np.random.default_rng(0), 0
    for repetition in range(100):
        arms = [Prices({"a": [(float(value), True) for value in np.exp(rng.normal(mean, 0.4, size=8))]}) for mean in (np.log(3), 0)]
        low, high = factor(*arms, seed=repetition, num_draws=300).estimate.interval
        hits += low <= 3 <= high
    assert hits >= 85
